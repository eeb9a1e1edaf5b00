from __future__ import annotations

import json

import pytest

from tenantry.cli.failures import guarded
from tenantry.errors import Conflict, InvalidInput, NotFound, NotSupported, OperatorError, TenantryError, Unavailable


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidInput("no such plan"), 2),
        (NotSupported("not here"), 1),
        (NotFound("no tenant"), 1),
        (Conflict("taken"), 1),
        (Unavailable("down"), 1),
        (OperatorError("disk full"), 1),
    ],
)
def test_each_error_is_a_message_a_next_step_and_an_exit_code(
    error: TenantryError, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    error.next_step = "do this"

    def command() -> None:
        raise error

    assert guarded(command, json_wanted=False) == code
    printed = capsys.readouterr()
    assert printed.err == f"tenantry: {error.message}\n  -> do this\n"
    assert printed.out == ""

    assert guarded(command, json_wanted=True) == code
    assert json.loads(capsys.readouterr().out) == {
        "error": {"code": error.code, "message": error.message, "next_step": "do this"}
    }


def test_a_defect_is_told_without_its_traceback_or_its_text(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def command() -> None:
        raise RuntimeError("postgresql://u:secret@h/d")

    assert guarded(command, json_wanted=False) == 1
    told = capsys.readouterr().err
    assert told.startswith("tenantry: internal error: RuntimeError\n")
    assert "secret" not in told
    assert "Traceback" not in told

    monkeypatch.setenv("TENANTRY_TRACEBACK", "1")
    guarded(command, json_wanted=False)
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(("ended", "code"), [(SystemExit(3), 3), (SystemExit(), 0), (SystemExit("text"), 1)])
def test_exit_codes_of_commands_pass(ended: SystemExit, code: int) -> None:
    def command() -> None:
        raise ended

    assert guarded(command, json_wanted=False) == code
