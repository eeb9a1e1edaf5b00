"""Tables of SQLAlchemy's Core, declared as its ORM has them: a class for each table, a typed attribute for each column.

Nobody here uses the ORM's sessions and objects. Loading it, mapping every class and compiling its statements would take
longer than most commands take for all the rest. Type checkers see the ORM's own declarations, whose subset this is.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from inspect import get_annotations
from types import NoneType, UnionType
from typing import Any, ClassVar, Final, Generic, TypeVar, get_args

from sqlalchemy import Boolean, Column, Date, Double, Integer, LargeBinary, MetaData, Numeric, Table, Text
from sqlalchemy.dialects.postgresql import TIMESTAMP, UUID
from sqlalchemy.types import TypeEngine

T = TypeVar("T")

_TYPES: Final[Mapping[object, TypeEngine[Any]]] = {
    bool: Boolean(),
    bytes: LargeBinary(),
    date: Date(),
    datetime: TIMESTAMP(timezone=True),
    Decimal: Numeric(),
    float: Double(),
    int: Integer(),
    str: Text(),
    uuid.UUID: UUID(),
}
"""How types of Python are kept where a column does not say it."""


class Mapped(Generic[T]):
    """A column of values of this type; ``None`` among them makes it one that may be null."""


@dataclass(frozen=True, slots=True)
class _Declared:
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]


def mapped_column(*arguments: Any, **options: Any) -> _Declared:
    """What ``Column`` takes behind its name; the type may be left out."""
    return _Declared(arguments, options)


class DeclarativeBase:
    """Of the class that has the ``metadata``, whose subclasses with a ``__tablename__`` are tables."""

    metadata: ClassVar[MetaData]
    __table__: ClassVar[Table]
    __tablename__: ClassVar[str]
    __table_args__: ClassVar[tuple[Any, ...]] = ()

    def __init_subclass__(cls) -> None:
        if "__tablename__" not in cls.__dict__:
            return
        columns = [_column(cls, name, said) for name, said in get_annotations(cls, eval_str=True).items()]
        cls.__table__ = Table(cls.__tablename__, cls.metadata, *columns, *cls.__table_args__)
        for column in columns:
            setattr(cls, column.name, column)

    @classmethod
    def __clause_element__(cls) -> Table:
        """SQLAlchemy asks for this wherever a table is wanted."""
        return cls.__table__


def _column(table: type, name: str, said: Any) -> Column[Any]:
    (kept,) = get_args(said)
    members = get_args(kept) if isinstance(kept, UnionType) else (kept,)
    declared = vars(table).get(name, _Declared((), {}))
    assert isinstance(declared, _Declared), "an attribute of a table is a column"
    first = declared.arguments[0] if declared.arguments else None
    typed = isinstance(first, TypeEngine) or (isinstance(first, type) and issubclass(first, TypeEngine))
    (of_python,) = (member for member in members if member is not NoneType)
    of_postgres: tuple[Any, ...] = () if typed else (_TYPES[of_python],)
    return Column(name, *of_postgres, *declared.arguments, nullable=NoneType in members, **declared.options)
