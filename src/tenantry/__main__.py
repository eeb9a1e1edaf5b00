"""``python -m tenantry``: the same as the ``tenantry`` program."""

from __future__ import annotations

from tenantry.cli.main import main

main()
