"""Texts from templates of ours. What is put in is quoted by the template: ``| quoted`` for YAML, JSON and TypeScript.

The templates' own marks are ``[[ ]]`` and ``[% %]``, since ``{{ }}`` belongs to GitHub's expressions.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from jinja2 import Environment

_PLAIN: Final = re.compile(r"[A-Za-z][^\n]*[^\n: ]")
_TEMPLATES: Final = Path(__file__).parent / "templates"


def render(template: str, **values: object) -> str:
    """The template's text with a line break at its end. A value that the template misses is a defect, and raises."""
    return _environment().get_template(template).render(**values).rstrip("\n") + "\n"


def quoted(value: object) -> str:
    """A string in double quotes that YAML, JSON and TypeScript read alike."""
    return json.dumps(str(value))


def as_is(value: object) -> str:
    """A line of YAML as people write it, where that is read as it stands; in quotes otherwise."""
    text = str(value)
    return text if _PLAIN.fullmatch(text) and ": " not in text and " #" not in text else quoted(text)


def hcl_quoted(value: object) -> str:
    """The same for Terraform, which also has templates of its own inside of strings."""
    return quoted(value).replace("${", "$${").replace("%{", "%%{")


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # noqa: PLC0415 - slow, and rarely needed

    environment = Environment(  # noqa: S701 - nothing of it is HTML; values are quoted where they stand
        loader=FileSystemLoader(_TEMPLATES),
        undefined=StrictUndefined,
        block_start_string="[%",
        block_end_string="%]",
        variable_start_string="[[",
        variable_end_string="]]",
        comment_start_string="[#",
        comment_end_string="#]",
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(quoted=quoted, as_is=as_is, hcl=hcl_quoted)
    return environment
