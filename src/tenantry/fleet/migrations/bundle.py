"""A folder of migrations packed into bytes, so that a run is executed exactly as planned on any machine.

Only folders whose files say all that is done can be packed. A format that runs a program of the user's is opened where
it lies, and compared with what was planned.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, cast

from tenantry.errors import Defect, InvalidInput
from tenantry.fleet.migrations.formats.base import Format
from tenantry.fleet.migrations.formats.folders import open_folder

BUNDLE_BYTES_MAX: Final = 32 * 1024 * 1024
"""Packed. The catalog refuses more."""
UNPACKED_BYTES_MAX: Final = 256 * 1024 * 1024
_NAMES: Final = ("*.sql", "meta/_journal.json", "migration_lock.toml", "snapshot.json")
"""The migrations, and files that say in which format and order they are."""
_DEPTH_MAX: Final = 2
"""Below the folder: a customer's folder, and a migration's within it."""


@dataclass(frozen=True, slots=True)
class Bundle:
    digest: str
    content: bytes


def pack(folder: Format) -> Bundle:
    """Raises InvalidInput for a folder that is too large."""
    files: dict[str, str] = {}
    for path in sorted(_files(folder.directory)):
        # As bytes: a line's end is part of what was applied.
        files[str(path.relative_to(folder.directory))] = path.read_bytes().decode(errors="surrogateescape")
    text = json.dumps(files, sort_keys=True).encode()
    content = zlib.compress(text, 6)
    if len(content) > BUNDLE_BYTES_MAX or len(text) > UNPACKED_BYTES_MAX:
        raise InvalidInput(
            f"the migrations in {folder.directory} have {len(content)} bytes when they are packed, more than"
            f" {BUNDLE_BYTES_MAX}",
            next_step="load data another way than through migrations",
        )
    return Bundle(hashlib.sha256(text).hexdigest(), content)


def _files(directory: Path) -> Iterator[Path]:
    for depth in range(_DEPTH_MAX + 1):
        for name in _NAMES:
            yield from (path for path in directory.glob("*/" * depth + name) if path.is_file())


@contextmanager
def unpacked(bundle: Bundle, *, through: str | None) -> Generator[Format]:
    """The folder again, somewhere temporary, through the version that was planned. Raises Defect for other bytes."""
    unzip = zlib.decompressobj()
    text = unzip.decompress(bundle.content, UNPACKED_BYTES_MAX)
    if unzip.unconsumed_tail or hashlib.sha256(text).hexdigest() != bundle.digest:
        raise Defect("the catalog's copy of the migrations is not what was planned", digest=bundle.digest)
    files = cast("Mapping[str, str]", json.loads(text))
    with TemporaryDirectory(prefix="tenantry-migrations-") as temporary:
        directory = Path(temporary)
        for name, content in files.items():
            path = directory / name
            if not path.resolve().is_relative_to(directory.resolve()):
                raise Defect(f"the catalog's copy of the migrations has a file outside of it: {name}")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode(errors="surrogateescape"))
        yield open_folder(directory, through=through)
