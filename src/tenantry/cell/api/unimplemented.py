"""What the contract has and a cell does not: every other path says so in the contract's own way."""

from __future__ import annotations

from typing import Final, NoReturn

from starlette.types import Receive, Scope, Send

from tenantry.cell.api.coverage import why_not
from tenantry.errors import NotFound, NotSupported
from tenantry.neon.contract import operations_at
from tenantry.neon.errors import MethodNotAllowed

OFF_CONTRACT: Final = frozenset({("DELETE", "permissions")})
"""Requests that published clients send though the contract lacks them: method and last part of the path."""


class Unimplemented:
    """Stands behind all routes, at the API's root, and takes what none of them took."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refuse(scope["method"], scope["path"].removeprefix(self._prefix))


def refuse(method: str, path: str) -> NoReturn:
    """Raises NotSupported for an operation of the contract, MethodNotAllowed for a wrong method, else NotFound."""
    operations = operations_at(path)
    if method in operations:
        operation = operations[method]
        raise NotSupported(
            f"{operation.id} ({operation.group}) is part of Neon's API and not of this installation: "
            f"{why_not(operation)}",
            operation=operation.id,
        )
    if (method, path.rpartition("/")[2]) in OFF_CONTRACT and operations:
        raise NotSupported("permissions of other accounts are not part of this installation")
    if operations:
        allow = ", ".join(sorted(operations))
        raise MethodNotAllowed(f"the method is not {allow}, which are those of this path", allow=allow)
    raise NotFound("the API has no such path", next_step="see Neon's API reference for the paths of version 2")
