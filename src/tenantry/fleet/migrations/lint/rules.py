"""Our own rules: what is dangerous for a fleet in particular, and what squawk knows as well for where it is missing.

A rule of the second kind has squawk's name and is left to squawk where that is installed. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from tenantry.fleet.migrations.lint.script import Clause, Script, Sentence

Level = Literal["off", "warn", "block"]


@dataclass(frozen=True, slots=True)
class Hit:
    """A statement that a rule objects to."""

    statement: Sentence
    message: str
    instead: str
    """What to write instead."""


@dataclass(frozen=True, slots=True)
class Rule:
    name: str
    level: Level
    """Unless the settings say otherwise."""
    check: Callable[[Script], Iterator[Hit]]
    shared: bool = False
    """Squawk has it too."""


def rules() -> tuple[Rule, ...]:
    """All of our rules, in the order in which they are told."""
    return _RULES


# ------------------------------------------------------------------------------------------- what a fleet adds


def _lock_timeout(script: Script) -> Iterator[Hit]:
    for each in script.sentences:
        index = 0
        if each.starts("set"):
            index = each.after(1, "session", "local")
            # SET SESSION lock_timeout: the word "session" is optional, as "local" is.
            value = each.tokens[index + 2 : index + 3]
            off = bool(value) and _is_nothing(value[0].value)
        elif each.starts("reset"):
            index, off = 1, True
        else:
            index, off = _set_config(each, "lock_timeout")
        if off and (each.at(index, "lock_timeout") or index < 0 or each.starts("reset", "all")):
            yield Hit(
                each,
                "it takes away the bound that every session behind this migration's locks relies on",
                "leave lock_timeout alone, or set one above 0: `SET LOCAL lock_timeout = '5s'`;"
                " `tenantry migrate run --lock-timeout` sets it for a run",
            )


def _is_nothing(value: str) -> bool:
    return value == "default" or value.strip().rstrip("msinhd ").strip() in {"0", "0.0", "-1"}


def _set_config(each: Sentence, name: str) -> tuple[int, bool]:
    """-1 and True where the statement calls set_config with this name and a value that means nothing."""
    tokens = each.tokens
    for index, token in enumerate(tokens[:-4]):
        if token.value == "set_config" and tokens[index + 2].value == name:
            return -1, _is_nothing(tokens[index + 4].value)
    return 0, False


_KEPT_SETTINGS: Final = frozenset(
    {"search_path", "role", "session_replication_role", "row_security", "check_function_bodies"}
)


def _setting_stays(script: Script) -> Iterator[Hit]:
    left: dict[str, Sentence] = {}
    for each in script.sentences:
        if each.starts("set") and len(each.tokens) > 2:
            index = each.after(1, "session", "local")
            name = each.tokens[index].value if index < len(each.tokens) else ""
            ends = index + 2 < len(each.tokens) and each.tokens[index + 2].value == "default"
            ends |= each.at(index, "role", "none")
            if name in _KEPT_SETTINGS and not ends:
                left[name] = each
            else:
                left.pop(name, None)
        elif each.starts("reset") and len(each.tokens) > 1:
            left = {} if each.starts("reset", "all") else {k: v for k, v in left.items() if k != each.tokens[1].value}
        for index, token in enumerate(each.tokens[:-2]):
            if token.value == "set_config" and each.tokens[index + 2].value in _KEPT_SETTINGS:
                left[each.tokens[index + 2].value] = each
    for name, each in left.items():
        yield Hit(
            each,
            f"{name} stays set for the migrations behind this one, and only for tenants that get them in the same run:"
            " one folder then makes two schemas",
            f"end the file with `RESET {name};`, or name the schema in each statement",
        )


def _data_with_ddl(script: Script) -> Iterator[Hit]:
    if any(each.outside for each in script.sentences):
        return  # they are not in one transaction
    made = _made(script)
    changes = next(
        (table for each in script.sentences if (table := _altered(each)) is not None and table not in made), None
    )
    if changes is None:
        return
    for each in script.sentences:
        table = _whole_table_written(each)
        if table is not None and table not in made:
            yield Hit(
                each,
                f"all rows of {table} are written while the lock on {changes} is held: for as long as the largest"
                " tenant takes, nobody else gets at it",
                "put the change of rows into a migration of its own, before or behind the one that changes the schema;"
                " a large table in batches, from the application",
            )


def _altered(each: Sentence) -> str | None:
    """The table that a statement locks against everybody."""
    if not each.starts("alter", "table"):
        return None
    return each.name_at(each.after(2, "if", "exists", "only"))[0] or None


def _whole_table_written(each: Sentence) -> str | None:
    if each.has("where"):
        return None
    if each.starts("update"):
        return each.name_at(each.after(1, "only"))[0]
    if each.starts("delete", "from"):
        return each.name_at(each.after(2, "only"))[0]
    return None


def _outside_with_others(script: Script) -> Iterator[Hit]:
    lone = next((each for each in script.sentences if each.outside), None)
    if lone is None or len(script.sentences) == 1:
        return
    yield Hit(
        lone,
        "this statement runs outside of a transaction, so the others of this file are kept one by one: a failure"
        " leaves the first of them done",
        "give it a migration of its own",
    )


def _explicit_lock(script: Script) -> Iterator[Hit]:
    for each in script.sentences:
        if each.starts("lock"):
            yield Hit(
                each,
                "the lock is held until the tenant's whole transaction ends, with all migrations that it lacks",
                "let each statement take the lock that it needs; they are bounded by lock_timeout",
            )


def _drop_cascade(script: Script) -> Iterator[Hit]:
    for each in script.sentences:
        drops = each.starts("drop") or (each.starts("alter", "table") and any(_drops(part) for part in _actions(each)))
        if drops and each.has("cascade"):
            yield Hit(
                each,
                "CASCADE also drops what a tenant has that the folder does not know, and says nothing about it",
                "drop what depends on it by name, without CASCADE: a tenant that has more is then named",
            )


def _drops(action: Clause) -> bool:
    return action.starts("drop")


def _new_enum_value(script: Script) -> Iterator[Hit]:
    if any(each.outside for each in script.sentences):
        return
    made = _made(script)
    for position, each in enumerate(script.sentences):
        if not each.starts("alter", "type"):
            continue
        name, index = each.name_at(2)
        if name in made or not each.at(index, "add", "value"):
            continue
        value = each.tokens[each.after(index + 2, "if", "not", "exists")].value
        for later in script.sentences[position + 1 :]:
            if any(token.kind == "string" and token.value == value for token in later.tokens):
                yield Hit(
                    later,
                    f"the new value '{value}' of {name} cannot be used in the transaction that adds it (55P04)",
                    "put the use into a rollout of its own: roll out the value first (`--through`), then this",
                )


# ------------------------------------------------------------------------- what squawk has as well, where it is missing


def _index_creation(script: Script) -> Iterator[Hit]:
    made = _made(script)
    for each in script.sentences:
        if not each.starts("create") or each.has("concurrently"):
            continue
        index = each.after(1, "unique")
        at = each.find("on")
        if not each.at(index, "index") or at is None:
            continue
        table = each.name_at(each.after(at + 1, "only"))[0]
        if table not in made:
            yield Hit(
                each,
                f"nobody writes to {table} until the index is built",
                "write CREATE INDEX CONCURRENTLY, in a migration of its own",
            )


def _index_deletion(script: Script) -> Iterator[Hit]:
    for each in script.sentences:
        if each.starts("drop", "index") and not each.starts("drop", "index", "concurrently"):
            yield Hit(
                each,
                "it locks the index's table against everybody",
                "write DROP INDEX CONCURRENTLY, in a migration of its own",
            )


def _drop_column(script: Script) -> Iterator[Hit]:
    for each, action in _table_actions(script):
        if action.starts("drop") and not action.starts("drop", "constraint"):
            index = action.after(1, "column", "if", "exists")
            yield Hit(
                each,
                f"clients that still read or write the column {action.name_at(index)[0]} fail from then on",
                "first release an application that does without it; then drop it in a later rollout",
            )


def _drop_table(script: Script) -> Iterator[Hit]:
    made = _made(script)
    for each in script.sentences:
        if each.starts("drop", "table"):
            name = each.name_at(each.after(2, "if", "exists"))[0]
            if name not in made:
                yield Hit(
                    each,
                    f"clients that still use {name} fail from then on, and its rows are gone",
                    "first release an application that does without it; then drop it in a later rollout",
                )


def _rename_column(script: Script) -> Iterator[Hit]:
    for each, action in _table_actions(script):
        if action.starts("rename") and not action.starts("rename", "to") and not action.starts("rename", "constraint"):
            yield Hit(
                each,
                "clients that use the old name fail from then on, and those of the new one until then",
                "add a column with the new name, write both for a while, then drop the old one",
            )


def _rename_table(script: Script) -> Iterator[Hit]:
    for each, action in _table_actions(script):
        if action.starts("rename", "to"):
            yield Hit(
                each,
                "clients that use the old name fail from then on, and those of the new one until then",
                "keep a view with the old name for a while",
            )


def _required_field(script: Script) -> Iterator[Hit]:
    for each, action in _table_actions(script):
        if not action.starts("add") or action.starts("add", "constraint"):
            continue
        serial = any(token.value in {"serial", "bigserial", "smallserial"} for token in action.tokens)
        given = action.has("default") or action.has("generated") or serial
        if action.has("not", "null") and not given:
            yield Hit(
                each,
                "a tenant with rows refuses a column that is NOT NULL and has no default",
                "give it a DEFAULT, or add it without NOT NULL, fill it, and set NOT NULL in a later migration",
            )


def _set_not_null(script: Script) -> Iterator[Hit]:
    for each, action in _table_actions(script):
        if action.starts("alter") and action.has("set", "not", "null"):
            yield Hit(
                each,
                "the whole table is read under a lock against everybody",
                "add CHECK (... IS NOT NULL) NOT VALID, validate it in a later migration, then set NOT NULL",
            )


def _column_type(script: Script) -> Iterator[Hit]:
    for each, action in _table_actions(script):
        _, index = action.name_at(action.after(1, "column"))
        if action.starts("alter") and (action.at(index, "type") or action.at(index, "set", "data", "type")):
            yield Hit(
                each,
                "most changes of a type rewrite the table under a lock against everybody",
                "add a column of the new type, fill it, and change over in a later rollout",
            )


def _unproved_constraint(script: Script) -> Iterator[Hit]:
    for each, action in _table_actions(script):
        if not action.starts("add") or action.has("not", "valid"):
            continue
        named = action.starts("add", "constraint")
        kind = action.tokens[3 if named else 1 :][:1]
        if kind and kind[0].kind == "word" and kind[0].value in {"foreign", "check"}:
            yield Hit(
                each,
                "all rows are checked while the table is locked against writing",
                "add it NOT VALID, and VALIDATE CONSTRAINT in a later migration",
            )


def _actions(each: Sentence) -> Iterator[Clause]:
    """The actions of an ALTER TABLE."""
    _, index = each.name_at(each.after(2, "if", "exists", "only"))
    if index < len(each.tokens) and each.tokens[index].value == "*":
        index += 1
    return each.parts(index)


def _table_actions(script: Script) -> Iterator[tuple[Sentence, Clause]]:
    """Actions of ALTER TABLE on tables that were there before this migration."""
    made = _made(script)
    for each in script.sentences:
        table = _altered(each)
        if table is not None and table not in made:
            for action in _actions(each):
                yield each, action


def _made(script: Script) -> frozenset[str]:
    """Tables and types that this migration makes itself: nobody uses them yet, and they are empty."""
    made: set[str] = set()
    for each in script.sentences:
        if not each.starts("create"):
            continue
        index = each.after(1, "global", "local", "temporary", "temp", "unlogged")
        if each.at(index, "table") or each.at(index, "type"):
            made.add(each.name_at(each.after(index + 1, "if", "not", "exists"))[0])
    return frozenset(made)


_RULES: Final = (
    Rule("lock-timeout-disabled", "block", _lock_timeout),
    Rule("setting-outlives-migration", "warn", _setting_stays),
    Rule("data-change-with-ddl", "warn", _data_with_ddl),
    Rule("mixed-nontransactional", "warn", _outside_with_others),
    Rule("explicit-lock", "warn", _explicit_lock),
    Rule("drop-cascade", "warn", _drop_cascade),
    Rule("enum-value-used-at-once", "block", _new_enum_value),
    Rule("require-concurrent-index-creation", "warn", _index_creation, shared=True),
    Rule("require-concurrent-index-deletion", "warn", _index_deletion, shared=True),
    Rule("ban-drop-column", "warn", _drop_column, shared=True),
    Rule("ban-drop-table", "warn", _drop_table, shared=True),
    Rule("renaming-column", "warn", _rename_column, shared=True),
    Rule("renaming-table", "warn", _rename_table, shared=True),
    Rule("adding-required-field", "warn", _required_field, shared=True),
    Rule("adding-not-nullable-field", "warn", _set_not_null, shared=True),
    Rule("changing-column-type", "warn", _column_type, shared=True),
    Rule("constraint-missing-not-valid", "warn", _unproved_constraint, shared=True),
)
