"""A run directory: what is done is never done again, and what is half done is not there.

    units/<name>-<first 16 hex digits of the sha256 of the key>.parquet
    log.jsonl           what was computed, when, and how long it took; for people, nothing depends on it

A unit's key says everything that determines its table (model and weights, task and content, settings, seed, ...).
Another key is another file, so changing a setting leaves finished work alone.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from isp_mech.errors import InputError
from isp_mech.runs.storage import Folder, open_folder
from isp_mech.tables import Table, checksum_of_bytes, table_of_bytes

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,99}")
DIGITS = 16
Found = TypeVar("Found")


@dataclass(frozen=True)
class RunDirectory:
    """A folder of finished units, at a path or at a URL that fsspec reaches; it is made when first written to.

    A unit is one parquet file, written under a temporary name, synced and renamed: it is whole or not
    there, at whatever moment the process is killed, and two processes may work on one folder.
    ``InputError`` where ``path`` is a file, or a URL that cannot be reached.
    """

    path: str | Path
    folder: Folder

    def __init__(self, path: str | os.PathLike[str]) -> None:
        folder = open_folder(path)
        object.__setattr__(self, "folder", folder)
        object.__setattr__(self, "path", folder.local or str(path))

    def __reduce__(self) -> tuple[type[RunDirectory], tuple[str | Path]]:  # workers open it anew
        return RunDirectory, (self.path,)

    def unit(self, name: str, key: Mapping[str, Any], compute: Callable[[], Table]) -> Table:
        """The table of the unit ``name`` with this ``key``: read where it is finished, else computed and kept.

        A file that is damaged, or holds another unit's table, is reported by a warning and computed
        again. What ``compute`` raises passes through, and nothing is written. ``ValueError`` for a name
        that is no plain word or a key that JSON cannot carry; ``InputError`` where there is no room for it.
        """
        found = self.read(name, key)
        if found is None:
            found = compute()
            self.keep(name, key, found)
        return found

    def read(self, name: str, key: Mapping[str, Any]) -> Table | None:
        """The unit's table; None where it is not finished, and, with a warning, where its file is damaged."""
        return self._read(unit_name(name, key), "computed again", table_of_bytes)

    def checksum(self, name: str, key: Mapping[str, Any]) -> str | None:
        """The checksum of the whole unit, held against what it holds; None as in ``read``. No Table is made."""
        return self._read(unit_name(name, key), "computed again", checksum_of_bytes)

    def keep(self, name: str, key: Mapping[str, Any], made: Table) -> None:
        """Writes the unit: from now on it is finished."""
        file = unit_name(name, key)
        self.folder.write(f"units/{file}", made.to_bytes(key=file.removesuffix(".parquet")))

    def finished(self) -> frozenset[str]:
        """The names of all files in ``units``: one look, nothing is opened."""
        return frozenset(self.folder.names("units"))

    def file(self, name: str, key: Mapping[str, Any]) -> Path:
        """Where the unit's file is or will be, always inside the run directory."""
        return Path(self.path) / "units" / unit_name(name, key)

    def tables(self, name: str) -> tuple[Table, ...]:
        """The tables of all finished units called ``name``, in the order of their files' names.

        A damaged file is left out and reported by a warning; files that are no units are passed over.
        """
        ours = re.compile(rf"{re.escape(name)}-[0-9a-f]{{{DIGITS}}}\.parquet")
        files = [file for file in sorted(self.finished()) if ours.fullmatch(file)]
        found = [self._read(file, "left out", table_of_bytes) for file in files]
        return tuple(table for table in found if table is not None)

    def _read(self, file: str, otherwise: str, made_of: Callable[..., Found]) -> Found | None:
        where = self.folder.where(f"units/{file}")
        try:
            data = self.folder.read(f"units/{file}")
            return None if data is None else made_of(data, where, key=file.removesuffix(".parquet"))
        except InputError as error:
            warnings.warn(f"{where}: {'; '.join(error.problems)}: {otherwise}", stacklevel=4)
            return None

    @contextmanager
    def claim(self, what: str) -> Iterator[bool]:
        """Whether no other process is at ``what``; then it is ours until the block ends, or the process dies."""
        number = int.from_bytes(hashlib.sha256(what.encode()).digest()[:7], "big")
        with self.folder.claim(number) as ours:
            yield ours

    def log(self, event: str, **what: Any) -> None:
        """A line in ``log.jsonl``."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self.folder.append("log.jsonl", json.dumps({"event": event, **what, "time": now, "pid": os.getpid()}))


def unit_name(name: str, key: Mapping[str, Any]) -> str:
    """The name of the unit's file. ``ValueError`` for a name that is no plain word, or a key that JSON cannot carry.

    >>> unit_name("sites", {"model": "m", "seed": 0})
    'sites-ad4470ab4ce25f2b.parquet'
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"unit {name!r}: expected small letters, digits, - and _, at most 100, a letter first")
    return f"{name}-{_digest(key)[:DIGITS]}.parquet"


def _digest(key: Mapping[str, Any]) -> str:
    """sha256 of the key's canonical JSON: order of fields, and tuple or list, make no difference.

    >>> _digest({"a": 1, "b": (2,)}) == _digest({"b": [2], "a": 1})
    True
    """
    text = json.dumps(_canonical(key, "key"), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _canonical(value: Any, where: str) -> Any:
    """``value`` of built-in mappings and lists; ``ValueError`` for what has no one JSON text."""
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                raise ValueError(f"{where}: the field {name!r}: expected a text")
        return {name: _canonical(v, f"{where}[{name!r}]") for name, v in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(v, f"{where}[{i}]") for i, v in enumerate(value)]
    if value is None or isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    expected = "text, finite numbers, true, false, none, lists and mappings of them"
    raise ValueError(f"{where}: found {value!r}, expected {expected}")
