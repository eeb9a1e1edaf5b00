"""Gates between waves: whether what happened in one allows the next. The numbers are judged purely; a command or a URL
of the operator's is asked last, and has a bounded time."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from tenantry.fleet.catalog.records import Wave
from tenantry.fleet.migrations.waves import CANARY

FAILURES_ALLOWED: Final = 2
"""Behind the canaries so many may fail in any wave, however small it is."""
OUTPUT_BYTES_MAX: Final = 2_000
"""Of a command, the end of which is kept for the operator."""
OUTSIDE_SECONDS_MAX_DEFAULT: Final = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Gates:
    """What must hold for the next wave to be begun."""

    failures_percent: float = 10.0
    """Of a wave's tenants; no canary may fail."""
    p95_seconds: float | None = None
    lock_waits_max: int | None = None
    command: str | None = None
    """Run by a shell in the working directory; exit status 0 lets the run go on. The wave is JSON on its input."""
    url: str | None = None
    """Is sent the same by POST; a status of 2xx lets the run go on."""
    outside_seconds_max: float = OUTSIDE_SECONDS_MAX_DEFAULT


def failures_allowed(wave: Wave, gates: Gates) -> int:
    if wave.name == CANARY:
        return 0
    return max(FAILURES_ALLOWED, math.floor(wave.tenants * gates.failures_percent / 100))


def too_many_failed(wave: Wave, gates: Gates) -> str | None:
    """Why the wave is not gone on with, or None. Asked while it runs, so that not everybody has to fail first."""
    allowed = failures_allowed(wave, gates)
    if wave.failed <= allowed:
        return None
    if wave.name == CANARY:
        return f"{wave.failed} of {wave.tenants} canaries failed"
    return f"{wave.failed} of {wave.tenants} tenants failed, and {allowed} may"


def objections(wave: Wave, gates: Gates) -> list[str]:
    """What the numbers of a wave that is done say against the next. Pure."""
    found = [failed] if (failed := too_many_failed(wave, gates)) is not None else []
    if gates.p95_seconds is not None and wave.seconds_p95 is not None and wave.seconds_p95 > gates.p95_seconds:
        found.append(
            f"95 % of the tenants took up to {wave.seconds_p95:.2f} s, and {gates.p95_seconds:g} s are allowed"
        )
    if gates.lock_waits_max is not None and wave.lock_waits > gates.lock_waits_max:
        found.append(f"{wave.lock_waits} tenants failed waiting for a lock, and {gates.lock_waits_max} may")
    return found


def document(run_id: str, target: str | None, wave: Wave) -> dict[str, object]:
    """What a command or a URL is told."""
    return {
        "run": run_id,
        "target": target,
        "wave": wave.name,
        "number": wave.number,
        "tenants": wave.tenants,
        "applied": wave.applied,
        "failed": wave.failed,
        "lock_waits": wave.lock_waits,
        "seconds_p50": wave.seconds_p50,
        "seconds_p95": wave.seconds_p95,
    }


def ask_outside(gates: Gates, told: Mapping[str, object]) -> list[str]:
    """What the operator's own command and URL say against the next wave. Blocks within the bound."""
    found: list[str] = []
    if gates.command is not None and (said := _ask_command(gates.command, told, gates.outside_seconds_max)):
        found.append(said)
    if not found and gates.url is not None and (said := _ask_url(gates.url, told, gates.outside_seconds_max)):
        found.append(said)
    return found


def _ask_command(command: str, told: Mapping[str, object], seconds_max: float) -> str | None:
    environment = os.environ | {"TENANTRY_RUN": str(told["run"]), "TENANTRY_WAVE": str(told["wave"])}
    # The operator's own command line, from the operator's own settings.
    with subprocess.Popen(  # noqa: S602
        command,
        shell=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(json.dumps(told).encode(), timeout=seconds_max)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return f"the gate `{command}` took longer than {seconds_max:g} s"
    if process.returncode == 0:
        return None
    end = output[-OUTPUT_BYTES_MAX:].decode(errors="replace").strip()
    return f"the gate `{command}` ended with {process.returncode}" + (f": {end}" if end else "")


def _ask_url(url: str, told: Mapping[str, object], seconds_max: float) -> str | None:
    where = urlsplit(url).hostname or "a URL"  # the whole of it may hold a secret
    # What speaks HTTP takes long to load, and most runs have no such gate.
    from tenantry.runtime.http import httpx  # noqa: PLC0415

    try:
        answer = httpx.post(url, json=dict(told), timeout=seconds_max)
    except httpx.HTTPError as error:
        return f"the gate at {where} does not answer: {type(error).__name__}"
    if answer.is_success:
        return None
    return f"the gate at {where} said {answer.status_code}: {answer.text[:OUTPUT_BYTES_MAX]}".strip()
