"""The API over a fake cell: what a branch holds is tested on a real one, in tests/cli."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.environments.nonproduction import prepare_nonproduction
from tenantry.fleet.environments.records import Place
from tenantry.neon.client import NeonClient
from tenantry.testing.fake_api import FakeApi


@pytest.fixture
def client() -> Iterator[NeonClient]:
    with FakeApi() as api, NeonClient(api.base_url, api.key) as client:
        yield client


@pytest.fixture
def place(catalog: Catalog, client: NeonClient) -> Place:
    return Place(client, prepare_nonproduction(catalog, client))
