"""schemathesis over every operation that a cell serves: no 5xx, no answer outside of its schema.

Requests are made from the contract by schemathesis, fitting and not, and sent to a real cell of their own. Most name a
project, branch or role that there is, so that they reach what lies behind the first look-up. ``SCHEMATHESIS_SEED``
chooses others, ``SCHEMATHESIS_EXAMPLES`` more of them.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis.generation import GenerationMode

from tenantry.cell.api.app import served
from tenantry.testing.throwaway import ThrowawayCell

from ..cell.api.conftest import Contract
from .conftest import CONTRACT

pytestmark = pytest.mark.timeout(300)

SEED: Final = int(os.environ.get("SCHEMATHESIS_SEED", "20261124"))
EXAMPLES: Final = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "8"))
"""Of each operation, requests that fit; and as many again that do not."""
SETTLED_SECONDS_MAX: Final = 60.0
MEANT: Final = {
    "parent_id": "branch_id",
    "source_branch_id": "branch_id",
    "target_branch_id": "branch_id",
    "owner_name": "role_name",
}
"""Fields that mean what another name means."""


def _operations() -> Mapping[str, Any]:
    """schemathesis' operations by id, of those that are served."""
    document = schemathesis.openapi.from_dict(json.loads(CONTRACT.read_text()))
    document.config.generation.update(with_security_parameters=False)
    operations = [result.ok() for result in document.get_all_operations()]
    by_id = {operation.definition.raw["operationId"]: operation for operation in operations}
    assert len(by_id) == len(operations) == 163
    return {name: by_id[name] for name in served()}


OPERATIONS: Final = _operations()


class World:
    """A cell with one of each thing in it."""

    def __init__(self, api_url: str, api_key: str) -> None:
        self.api_url = api_url
        self.headers = {"Authorization": f"Bearer {api_key}"}
        self._client = httpx.Client(base_url=api_url, headers=self.headers, timeout=60)
        self.known: dict[str, str] = {}

    def close(self) -> None:
        self._client.close()

    def _find(self, path: str) -> Any:
        """None where there is no such thing any more."""
        response = self._client.get(path)
        assert response.status_code in (200, 404), f"GET {path}: {response.status_code} {response.text}"
        return response.json() if response.status_code == 200 else None

    def _make(self, path: str, body: object = None) -> Any:
        deadline = time.monotonic() + SETTLED_SECONDS_MAX
        while (response := self._client.post(path, json=body)).status_code == 423 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert response.is_success, f"POST {path}: {response.status_code} {response.text}"
        self.settle(response.json())
        return response.json()

    def settle(self, answer: Any) -> None:
        """Waits until the operations that an answer names have ended: their project is locked until then."""
        deadline = time.monotonic() + SETTLED_SECONDS_MAX
        for begun in answer.get("operations", ()) if isinstance(answer, dict) else ():
            path, now = f"/projects/{begun['project_id']}/operations/{begun['id']}", begun
            while now["status"] in ("scheduling", "running"):
                assert time.monotonic() < deadline, f"{now} does not end"
                time.sleep(0.01)
                found = self._find(path)
                now = found["operation"] if found else {"status": "finished"}
            assert now["status"] == "finished", now

    def prepare(self) -> None:
        """Makes anew what earlier requests have taken away."""
        known = self.known
        if "project_id" not in known or self._find(f"/projects/{known['project_id']}") is None:
            known.clear()
            made = self._make("/projects", {"project": {"name": "World"}})
            known.update(project_id=made["project"]["id"], operation_id=made["operations"][0]["id"])
            known["main"] = made["branch"]["id"]
        project = f"/projects/{known['project_id']}"
        if "branch_id" not in known or self._find(f"{project}/branches/{known['branch_id']}") is None:
            body = {"branch": {}, "endpoints": [{"type": "read_write"}]}
            made = self._make(f"{project}/branches", body)
            known.update(branch_id=made["branch"]["id"], endpoint_id=made["endpoints"][0]["id"])
        branch = f"{project}/branches/{known['branch_id']}"
        if self._find(f"{project}/endpoints/{known['endpoint_id']}") is None:
            body = {"endpoint": {"branch_id": known["branch_id"], "type": "read_write"}}
            known["endpoint_id"] = self._make(f"{project}/endpoints", body)["endpoint"]["id"]
        if self._find(f"{branch}/roles/alice") is None:
            self._make(f"{branch}/roles", {"role": {"name": "alice"}})
        if self._find(f"{branch}/databases/crm") is None:
            self._make(f"{branch}/databases", {"database": {"name": "crm", "owner_name": "alice"}})
        known.update(role_name="alice", database_name="crm", db_name="crm")
        if not any(one["id"] == known.get("snapshot_id") for one in self._find(f"{project}/snapshots")["snapshots"]):
            known["snapshot_id"] = self._make(f"{branch}/snapshot")["snapshot"]["id"]
        known["org_id"] = self._find("/users/me/organizations")["organizations"][0]["id"]
        known["member_id"] = self._find(f"/organizations/{known['org_id']}/members")["members"][0]["member"]["id"]

    def key_to_revoke(self, operation_id: str) -> str:
        path = "/api_keys" if operation_id == "revokeApiKey" else f"/organizations/{self.known['org_id']}/api_keys"
        return str(self._make(path, {"key_name": "spare"})["id"])


@pytest.fixture(scope="module")
def world(new_workdir: Callable[[str], Path]) -> Iterator[World]:
    cell = ThrowawayCell(data=new_workdir("schemathesis") / "d", options=["--no-fleet"])
    try:
        target = cell.start()
        world = World(str(target.api_url), str(target.api_key))
        yield world
        world.close()
    finally:
        cell.close()


def name_what_there_is(node: Any, known: Mapping[str, str]) -> Any:
    """A body that names things which exist, wherever it names any."""
    if isinstance(node, dict):
        return {
            name: known[MEANT.get(name, name)]
            if isinstance(value, str) and MEANT.get(name, name) in known
            else name_what_there_is(value, known)
            for name, value in node.items()
        }
    return [name_what_there_is(item, known) for item in node] if isinstance(node, list) else node


def requests() -> Iterator[tuple[str, GenerationMode]]:
    """Nothing can be wrong with a request that says nothing."""
    for operation_id, operation in sorted(OPERATIONS.items()):
        yield operation_id, GenerationMode.POSITIVE
        if operation.body or any(True for _ in operation.iter_parameters()):
            yield operation_id, GenerationMode.NEGATIVE


@pytest.mark.parametrize(("operation_id", "mode"), list(requests()), ids=lambda value: getattr(value, "value", value))
def test_answers_are_the_contracts(
    world: World, neon_contract: Contract, operation_id: str, mode: GenerationMode
) -> None:
    operation = OPERATIONS[operation_id]
    world.prepare()

    @seed(SEED)
    @settings(
        max_examples=EXAMPLES,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode), stranger=st.sampled_from([False, False, False, True]))
    def send(case: Any, stranger: bool) -> None:
        if not stranger:
            case.path_parameters.update({k: world.known[k] for k in case.path_parameters if k in world.known})
            if isinstance(case.query, dict):
                case.query.update({k: world.known[k] for k in case.query if k in world.known})
            case.body = name_what_there_is(case.body, world.known)
        if "key_id" in case.path_parameters and (not stranger or operator_key(case.path_parameters["key_id"])):
            case.path_parameters["key_id"] = world.key_to_revoke(operation_id)
        response = case.call(base_url=world.api_url, headers=world.headers, timeout=60)
        status, answer = response.status_code, response.json() if response.content else None
        try:
            if status >= 500:
                assert (status, answer["code"]) == (501, "NOT_IMPLEMENTED")
            assert status not in (401, 403)
            operation.validate_response(response, case=case)
            neon_contract.check(case.method, re.sub(r"{[^}]+}", "x", operation.path), status, answer)
            if status < 400 and case.method != "GET":
                world.settle(answer)
        except Exception as error:
            sent = response.request
            error.add_note(f"{sent.method} {sent.url} {sent.body!r:.2000} -> {status} {response.text:.2000}")
            raise

    send()


def operator_key(key_id: object) -> bool:
    """Whether it is the one that this test has come in with."""
    try:
        return float(str(key_id)) == 1
    except ValueError:
        return False
