"""An in-process client of the API over a fake cell; every answer it gets is checked against the contract."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Protocol

import httpx
import pytest

from tenantry.cell.api.app import build_app
from tenantry.cell.api.site import Site
from tenantry.neon.contract import operations_at
from tenantry.neon.ids import RegionId
from tenantry.testing.fake_api import DOOR
from tenantry.testing.fake_cell import FakeCell

PREFIX: Final = "/api/v2"
OFF_CONTRACT: Final = ("/set_as_primary", "/reveal_password")
"""Paths that published clients ask for in ways that the contract does not know."""


class Contract:
    """The contract's schemas, as far as it uses JSON Schema."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document

    def check(self, method: str, path: str, status: int, body: object) -> None:
        """Fails where ``body`` is not what the contract answers there with this status."""
        operation = operations_at(path).get(method)
        if operation is None:
            schema = {"$ref": "#/components/schemas/GeneralError"} if status >= 400 else {}
        else:
            responses = self._document["paths"][operation.path][method.lower()]["responses"]
            response = self._resolve(responses.get(str(status)) or responses["default"])
            if str(status) not in responses:
                assert status >= 400, f"{operation.id} may not answer {status}"
            content = response.get("content", {})
            schema = content["application/json"]["schema"] if content else None
        if schema is None:
            assert body is None, f"{method} {path} {status} has no body in the contract"
        else:
            problems = list(self._problems(schema, body, "$"))
            assert not problems, f"{method} {path} {status}: {problems}"

    def _resolve(self, node: Mapping[str, Any]) -> Mapping[str, Any]:
        while "$ref" in node:
            target: Any = self._document
            for part in node["$ref"].removeprefix("#/").split("/"):
                target = target[part]
            node = target
        return node

    def _problems(self, schema: Mapping[str, Any], value: Any, at: str) -> Any:
        schema = self._resolve(schema)
        for part in schema.get("allOf", []):
            yield from self._problems(part, value, at)
        if "oneOf" in schema:
            fitting = [part for part in schema["oneOf"] if not list(self._problems(part, value, at))]
            if len(fitting) != 1:
                yield f"{at}: fits {len(fitting)} of oneOf"
        if value is None:
            if not schema.get("nullable") and "type" in schema:
                yield f"{at}: is null"
            return
        kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float)}
        kind = schema.get("type") or ("object" if "properties" in schema else None)
        if kind and (not isinstance(value, kinds[kind]) or (isinstance(value, bool) and kind != "boolean")):
            yield f"{at}: {value!r} is no {kind}"
            return
        if "enum" in schema and value not in schema["enum"]:
            yield f"{at}: {value!r} is none of {schema['enum']}"
        if isinstance(value, dict):
            yield from self._object_problems(schema, value, at)
        if isinstance(value, list):
            for index, item in enumerate(value):
                yield from self._problems(schema.get("items", {}), item, f"{at}[{index}]")
        if isinstance(value, str):
            yield from _text_problems(schema, value, at)
        if isinstance(value, int | float) and not isinstance(value, bool):
            if value < schema.get("minimum", value) or value > schema.get("maximum", value):
                yield f"{at}: {value} is out of bounds"
            bits = {"int32": 31, "int64": 63}.get(schema.get("format", ""))
            if bits and not -(2**bits) <= value < 2**bits:
                yield f"{at}: {value} is no {schema['format']}"

    def _object_problems(self, schema: Mapping[str, Any], value: Mapping[str, Any], at: str) -> Any:
        properties = schema.get("properties", {})
        for name in schema.get("required", []):
            if name not in value:
                yield f"{at}.{name}: is missing"
        for name, item in value.items():
            if name in properties:
                yield from self._problems(properties[name], item, f"{at}.{name}")
            elif isinstance(schema.get("additionalProperties"), dict):
                yield from self._problems(schema["additionalProperties"], item, f"{at}.{name}")


def _text_problems(schema: Mapping[str, Any], value: str, at: str) -> Any:
    if "pattern" in schema and not re.search(schema["pattern"], value):
        yield f"{at}: {value!r} does not match {schema['pattern']}"
    if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
        yield f"{at}: {value!r} is too long or too short"
    match schema.get("format"):
        case "date-time":
            if not value.endswith("Z") or datetime.fromisoformat(value).tzinfo is None:
                yield f"{at}: {value!r} is no RFC 3339 time in UTC"
        case "uuid":
            if str(uuid.UUID(value)) != value:
                yield f"{at}: {value!r} is no uuid"
        case "email":
            if not re.fullmatch(r"[^@\s]+@[^@\s]+", value):
                yield f"{at}: {value!r} is no address"
        case _:
            pass


class Ask(Protocol):
    async def __call__(self, method: str, path: str, body: object = None, *, expect: int = 200, **options: Any) -> Any:
        """The answer's JSON; fails unless the status is as expected and the answer is the contract's."""
        ...


@pytest.fixture(scope="session")
def contract() -> Contract:
    return Contract(json.loads((Path(__file__).parents[2] / "data" / "neon-v2.shapes.json").read_text()))


@pytest.fixture
def cell() -> FakeCell:
    return FakeCell()


@pytest.fixture
async def client(cell: FakeCell) -> AsyncIterator[httpx.AsyncClient]:
    app = build_app(cell, Site(door=DOOR, region_id=RegionId("local")))
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app),
        base_url="http://cell",
        headers={"Authorization": f"Bearer {cell.new_key()}"},
    ) as client:
        yield client


@pytest.fixture
def ask(client: httpx.AsyncClient, contract: Contract) -> Ask:
    async def ask(method: str, path: str, body: object = None, *, expect: int = 200, **options: Any) -> Any:
        if body is not None:
            options["json"] = body
        response = await client.request(method, PREFIX + path, **options)
        assert response.status_code == expect, response.text
        assert response.headers["x-request-id"]
        answer = response.json() if response.content else None
        if not path.endswith(OFF_CONTRACT):
            contract.check(method, path.partition("?")[0], response.status_code, answer)
        if expect >= 400:
            assert answer["request_id"] == response.headers["x-request-id"]
        return answer

    return ask


@pytest.fixture
async def project(ask: Ask) -> Any:
    """A created project: the whole answer."""
    return await ask("POST", "/projects", {"project": {"name": "ACME Corp"}}, expect=201)


@pytest.fixture
def branch_path(project: Any) -> str:
    return f"/projects/{project['project']['id']}/branches/{project['branch']['id']}"


@pytest.fixture
def project_path(project: Any) -> str:
    return f"/projects/{project['project']['id']}"


@pytest.fixture
def endpoint_path(project: Any, project_path: str) -> str:
    return f"{project_path}/endpoints/{project['endpoints'][0]['id']}"
