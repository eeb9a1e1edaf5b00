"""How a head comes to be from a template, and how directories go."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Final

import structlog

from tenantry.cell.storage.bases import keep_template_base
from tenantry.cell.storage.fork import HEAD_DIRECTORY_MODE
from tenantry.cell.storage.layout import Layout
from tenantry.errors import OperatorError
from tenantry.neon.ids import HeadId, ProjectId
from tenantry.postgres.template import Template
from tenantry.runtime.failpoints import failpoint
from tenantry.runtime.files import fsync_dir, make_directory, remove_tree, rename_durably, syncfs

_log = structlog.get_logger("storage")
_IDENTIFIER_BITS: Final = 63


def create_head(
    layout: Layout,
    template: Template,
    project_id: ProjectId,
    head_id: HeadId,
    *,
    verifiers: Mapping[str, str],
    owner: tuple[int, int] | None,
    now: datetime,
) -> Path:
    """The first head of a new project: a durable clone of the template with a system identifier of its own.

    Distinct identifiers make Postgres itself refuse another tenant's WAL. Blocking; raises OperatorError when the
    disk is full, leaving nothing behind.
    """
    project = layout.project(project_id)
    head = layout.head_data(project_id, head_id)
    try:
        # The cell's own directories: the tenant's uid passes through to ``data`` and changes nothing on the way.
        make_directory(project, mode=HEAD_DIRECTORY_MODE)
        make_directory(head.parent, mode=HEAD_DIRECTORY_MODE)
        failpoint("head.directories")
        template.clone(
            head, system_identifier=secrets.randbits(_IDENTIFIER_BITS) or 1, verifiers=verifiers, owner=owner
        )
        keep_template_base(head.parent, template, verifiers=verifiers, now=now)
        failpoint("head.cloned")
        syncfs(project)
        fsync_dir(layout.projects)
    except OSError as error:
        remove_tree(project)
        raise OperatorError(
            f"cannot create the files of project {project_id}: {error.strerror}",
            next_step="free some disk space; nothing of this project was kept",
            project_id=project_id,
        ) from error
    except OperatorError:
        remove_tree(project)
        raise
    return head


def unnamed(layout: Layout, named: set[str]) -> list[tuple[str, int]]:
    """Directories of projects and heads that no row names, with their owners.

    ``named`` holds every relative path that a row names; a directory above a named one is kept. Blocking; called at
    start, before anything new can be made.
    """
    keep = {str(parent) for path in named for parent in (Path(path), *Path(path).parents)}
    found: list[tuple[str, int]] = []
    for depth in ("*", "*/*"):
        for path in layout.projects.glob(depth):
            relative = layout.relative(path)
            covered = any(relative.startswith(f"{above}/") for above, _ in found)
            inside = any(str(parent) in named for parent in Path(relative).parents)
            if relative not in keep and not covered and not inside:
                found.append((relative, path.lstat().st_uid))
    return found


def discard(layout: Layout, relative: str) -> None:
    """Deletes a doomed directory: first out of the way by one rename, then file by file. Blocking, safe twice."""
    path = layout.data / relative
    grave = layout.trash / relative.replace("/", "~")
    if path.exists():
        rename_durably(path, grave)
        failpoint("discard.renamed")
    remove_tree(grave)
    _log.info("directory deleted", path=relative)
