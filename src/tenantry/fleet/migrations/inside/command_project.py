"""A command of the user's, run for one tenant after another with the tenant's place in its environment."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

# Run by its path, with none of the interpreter's other packages.
sys.path.append(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120

if TYPE_CHECKING:
    from tenantry.fleet.migrations.inside.conversation import Handler, Reply, Request, converse
else:
    from conversation import Handler, Reply, Request, converse


def opened(request: Request) -> tuple[Reply, Handler]:
    def run(task: Request) -> Reply:
        environment = {**os.environ, **task["environment"]}
        # In our own process group, so that whoever ends us ends it too, with all that it has started.
        done = subprocess.run(  # noqa: S602 - the command line is the operator's, and is written for a shell
            request["command"], shell=True, env=environment, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False
        )
        return {"exit": done.returncode}

    return {}, run


if __name__ == "__main__":
    converse(opened)
