"""What the environment says of settings, by pydantic-settings; loaded only where it says something."""

from __future__ import annotations

from typing import cast

from pydantic import BaseModel, create_model
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsError

from tenantry.errors import InvalidInput


def said_by_environment(model: type[BaseModel], *, prefix: str, delimiter: str) -> dict[str, object]:
    """By sections, unchecked. Raises InvalidInput for a list or a table that is not JSON."""
    settings = cast("type[BaseSettings]", create_model("_Settings", __base__=(model, BaseSettings)))
    source = EnvSettingsSource(
        settings, case_sensitive=False, env_prefix=prefix, env_nested_delimiter=delimiter, env_ignore_empty=True
    )
    try:
        return source()
    except SettingsError as error:
        raise InvalidInput(
            f"{error}", next_step=f"lists and tables are JSON there: {prefix}WORKER{delimiter}QUEUES='[\"one\"]'"
        ) from error
