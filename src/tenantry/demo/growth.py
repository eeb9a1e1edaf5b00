"""The act of growth: sign-ups from a file, a larger plan, a second cell in another region, and a bill."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from tenantry.demo.teller import Teller, connect, expect, shown
from tenantry.errors import InvalidInput
from tenantry.fleet.providers.manage import (
    add_provider,
    define_residency,
    plan_removal,
    reach,
    remove_provider,
    serve_region,
)
from tenantry.fleet.providers.secrets import secret_place
from tenantry.fleet.settings import Prices
from tenantry.fleet.tenants.create_many import create_many
from tenantry.fleet.tenants.csv_rows import read_rows
from tenantry.fleet.usage.report import period_of
from tenantry.testing.throwaway import ThrowawayCell

REGION: Final = "eu-central-1"
RESIDENCY: Final = "eu"
EUROPEAN: Final = "Müller GmbH"
PAYING: Final = "acme-corp"
PLAN: Final = "scale"
PRICES: Final = Prices(compute_hour=0.16, storage_gib_month=0.35, written_gib=0.10, sent_gib=0.09)
SIGN_UPS: Final = """\
name,email,plan
Bluebird Ltd,ops@bluebird.example,launch
Copper & Sons,it@copper.example,scale
Dune Studio,not an address,launch
Elm Energy,db@elm.example,
Fjord Foods,,launch
"""
ROWS_SHOWN_MAX: Final = 4


class GrowthAct:
    def __init__(self, teller: Teller) -> None:
        self._teller = teller
        self._fleet = teller.fleet

    @property
    def scenes(self) -> Sequence[Callable[[], None]]:
        return (self.sign_ups, self.change_plan, self.second_cell, self.bill)

    def sign_ups(self) -> None:
        self._teller.scene("A file of sign-ups: each good row gets a database, a bad one is named with its line")
        done = create_many(self._fleet.create_wished, read_rows(SIGN_UPS.encode()), jobs=4)
        for row in done.rows:
            if row.reason is not None:
                self._teller.say(f"line {row.line:<7} {row.column}: {row.reason}")
        created = done.count("created")
        self._teller.say(f"{created} created, {done.count('failed')} failed  {shown(done.seconds)}")
        expect((created, done.count("failed")) == (4, 1), "four of five sign-ups are created")
        self._teller.note(f"{created} tenants from a file of {len(done.rows)} rows", done.seconds)

    def change_plan(self) -> None:
        self._teller.scene(f"{PAYING} pays for more: its limits follow at once, and nobody is woken for it")
        with self._teller.timed("change a tenant's plan, limits applied"):
            planned = self._fleet.plan_change(PAYING, PLAN)
            changed = self._fleet.change_plan(planned)
        for difference in planned.differences:
            self._teller.say(f"{difference.what:<20} {difference.found} -> {difference.wanted}")
        expect(changed.plan == PLAN, "the plan has changed")

    def second_cell(self) -> None:
        self._teller.scene(f"A second cell serves {REGION}; data of European customers stays there")
        with (
            ThrowawayCell(options=["--no-fleet", "--spares", "1", "--region", REGION]) as cell,
            tempfile.TemporaryDirectory() as directory,
        ):
            key = Path(directory) / "key"
            key.touch(mode=0o600)
            key.write_text(cell.target.api_key)
            add_provider(
                self._fleet.catalog,
                reach("eu", "cell", url=cell.target.api_url, ca=cell.target.api_ca,
                      secret_from=secret_place(env=None, file=key)),
            )  # fmt: skip
            serve_region(self._fleet.catalog, "eu", REGION)
            define_residency(self._fleet.catalog, RESIDENCY, ["eu-*"])
            with self._teller.timed("create a tenant whose data must stay in Europe"):
                tenant = self._fleet.create(EUROPEAN, residency=RESIDENCY).tenant
            self._teller.say(f"{tenant.slug:<12} region {tenant.region}  {self._teller.last}")
            expect(tenant.region == REGION, "the tenant is in Europe")
            with connect(self._fleet.url(tenant.slug)) as connection:
                connection.execute("create table invoices (id int)")
            try:
                self._fleet.create("Wrong Place Ltd", residency=RESIDENCY, region="us-east-1")
            except InvalidInput as error:
                self._teller.say(f"elsewhere    refused: {error.message}")
            else:
                expect(False, "a European customer is not put elsewhere")
            self._fleet.collect_usage()
            self._fleet.delete(tenant.slug, grace=timedelta())
            remove_provider(self._fleet.catalog, plan_removal(self._fleet.catalog, "eu"))

    def bill(self) -> None:
        self._teller.scene("What each customer has used so far, and what that costs")
        with self._teller.timed("usage of all tenants, from their meters"):
            self._fleet.collect_usage()
            today = datetime.now(UTC).date()
            told = self._fleet.usage.report(period_of(today, today, today), PRICES, by="tenant")
        for line in told.lines[:ROWS_SHOWN_MAX]:
            self._teller.say(
                f"{line.tenant:<12} {line.active_seconds:>4} s awake  {line.written_bytes / 2**20:6.1f} MiB written  "
                f"{line.storage_bytes / 2**20:6.1f} MiB kept  {line.cost:.4f} {told.currency}"
            )
        expect(any(line.written_bytes for line in told.lines), "somebody has written something")
