"""GitHub and Vercel as far as their APIs are used: real servers on loopback that check every call and open every box.

What they answer, and what they refuse, is as their references say. A call that they would not know is kept in
``surprises``, which a test must find empty.
"""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Self
from urllib.parse import parse_qs, unquote, urlsplit

from nacl.public import PrivateKey, SealedBox

Reply = tuple[int, object]


class StandIn:
    """A server that answers by the methods of a subclass whose ``ROUTES`` name them."""

    ROUTES: ClassVar[dict[str, str]] = {}
    TOKEN = "a-token-that-is-known"

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, Any]] = []
        self.surprises: list[str] = []
        self.failures: list[Reply | None] = []
        """What the next calls are answered with instead; None drops the connection."""
        self._lock = threading.Lock()
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                content = self.rfile.read(length)
                with stand_in._lock:
                    reply = stand_in.answer(self.command, self.path, dict(self.headers.items()), content)
                if reply is None:
                    self.close_connection = True
                    return
                status, document = reply
                body = b"" if document is None else json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                if status == 429:
                    self.send_header("Retry-After", "0")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = handle_any

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join(10)
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def answer(self, method: str, target: str, headers: dict[str, str], content: bytes) -> Reply | None:
        path, query = urlsplit(target).path, parse_qs(urlsplit(target).query)
        body = json.loads(content) if content else None
        self.calls.append((method, path, body))
        lowered = {name.lower(): value for name, value in headers.items()}
        if lowered.get("authorization") != f"Bearer {self.TOKEN}":
            return 401, {"message": "Bad credentials"}
        self.check_headers(lowered)
        if self.failures:
            return self.failures.pop(0)
        for route, name in self.ROUTES.items():
            verb, pattern = route.split(" ", 1)
            found = re.fullmatch(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", pattern), path)
            if verb == method and found:
                handler: Callable[..., Reply] = getattr(self, name)
                given = {key: unquote(value) for key, value in found.groupdict().items()}
                return handler(body=body, query={key: values[-1] for key, values in query.items()}, **given)
        self.surprises.append(f"{method} {path}")
        return 404, {"message": "Not Found"}

    def check_headers(self, headers: dict[str, str]) -> None:
        if not headers.get("user-agent"):
            self.surprises.append("no User-Agent, which GitHub refuses")


class GithubStandIn(StandIn):
    """One repository, acme/app."""

    ROUTES: ClassVar[dict[str, str]] = {
        "GET /repos/acme/app/actions/secrets/public-key": "public_key",
        "GET /repos/acme/app/actions/secrets": "secrets_page",
        "PUT /repos/acme/app/actions/secrets/{name}": "put",
        "DELETE /repos/acme/app/actions/secrets/{name}": "delete",
        "GET /repos/acme/app/environments": "environments_page",
        "PUT /repos/acme/app/environments/{environment}": "make_environment",
        "GET /repos/acme/app/environments/{environment}/secrets/public-key": "public_key",
        "GET /repos/acme/app/environments/{environment}/secrets": "secrets_page",
        "PUT /repos/acme/app/environments/{environment}/secrets/{name}": "put",
        "GET /repos/acme/app/issues/{number}/comments": "comments_page",
        "POST /repos/acme/app/issues/{number}/comments": "write_comment",
        "PATCH /repos/acme/app/issues/comments/{comment}": "change_comment",
    }

    def __init__(self) -> None:
        super().__init__()
        self._keys: dict[str | None, PrivateKey] = {None: PrivateKey.generate()}
        self.secrets: dict[str | None, dict[str, str]] = {None: {}}
        """By environment (None: of the repository), then by name: what was in the boxes."""
        self.comments: dict[int, list[dict[str, Any]]] = {}
        self._next_comment = 1

    def check_headers(self, headers: dict[str, str]) -> None:
        super().check_headers(headers)
        if headers.get("accept") != "application/vnd.github+json" or not headers.get("x-github-api-version"):
            self.surprises.append(f"headers that GitHub's reference asks for are missing: {headers}")

    def public_key(self, *, environment: str | None = None, **_: object) -> Reply:
        if environment not in self._keys:
            return 404, {"message": "Not Found"}
        public = bytes(self._keys[environment].public_key)
        return 200, {"key_id": self._key_id(environment), "key": base64.b64encode(public).decode()}

    def _key_id(self, environment: str | None) -> str:
        return f"key of {environment}"

    def secrets_page(self, *, query: dict[str, str], environment: str | None = None, **_: object) -> Reply:
        names = sorted(self.secrets.get(environment, {}))
        size, page = min(int(query.get("per_page", 30)), 100), int(query.get("page", 1))
        shown = names[size * (page - 1) : size * page]
        return 200, {"total_count": len(names), "secrets": [{"name": name} for name in shown]}

    def put(self, *, name: str, body: Any, environment: str | None = None, **_: object) -> Reply:
        if environment not in self._keys:
            return 404, {"message": "Not Found"}
        if not re.fullmatch(r"(?!GITHUB_)[A-Z_][A-Z0-9_]*", name.upper()):
            return 422, {"message": "Secret names can only contain alphanumeric characters"}
        if set(body) != {"encrypted_value", "key_id"} or body["key_id"] != self._key_id(environment):
            return 422, {"message": "not sealed for this place"}
        box = SealedBox(self._keys[environment])
        value = box.decrypt(base64.b64decode(body["encrypted_value"], validate=True)).decode()
        known = self.secrets[environment]
        new = name.upper() not in known
        if new and len(known) >= 100:
            return 422, {"message": "too many secrets"}
        known[name.upper()] = value
        return (201, {}) if new else (204, None)

    def delete(self, *, name: str, environment: str | None = None, **_: object) -> Reply:
        return (204, None) if self.secrets[environment].pop(name, None) else (404, {"message": "Not Found"})

    def environments_page(self, **_: object) -> Reply:
        names = [name for name in self._keys if name is not None]
        return 200, {"total_count": len(names), "environments": [{"name": name} for name in names]}

    def make_environment(self, *, environment: str, **_: object) -> Reply:
        self._keys.setdefault(environment, PrivateKey.generate())
        self.secrets.setdefault(environment, {})
        return 200, {"name": environment}

    def comments_page(self, *, number: str, query: dict[str, str], **_: object) -> Reply:
        size, page = min(int(query.get("per_page", 30)), 100), int(query.get("page", 1))
        return 200, self.comments.get(int(number), [])[size * (page - 1) : size * page]

    def write_comment(self, *, number: str, body: Any, **_: object) -> Reply:
        comment = {"id": self._next_comment, "body": body["body"], "user": {"login": "github-actions[bot]"}}
        self._next_comment += 1
        self.comments.setdefault(int(number), []).append(comment)
        return 201, comment

    def change_comment(self, *, comment: str, body: Any, **_: object) -> Reply:
        for listed in self.comments.values():
            for each in listed:
                if each["id"] == int(comment):
                    each["body"] = body["body"]
                    return 200, each
        return 404, {"message": "Not Found"}


class VercelStandIn(StandIn):
    """One project, shop, of one team."""

    ROUTES: ClassVar[dict[str, str]] = {
        "GET /v9/projects/shop": "project",
        "GET /v10/projects/shop/env": "variables_page",
        "POST /v10/projects/shop/env": "set_variable",
        "DELETE /v9/projects/shop/env/{variable}": "delete_variable",
        "GET /v6/deployments": "deployments_page",
        "POST /v13/deployments": "deploy",
    }
    TEAM = "team_1"
    PAGE = 3

    def __init__(self) -> None:
        super().__init__()
        self.variables: list[dict[str, Any]] = []
        self.deployments: list[dict[str, Any]] = []
        """The newest first, as Vercel lists them."""
        self._next = 1

    def of(self, git_branch: str | None) -> dict[str, str]:
        """What previews of this branch of git would see of those that belong to it alone."""
        return {each["key"]: each["value"] for each in self.variables if each.get("gitBranch") == git_branch}

    def deployed(self, git_branch: str, *, target: str | None = None) -> None:
        deployment = {"uid": f"dpl_{self._next}", "name": "shop", "target": target, "branch": git_branch}
        self.deployments.insert(0, deployment)
        self._next += 1

    def _is_team(self, query: dict[str, str]) -> bool:
        if query.get("teamId") != self.TEAM:
            self.surprises.append(f"not for the team: {query}")
        return True

    def project(self, *, query: dict[str, str], **_: object) -> Reply:
        self._is_team(query)
        return 200, {"id": "prj_1", "name": "shop"}

    def variables_page(self, *, query: dict[str, str], **_: object) -> Reply:
        self._is_team(query)
        start = int(query.get("until", 0))
        shown = self.variables[start : start + self.PAGE]
        following = start + self.PAGE if start + self.PAGE < len(self.variables) else None
        # A sensitive value is shown to nobody.
        hidden = [{key: value for key, value in each.items() if key != "value"} for each in shown]
        return 200, {"envs": hidden, "pagination": {"count": len(hidden), "next": following, "prev": None}}

    def set_variable(self, *, body: Any, query: dict[str, str], **_: object) -> Reply:
        self._is_team(query)
        if set(body) != {"key", "value", "type", "target", "gitBranch", "comment"} or body["target"] != ["preview"]:
            return 400, {"error": {"code": "bad_request", "message": "Invalid request"}}
        if body["type"] != "sensitive" or len(body["comment"]) > 500 or len(body["gitBranch"]) > 250:
            return 400, {"error": {"code": "bad_request", "message": "Invalid request"}}
        for each in self.variables:
            if (each["key"], each.get("gitBranch")) == (body["key"], body["gitBranch"]):
                if query.get("upsert") != "true":
                    return 400, {"error": {"code": "ENV_CONFLICT", "message": "already exists"}}
                each.update(body)
                return 201, {"created": {"id": each["id"]}, "failed": []}
        self.variables.append(body | {"id": f"env_{self._next}"})
        self._next += 1
        return 201, {"created": {"id": self.variables[-1]["id"]}, "failed": []}

    def delete_variable(self, *, variable: str, query: dict[str, str], **_: object) -> Reply:
        self._is_team(query)
        known = [each for each in self.variables if each["id"] == variable]
        if not known:
            return 404, {"error": {"code": "not_found", "message": "not found"}}
        self.variables.remove(known[0])
        return 200, known[0]

    def deployments_page(self, *, query: dict[str, str], **_: object) -> Reply:
        self._is_team(query)
        assert query["projectId"] == "prj_1"
        shown = [each for each in self.deployments if each["branch"] == query["branch"]]
        return 200, {"deployments": shown[: int(query["limit"])], "pagination": {"count": 1, "next": None}}

    def deploy(self, *, body: Any, query: dict[str, str], **_: object) -> Reply:
        self._is_team(query)
        known = [each for each in self.deployments if each["uid"] == body.get("deploymentId")]
        if not known or body.get("name") != "shop" or query.get("forceNew") != "1":
            return 400, {"error": {"code": "bad_request", "message": "Invalid request"}}
        self.deployed(known[0]["branch"])
        return 200, {"id": self.deployments[0]["uid"]}
