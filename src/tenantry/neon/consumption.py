"""The contract's answers about consumption over time, under our names; the contract's stand beside them."""

from __future__ import annotations

from datetime import datetime

from tenantry.neon.shapes import Pagination, Shape


class Metric(Shape):
    """``ConsumptionMetricValue``."""

    metric_name: str
    value: int


class LegacyFrame(Shape):
    """``ConsumptionHistoryPerTimeframe``."""

    timeframe_start: datetime
    timeframe_end: datetime
    active_time_seconds: int
    compute_time_seconds: int
    written_data_bytes: int
    synthetic_storage_size_bytes: int
    data_storage_bytes_hour: int | None = None
    logical_size_bytes: int | None = None
    logical_size_bytes_hour: int | None = None


class UsageFrame(Shape):
    """``ConsumptionHistoryPerTimeframeV2``."""

    timeframe_start: datetime
    timeframe_end: datetime
    metrics: list[Metric]


class _Period(Shape):
    period_id: str
    period_plan: str
    period_start: datetime
    period_end: datetime | None = None
    """Of past periods only."""


class LegacyPeriod(_Period):
    """``ConsumptionHistoryPerPeriod``."""

    consumption: list[LegacyFrame]


class UsagePeriod(_Period):
    """``ConsumptionHistoryPerPeriodV2``."""

    consumption: list[UsageFrame]


class LegacyOfProject(Shape):
    """``ConsumptionHistoryPerProject``."""

    project_id: str
    periods: list[LegacyPeriod]


class LegacyHistory(Shape):
    """``ConsumptionHistoryPerProjectResponse``."""

    projects: list[LegacyOfProject]
    pagination: Pagination | None = None


class AccountHistory(Shape):
    """``ConsumptionHistoryPerAccountResponse`` of an older edition."""

    periods: list[LegacyPeriod]


class UsageOfProject(Shape):
    """``ConsumptionHistoryPerProjectV2``."""

    project_id: str
    periods: list[UsagePeriod]


class UsageHistory(Shape):
    """``ConsumptionHistoryPerProjectV2Response``."""

    projects: list[UsageOfProject]
    pagination: Pagination | None = None


class UsageOfBranch(Shape):
    """``ConsumptionHistoryPerBranchV2``."""

    project_id: str
    branch_id: str
    periods: list[UsagePeriod]


class BranchUsageHistory(Shape):
    """``ConsumptionHistoryPerBranchV2Response``."""

    branches: list[UsageOfBranch]
    pagination: Pagination | None = None
