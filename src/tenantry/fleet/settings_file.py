"""The file that ``tenantry init`` writes, and the JSON schema for editors: both made from the settings themselves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final, cast

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from tenantry.fleet.settings import Settings

SCHEMA_NAME: Final = "tenantry.schema.json"
"""Beside the file, whose first line points editors (taplo, VS Code's Even Better TOML) to it."""

_HEAD: Final = f"""\
#:schema ./{SCHEMA_NAME}
# What Tenantry does in this repository. Each line shows a default: take its # away and change it.
# The environment says the same by TENANTRY_SECTION__NAME, and a command's flag outranks both.
"""


def commented_file() -> str:
    """A ``tenantry.toml`` that changes nothing, and says everything that could be."""
    return "\n".join([_HEAD, *_sections()])


def json_schema() -> str:
    """Of ``tenantry.toml``, with a line break at its end."""
    schema = Settings.model_json_schema()
    schema["$schema"] = "http://json-schema.org/draft-07/schema#"
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"


def _sections() -> Iterator[str]:
    for name, field in Settings.model_fields.items():
        section = field.annotation
        assert isinstance(section, type) and issubclass(section, BaseModel), "every setting is in a section"
        yield f"# {' '.join((section.__doc__ or '').split())}"
        yield f"[{name}]"
        for key, said in section.model_fields.items():
            yield f"# {said.description}"
            default = said.get_default(call_default_factory=True)
            example = said.examples[0] if said.examples else default
            assert default is not PydanticUndefined, "every setting has a default"
            yield f"# {key} = {_toml(example)}" if example is not None else f"# {key} ="
        yield ""


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, cast('list[object]', value)))}]"
    if isinstance(value, dict):
        pairs = (f"{json.dumps(key)} = {_toml(item)}" for key, item in cast("dict[str, object]", value).items())
        return f"{{ {', '.join(pairs)} }}"
    return json.dumps(str(value), ensure_ascii=False)
