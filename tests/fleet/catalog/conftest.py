from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.upgrade import upgrade_catalog


@pytest.fixture
def catalog(new_database: Callable[[], str]) -> Iterator[Catalog]:
    """A catalog of this release, without tenants."""
    catalog = Catalog(new_database())
    upgrade_catalog(catalog)
    yield catalog
    catalog.close()
