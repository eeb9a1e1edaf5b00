"""What all of the catalog's tables stand on: how they are named, and how they are declared.

``Mapped`` and ``mapped_column`` are SQLAlchemy's for type checkers, and those of ``declared`` where the program runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import MetaData, text

if TYPE_CHECKING:
    from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
else:
    from tenantry.fleet.catalog.models.declared import DeclarativeBase, Mapped, mapped_column

__all__ = ["ID", "NAMING", "NOW", "Base", "Mapped", "mapped_column"]

NAMING: Final = {
    "ix": "%(table_name)s_%(column_0_N_name)s_idx",
    "uq": "%(table_name)s_%(column_0_N_name)s_key",
    "ck": "%(table_name)s_%(constraint_name)s_check",
    "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
    "pk": "%(table_name)s_pkey",
}

ID: Final = text("gen_random_uuid()")
NOW: Final = text("now()")


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMING)
