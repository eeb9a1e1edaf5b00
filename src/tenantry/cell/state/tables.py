"""Records to rows and back: every statement that the cell ever runs on cell.db.

Record fields and columns have the same names, but for ``Branch.default`` (a word of SQL; ``is_default`` there).
"""

from __future__ import annotations

import dataclasses
import json
import sqlite3
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

from tenantry.cell.model import (
    Annotation,
    ApiKey,
    Branch,
    Database,
    Endpoint,
    Head,
    Operation,
    Project,
    Role,
    Snapshot,
    Spare,
    Uid,
)
from tenantry.cell.state.meters import Meters
from tenantry.errors import Conflict, Defect, NotFound, OperatorError
from tenantry.neon.ids import BranchId, EndpointId, HeadId, OperationId, ProjectId, SnapshotId

AnyRecord = Project | Branch | Head | Endpoint | Role | Database | Operation | Spare | ApiKey | Annotation | Snapshot
Record = TypeVar(
    "Record", Project, Branch, Head, Endpoint, Role, Database, Operation, Spare, ApiKey, Annotation, Snapshot
)

_TABLE: Final[dict[type, str]] = {
    Project: "project",
    Branch: "branch",
    Head: "head",
    Endpoint: "endpoint",
    Role: "role",
    Database: "database",
    Operation: "operation",
    Spare: "spare",
    ApiKey: "api_key",
    Annotation: "annotation",
    Snapshot: "snapshot",
}
_KEY: Final[dict[type, tuple[str, ...]]] = {
    Role: ("branch_id", "name"),
    Spare: ("project_id",),
    Annotation: ("branch_id",),
}
_COLUMN: Final[dict[tuple[type, str], str]] = {(Branch, "default"): "is_default"}
SEARCH_LIMIT_MAX: Final = 400


def _to_text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def _encode(value: object) -> object:
    match value:
        case datetime():
            return _to_text(value)
        case bool():
            return int(value)
        case dict():
            return json.dumps(value, separators=(",", ":"), sort_keys=True)
        case _:
            return value


def _decoder(annotation: object) -> Callable[[Any], object]:
    """How a column's value becomes the field's type; NewTypes and Literals are plain values at run time."""
    if isinstance(annotation, types.UnionType):
        inner = [member for member in typing.get_args(annotation) if member is not types.NoneType]
        decode = _decoder(inner[0])
        return lambda value: None if value is None else decode(value)
    if annotation is datetime:
        return datetime.fromisoformat
    if annotation is bool:
        return bool
    if typing.get_origin(annotation) is dict:
        return json.loads
    return lambda value: value


@dataclasses.dataclass(frozen=True, slots=True)
class _Mapping:
    table: str
    fields: tuple[str, ...]
    columns: tuple[str, ...]
    decoders: tuple[Callable[[Any], object], ...]
    key: tuple[str, ...]


def _mapping(kind: type) -> _Mapping:
    hints = typing.get_type_hints(kind)
    fields = tuple(f.name for f in dataclasses.fields(kind))
    return _Mapping(
        table=_TABLE[kind],
        fields=fields,
        columns=tuple(_COLUMN.get((kind, name), name) for name in fields),
        decoders=tuple(_decoder(hints[name]) for name in fields),
        key=_KEY.get(kind, ("id",)),
    )


_MAPPINGS: Final = {kind: _mapping(kind) for kind in _TABLE}


class Tables:
    """Typed access to one connection. Inside ``State.write`` all calls are one transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    # -- the general verbs -------------------------------------------------------------------------------

    def _select(self, kind: type[Record], tail: str, parameters: Iterable[object] = ()) -> list[Record]:
        m = _MAPPINGS[kind]
        rows = self._connection.execute(
            f"select {', '.join(m.columns)} from {m.table} {tail}",  # noqa: S608 - names are ours
            tuple(parameters),
        )
        return [
            kind(**{f: d(v) for f, d, v in zip(m.fields, m.decoders, row, strict=True)})  # pyright: ignore[reportArgumentType] - decoders follow the annotations
            for row in rows
        ]

    def _one(self, kind: type[Record], tail: str, parameters: Iterable[object]) -> Record | None:
        found = self._select(kind, tail, parameters)
        return found[0] if found else None

    def insert(self, record: AnyRecord) -> None:
        """Raises Conflict when a row with this identity exists."""
        m = _MAPPINGS[type(record)]
        pairs = [
            (column, _encode(getattr(record, name)))
            for name, column in zip(m.fields, m.columns, strict=True)
            if not (type(record) in (Database, ApiKey) and name == "id" and getattr(record, name) == 0)
        ]
        extra = ""
        if isinstance(record, Operation):
            extra = ", (select coalesce(max(ordinal), 0) + 1 from operation)"
        columns = ", ".join(column for column, _ in pairs) + (", ordinal" if extra else "")
        marks = ", ".join("?" for _ in pairs) + extra
        try:
            self._connection.execute(
                f"insert into {m.table} ({columns}) values ({marks})",  # noqa: S608 - names are ours
                tuple(value for _, value in pairs),
            )
        except sqlite3.IntegrityError as error:
            raise Conflict(f"this {m.table} exists already", table=m.table, reason=str(error)) from error

    def update(self, record: AnyRecord) -> None:
        """Writes every field of the row with the record's key. Raises NotFound when there is none."""
        m = _MAPPINGS[type(record)]
        pairs = [(c, _encode(getattr(record, f))) for f, c in zip(m.fields, m.columns, strict=True) if f not in m.key]
        key = [getattr(record, name) for name in m.key]
        changed = self._connection.execute(
            f"update {m.table} set {', '.join(f'{c} = ?' for c, _ in pairs)}"  # noqa: S608 - names are ours
            f" where {' and '.join(f'{name} = ?' for name in m.key)}",
            (*(value for _, value in pairs), *key),
        )
        if changed.rowcount == 0:
            raise NotFound(f"{m.table} {'/'.join(map(str, key))} does not exist")

    # -- projects ----------------------------------------------------------------------------------------

    def project(self, project_id: ProjectId) -> Project | None:
        return self._one(Project, "where id = ?", (project_id,))

    def projects(
        self,
        *,
        after: ProjectId | None = None,
        limit: int = SEARCH_LIMIT_MAX,
        search: str | None = None,
        deleted_since: datetime | None = None,
    ) -> list[Project]:
        """Living projects by id, after the cursor; ``search`` matches a part of the name, or the whole id.

        With ``deleted_since`` those that were deleted after it instead. The order is the id's, so that a cursor stays
        right when its own project is deleted meanwhile.
        """
        where = ["deleted_at is null" if deleted_since is None else "deleted_at > ?"]
        parameters: list[object] = [] if deleted_since is None else [_to_text(deleted_since)]
        if after is not None:
            where.append("id > ?")
            parameters.append(after)
        if search:
            where.append("(instr(lower(name), lower(?)) > 0 or id = ?)")
            parameters += [search, search]
        return self._select(
            Project,
            f"where {' and '.join(where)} order by id limit ?",
            (*parameters, min(limit, SEARCH_LIMIT_MAX)),
        )

    def counts(self) -> dict[str, int]:
        """How many there are of what an operator watches."""
        tables = {
            "projects": "project where deleted_at is null",
            "branches": "branch where deleted_at is null",
            "endpoints": "endpoint",
            "snapshots": "snapshot",
            "operations_unfinished": "operation where status in ('scheduling', 'running')",
            "spares": "spare",
            "directories_to_delete": "doomed",
        }
        counted = ", ".join(f"(select count(*) from {table})" for table in tables.values())  # noqa: S608 - the names above
        return dict(zip(tables, self._connection.execute(f"select {counted}").fetchone(), strict=True))

    def projects_count(self) -> int:
        return int(self._connection.execute("select count(*) from project").fetchone()[0])

    def projects_deleted_until(self, moment: datetime) -> list[Project]:
        return self._select(Project, "where deleted_at <= ? order by deleted_at", (_to_text(moment),))

    def delete_project(self, project_id: ProjectId) -> None:
        """Removes the project with its branches, endpoints, roles and databases; operations stay."""
        self._connection.execute("update branch set parent_id = null where project_id = ?", (project_id,))
        self._connection.execute("delete from project where id = ?", (project_id,))

    def uids_taken(self) -> set[int]:
        return {
            int(row[0])
            for row in self._connection.execute(
                "select uid from project union select uid from spare union select uid from doomed"
            )
        }

    # -- branches and endpoints --------------------------------------------------------------------------

    def branch(self, branch_id: BranchId) -> Branch | None:
        return self._one(Branch, "where id = ?", (branch_id,))

    def branches(self, project_id: ProjectId) -> list[Branch]:
        """The living ones."""
        return self._select(
            Branch, "where project_id = ? and deleted_at is null order by created_at, id", (project_id,)
        )

    def branches_deleted_since(self, project_id: ProjectId, moment: datetime) -> list[Branch]:
        return self._select(
            Branch, "where project_id = ? and deleted_at > ? order by deleted_at", (project_id, _to_text(moment))
        )

    def branches_deleted_until(self, moment: datetime, *, kept_max: int) -> list[Branch]:
        """Of living projects; also those that more than ``kept_max`` of their project were deleted after."""
        return self._select(
            Branch,
            "where deleted_at is not null and project_id in (select id from project where deleted_at is null)"
            " and (deleted_at <= ? or id in (select id from (select id, row_number() over"
            " (partition by project_id order by deleted_at desc, id) as place from branch where deleted_at is not null)"
            " where place > ?)) order by deleted_at",
            (_to_text(moment), kept_max),
        )

    def head(self, head_id: HeadId) -> Head | None:
        return self._one(Head, "where id = ?", (head_id,))

    def heads(self, project_id: ProjectId) -> list[Head]:
        return self._select(Head, "where project_id = ? order by created_at, id", (project_id,))

    def all_heads(self) -> list[Head]:
        return self._select(Head, "order by id")

    def delete_head(self, head_id: HeadId) -> None:
        self._connection.execute("delete from head where id = ?", (head_id,))

    def children(self, branch_id: BranchId, *, deleted: bool = False) -> list[Branch]:
        """The living ones; with ``deleted`` all that have rows."""
        living = "" if deleted else " and deleted_at is null"
        return self._select(Branch, f"where parent_id = ?{living} order by created_at, id", (branch_id,))

    def branches_expired(self, now: datetime) -> list[Branch]:
        return self._select(
            Branch,
            "where expires_at <= ? and deleted_at is null"
            " and project_id in (select id from project where deleted_at is null) order by expires_at",
            (_to_text(now),),
        )

    def delete_branch(self, branch_id: BranchId) -> None:
        """Removes the branch with its endpoints, roles and databases; deleted children of it lose their parent."""
        self._connection.execute("update branch set parent_id = null where parent_id = ?", (branch_id,))
        self._connection.execute("delete from branch where id = ?", (branch_id,))

    def endpoint(self, endpoint_id: EndpointId) -> Endpoint | None:
        """Also one whose branch or project is deleted."""
        return self._one(Endpoint, "where id = ?", (endpoint_id,))

    def living_endpoint(self, endpoint_id: EndpointId) -> Endpoint | None:
        return self._one(
            Endpoint,
            "where id = ? and exists (select 1 from branch b join project p on p.id = b.project_id"
            " where b.id = branch_id and b.deleted_at is null and p.deleted_at is null)",
            (endpoint_id,),
        )

    def endpoints(self, project_id: ProjectId) -> list[Endpoint]:
        """Those of living branches."""
        return self._select(
            Endpoint,
            "where project_id = ? and branch_id in (select id from branch where deleted_at is null)"
            " order by created_at, id",
            (project_id,),
        )

    def endpoints_of_branch(self, branch_id: BranchId) -> list[Endpoint]:
        return self._select(Endpoint, "where branch_id = ? order by created_at, id", (branch_id,))

    def all_endpoints(self) -> list[Endpoint]:
        return self._select(Endpoint, "order by id")

    def delete_endpoint(self, endpoint_id: EndpointId) -> None:
        self._connection.execute("delete from endpoint where id = ?", (endpoint_id,))

    # -- roles and databases -----------------------------------------------------------------------------

    def role(self, branch_id: BranchId, name: str) -> Role | None:
        return self._one(Role, "where branch_id = ? and name = ?", (branch_id, name))

    def roles(self, branch_id: BranchId) -> list[Role]:
        return self._select(Role, "where branch_id = ? order by name", (branch_id,))

    def delete_role(self, branch_id: BranchId, name: str) -> None:
        self._connection.execute("delete from role where branch_id = ? and name = ?", (branch_id, name))

    def database(self, branch_id: BranchId, name: str) -> Database | None:
        return self._one(Database, "where branch_id = ? and name = ?", (branch_id, name))

    def databases(self, branch_id: BranchId) -> list[Database]:
        return self._select(Database, "where branch_id = ? order by id", (branch_id,))

    def delete_database(self, branch_id: BranchId, name: str) -> None:
        self._connection.execute("delete from database where branch_id = ? and name = ?", (branch_id, name))

    # -- operations --------------------------------------------------------------------------------------

    def operation(self, operation_id: OperationId) -> Operation | None:
        return self._one(Operation, "where id = ?", (operation_id,))

    def operations(
        self, project_id: ProjectId, *, after: OperationId | None = None, limit: int = SEARCH_LIMIT_MAX
    ) -> list[Operation]:
        """Newest first, after the cursor."""
        where = "project_id = ?"
        parameters: list[object] = [project_id]
        if after is not None:
            where += " and ordinal < (select ordinal from operation where id = ?)"
            parameters.append(after)
        return self._select(
            Operation,
            f"where {where} order by ordinal desc limit ?",
            (*parameters, min(limit, SEARCH_LIMIT_MAX)),
        )

    def operations_unfinished(self, project_id: ProjectId | None = None) -> list[Operation]:
        """Oldest first: the order in which they are carried out."""
        if project_id is None:
            return self._select(Operation, "where status in ('scheduling', 'running') order by ordinal")
        return self._select(
            Operation,
            "where status in ('scheduling', 'running') and project_id = ? order by ordinal",
            (project_id,),
        )

    # -- spares and doomed directories -------------------------------------------------------------------

    def spares(self) -> list[Spare]:
        return self._select(Spare, "order by created_at")

    def delete_spare(self, project_id: ProjectId) -> bool:
        """False when somebody else took it first."""
        return self._connection.execute("delete from spare where project_id = ?", (project_id,)).rowcount == 1

    def doom(self, path: str, uid: Uid, now: datetime) -> None:
        """Notes a directory (relative to the data directory) for deletion in the background."""
        self._connection.execute(
            "insert or ignore into doomed (path, uid, created_at) values (?, ?, ?)",
            (path, uid, _to_text(now)),
        )

    def doomed(self) -> list[str]:
        return [row[0] for row in self._connection.execute("select path from doomed order by created_at")]

    def undoom(self, path: str) -> None:
        self._connection.execute("delete from doomed where path = ?", (path,))

    # -- snapshots and their schedules -------------------------------------------------------------------

    def snapshot(self, snapshot_id: SnapshotId) -> Snapshot | None:
        return self._one(Snapshot, "where id = ?", (snapshot_id,))

    def snapshots(self, project_id: ProjectId) -> list[Snapshot]:
        return self._select(Snapshot, "where project_id = ? order by created_at, id", (project_id,))

    def snapshots_expired(self, now: datetime) -> list[Snapshot]:
        """Of living projects."""
        return self._select(
            Snapshot,
            "where expires_at <= ? and project_id in (select id from project where deleted_at is null)"
            " order by expires_at",
            (_to_text(now),),
        )

    def delete_snapshot(self, snapshot_id: SnapshotId) -> None:
        self._connection.execute("delete from snapshot where id = ?", (snapshot_id,))

    def schedule(self, branch_id: BranchId) -> list[dict[str, object]]:
        """The slots of a branch's backup schedule, as plain objects."""
        row = self._connection.execute("select slots from backup_schedule where branch_id = ?", (branch_id,)).fetchone()
        return [] if row is None else json.loads(row[0])

    def schedules(self) -> list[tuple[BranchId, list[dict[str, object]]]]:
        """Of living branches."""
        rows = self._connection.execute(
            "select branch_id, slots from backup_schedule where branch_id in (select b.id from branch b"
            " join project p on p.id = b.project_id where b.deleted_at is null and p.deleted_at is null)"
            " order by branch_id"
        )
        return [(BranchId(branch_id), json.loads(slots)) for branch_id, slots in rows]

    def set_schedule(self, branch_id: BranchId, slots: list[dict[str, object]], now: datetime) -> None:
        self._connection.execute(
            "insert into backup_schedule (branch_id, slots, updated_at) values (?, ?, ?)"
            " on conflict (branch_id) do update set slots = excluded.slots, updated_at = excluded.updated_at",
            (branch_id, json.dumps(slots), _to_text(now)),
        )

    # -- keys and consumption ---------------------------------------------------------------------------------

    def api_keys(self) -> list[ApiKey]:
        return self._select(ApiKey, "where revoked_at is null order by id")

    def api_key(self, key_id: int) -> ApiKey | None:
        return self._one(ApiKey, "where id = ?", (key_id,))

    def api_key_by_hash(self, key_hash: bytes) -> ApiKey | None:
        return self._one(ApiKey, "where key_hash = ? and revoked_at is null", (key_hash,))

    @property
    def meters(self) -> Meters:
        """What is known of consumption."""
        return Meters(self._connection)

    # -- annotations -------------------------------------------------------------------------------------

    def annotations(self, branch_ids: Sequence[BranchId]) -> dict[BranchId, Annotation]:
        found = self._select(
            Annotation, "where branch_id in (select value from json_each(?))", (json.dumps(list(branch_ids)),)
        )
        return {annotation.branch_id: annotation for annotation in found}


SCHEMA_VERSION: Final = 6


def open_connection(path: str, scripts: Path | None = None) -> sqlite3.Connection:
    """A connection with the cell's durability settings.

    With ``scripts``, the directory of the schema and its upgrades, it is the writer's, which creates the schema when
    the file is new and takes an older one to the present; without, it reads only. Raises OperatorError when the file
    belongs to a newer program.
    """
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
    connection.execute("pragma journal_mode = wal")
    connection.execute("pragma synchronous = full")
    if scripts is None:
        connection.execute("pragma query_only = on")
        return connection
    version = int(connection.execute("pragma user_version").fetchone()[0])
    if version > SCHEMA_VERSION:
        raise OperatorError(
            f"{path} was written by a newer tenantry (schema {version}, this one knows {SCHEMA_VERSION})",
            next_step="upgrade tenantry, or choose another --data directory",
        )
    if version == 0:
        _run(connection, (scripts / "schema.sql").read_text(), SCHEMA_VERSION)
    else:
        for number in range(version + 1, SCHEMA_VERSION + 1):
            _run(connection, (scripts / f"upgrade_{number}.sql").read_text(), number)
    connection.execute("pragma foreign_keys = on")
    return connection


def _run(connection: sqlite3.Connection, script: str, version: int) -> None:
    """One script in one transaction, which also notes the version that it leads to."""
    try:
        connection.executescript(f"begin immediate; {script}; pragma user_version = {version};")
        broken = connection.execute("pragma foreign_key_check").fetchall()
        if broken:
            raise Defect(f"schema {version} leaves rows that point nowhere: {broken[:5]}")
        connection.execute("commit")
    except BaseException:
        if connection.in_transaction:
            connection.execute("rollback")
        raise
