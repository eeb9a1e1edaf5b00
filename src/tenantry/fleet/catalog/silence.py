"""Who was not heard of for long, and is taken for dead by whoever clears up behind him."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ColumnElement, SQLColumnExpression, and_, func


def unheard_for(seen_at: SQLColumnExpression[datetime], seconds: float) -> ColumnElement[bool]:
    """A catalog that was away has kept everybody from saying that they live: nobody is taken for dead until it has been
    back for as long as anybody may be silent."""
    since = func.now() - func.make_interval(0, 0, 0, 0, 0, 0, seconds)
    return and_(seen_at < since, func.pg_postmaster_start_time() < since)
