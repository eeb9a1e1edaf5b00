"""Gives birth to one ``tenantry`` after another, each a fork of this process, which has imported what they need.

Importing is two thirds of what a start costs, and the tests start hundreds. Reads one line for each birth,
``{"arguments", "environment", "directory", "out", "err", "script"}``, and answers with the child's pid, and, when that
has died, with how: its exit code, or the negative number of a signal. The child is ``tenantry`` as it would have been
called, or the script, if there is one.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import sys
from typing import Any

import tenantry.cli.main
from tenantry.runtime import failpoints

PRELOADED = (
    "tenantry.cell.main",
    "tenantry.cli.serving",
    "tenantry.cli.target",
    "tenantry.fleet.main",
    "tenantry.fleet.catalog.upgrade",
    "uvloop",
)


def live(order: dict[str, Any]) -> int:
    os.setsid()
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    descriptors = (
        os.open(os.devnull, os.O_RDONLY),
        os.open(order["out"], append, 0o600),
        os.open(order["err"], append, 0o600),
    )
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(order["directory"])
    os.environ.clear()
    os.environ.update(order["environment"])
    failpoints.arm(order["environment"].get(failpoints.VARIABLE, ""))
    if order.get("script") is not None:
        sys.argv = [order["script"], *order["arguments"]]
        runpy.run_path(order["script"], run_name="__main__")
        return 0
    return tenantry.cli.main.run(order["arguments"])


def main() -> None:
    for name in PRELOADED:
        importlib.import_module(name)
    tenantry.cli.main.commands()
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                code = live(json.loads(line))
            except SystemExit as ended:
                code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
    # Taking apart what was imported takes seconds on a busy machine, and whoever closed the line waits for the end.
    os._exit(0)


main()
