"""The one place where an error becomes a message, a next step and an exit code. Tracebacks are for the log.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 some tenants failed and the rest are done.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Final

from tenantry.errors import InvalidInput, NotSupported, TenantryError

FAILED: Final = 1
USAGE: Final = 2
SOME_FAILED: Final = 3

_TRACEBACK_VARIABLE: Final = "TENANTRY_TRACEBACK"


def exit_code(error: TenantryError) -> int:
    """2 where typing something else helps, 1 for the rest."""
    return USAGE if isinstance(error, InvalidInput) and not isinstance(error, NotSupported) else FAILED


def guarded(command: Callable[[], object], *, json_wanted: bool) -> int:
    """Runs a whole command line and returns the exit code of what it ended with."""
    try:
        command()
    except TenantryError as error:
        _report(error.code, _message(error), error.next_step, json_wanted=json_wanted)
        if os.environ.get(_TRACEBACK_VARIABLE):
            traceback.print_exception(error)
        return exit_code(error)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else (0 if ended.code is None else FAILED)
    except Exception as error:  # noqa: BLE001 - the program's boundary: what is left is a defect of ours, told in a line
        _report(
            "DEFECT",
            f"internal error: {type(error).__name__}",
            f"please report it with the output of the same command under {_TRACEBACK_VARIABLE}=1",
            json_wanted=json_wanted,
        )
        if os.environ.get(_TRACEBACK_VARIABLE):
            traceback.print_exception(error)
        return FAILED
    return 0


def _message(error: TenantryError) -> str:
    """An API's own words first; which request that was, for those who look into its log, behind them."""
    asked, request = error.fields.get("asked"), error.fields.get("request_id")
    if asked is None or error.fields.get("status") is None or error.blame != "client":
        return error.message
    return f"{error.client_text} [{asked}{f', request {request}' if request else ''}]"


def _report(code: str, message: str, next_step: str, *, json_wanted: bool) -> None:
    print(f"tenantry: {message}", file=sys.stderr)
    if next_step:
        print(f"  -> {next_step}", file=sys.stderr)
    if json_wanted:
        json.dump({"error": {"code": code, "message": message, "next_step": next_step}}, sys.stdout, ensure_ascii=False)
        print(flush=True)
