"""``Run``: the configuration that made a table is its provenance."""

from __future__ import annotations

import json
import math
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any

Setting = str | int | float | bool | None
PACKAGES = ("isp_mech", "torch", "transformers", "transformer_lens", "numpy")


@dataclass(frozen=True)
class Run:
    """How a table was made: enough to make it again.

    ``settings`` maps names to text, numbers, truth values or None; ``notes`` are sentences that a
    reader of the numbers must know. ``revision`` is the checkpoint's, ``commit`` the library's own
    ("" outside a checkout). Raises ``ValueError`` for a setting that JSON cannot carry.
    """

    model: str
    revision: str | None
    task: str
    method: str
    seed: int | None
    dtype: str
    device: str
    versions: Mapping[str, str]
    commit: str
    settings: Mapping[str, Setting] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, value in self.settings.items():
            plain = value is None or isinstance(value, (str, bool, int, float))
            if not isinstance(name, str) or not plain or (isinstance(value, float) and not math.isfinite(value)):
                raise ValueError(f"setting {name!r} = {value!r}: expected text, a finite number, true, false or none")
        object.__setattr__(self, "settings", MappingProxyType({k: _plain(v) for k, v in sorted(self.settings.items())}))
        object.__setattr__(self, "versions", MappingProxyType(dict(sorted(self.versions.items()))))
        object.__setattr__(self, "notes", tuple(self.notes))

    def __reduce__(self) -> tuple[type[Run], tuple[object, ...]]:
        """For worker processes: a mappingproxy does not pickle."""
        values = [getattr(self, f.name) for f in fields(self)]
        return Run, tuple(dict(v) if isinstance(v, MappingProxyType) else v for v in values)

    def to_json(self) -> str:
        """The run as one line of JSON, keys sorted; equal runs give equal text."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values = {k: dict(v) if isinstance(v, Mapping) else v for k, v in values.items()}
        return json.dumps(values, sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Run:
        """The run that ``to_json`` wrote; ``ValueError`` says what is missing or unknown."""
        try:
            values = json.loads(text)
        except RecursionError:
            raise ValueError("run: JSON nested too deep") from None
        names = {f.name for f in fields(cls)}
        if not isinstance(values, dict) or set(values) != names:
            raise ValueError(f"run: expected an object with {', '.join(sorted(names))}")
        if not all(isinstance(values[name], dict) for name in ("settings", "versions")):
            raise ValueError("run: settings and versions must be objects")
        return cls(**{**values, "notes": tuple(values["notes"])})


def make_run(
    *,
    model: str,
    revision: str | None = None,
    task: str,
    method: str,
    seed: int | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    settings: Mapping[str, Setting] = MappingProxyType({}),
    notes: Iterable[str] = (),
) -> Run:
    """A Run with the versions of the packages installed and the commit of the library's checkout filled in."""
    return Run(model, revision, task, method, seed, dtype, device, _versions(), _commit(), dict(settings), tuple(notes))


def _plain(value: Setting) -> Setting:
    """The built-in type behind a setting (numpy's float64 is a float, its repr is not)."""
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return None


@lru_cache(maxsize=1)
def _versions() -> Mapping[str, str]:
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


@lru_cache(maxsize=1)
def _commit() -> str:
    """The commit of the checkout this package lies in, with ``-dirty`` after local changes; else ""."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():  # an installed copy may lie inside somebody else's checkout
        return ""
    command = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def merge_runs(runs: Sequence[Run]) -> Run:
    """One Run for rows of several.

    Fields on which the runs agree are kept; texts on which they differ are joined by ", " without
    repeats, a seed on which they differ is None and told in a note, notes are united.
    """
    if all(run == runs[0] for run in runs):
        return runs[0]
    seeds = list(dict.fromkeys(run.seed for run in runs))
    notes = dict.fromkeys(note for run in runs for note in run.notes)
    if len(seeds) > 1:
        notes[f"Made with different seeds: {', '.join(str(s) for s in seeds)}."] = None
    texts = {
        name: _joined([getattr(run, name) for run in runs])
        for name in ("model", "revision", "task", "method", "dtype", "device", "commit")
    }
    settings, versions = (
        {
            key: _joined([getattr(run, part)[key] for run in runs if key in getattr(run, part)])
            for key in dict.fromkeys(key for run in runs for key in getattr(run, part))
        }
        for part in ("settings", "versions")
    )
    return Run(
        **{**texts, "model": texts["model"] or "", "task": texts["task"] or ""},
        seed=seeds[0] if len(seeds) == 1 else None,
        versions=versions,
        settings=settings,
        notes=tuple(notes),
    )


def _joined(values: Sequence[Any]) -> Any:
    """The one value all share, or all of them as one text; joined texts are taken apart first."""
    if all(type(value) is type(values[0]) and value == values[0] for value in values):
        return values[0]
    parts = (part for value in values if value not in (None, "") for part in str(value).split(", "))
    return ", ".join(dict.fromkeys(parts))
