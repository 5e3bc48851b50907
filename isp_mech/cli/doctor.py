"""What is installed here and how fast it is: what ``isp-mech doctor`` prints. Torch is imported late."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import Requirement

from isp_mech import families

if TYPE_CHECKING:
    import pandas as pd

    from isp_mech.tables import Table

PACKAGE = "isp_mech"
SIZE, TASK, PAIRS = "ladder-335k", "quote-repetition", 12  # what is measured
SECONDS, ROUNDS = 3.0, 3  # no new round after so long; a round takes one or two
LIMIT = 1e-4  # |fast - plain| / (1 + |plain|): a larger gap is no rounding
NO_MEASURES = ["p", "q"]  # of an effect of 0, rounding decides on them


@dataclass(frozen=True)
class Installed:
    """One package that ours asks for: which versions, and which is there (None: none)."""

    name: str
    expected: str
    version: str | None
    fits: bool


@dataclass(frozen=True)
class FastPath:
    """One fast path, whether it is on, and if not, why."""

    name: str
    on: bool
    why: str = ""


@dataclass(frozen=True)
class Cache:
    """A folder that grows, and what its files take, bytes."""

    name: str
    folder: str
    bytes: int


@dataclass(frozen=True)
class Measured:
    """A verb on the ladder, the fast way and the plain way: seconds (the best of the rounds), their ratio, and the
    largest gap between their numbers, |fast - plain| / (1 + |plain|)."""

    verb: str
    fast: float
    plain: float
    ratio: float
    gap: float


@dataclass(frozen=True)
class Health:
    """All that was found. ``problems`` are what has to be put right before anything can be measured."""

    problems: tuple[str, ...]
    packages: tuple[Installed, ...]
    extras: Mapping[str, tuple[str, ...]]  # what is missing of each
    machine: Mapping[str, str | int] = field(default_factory=dict)
    fast_paths: tuple[FastPath, ...] = ()
    caches: tuple[Cache, ...] = ()
    measured: tuple[Measured, ...] = ()


def examine() -> Health:
    """Everything; where a package that is needed is not there, only what is installed."""
    texts = metadata.requires(PACKAGE) or []
    packages = installed(texts)
    extras = {
        extra: tuple(each.name for each in installed(texts, extra) if not each.fits)
        for extra in metadata.metadata(PACKAGE).get_all("Provides-Extra") or []
    }
    problems = [
        f"{each.name}: found {each.version or 'none'}, expected {each.expected or 'any version'}"
        for each in packages
        if not each.fits
    ]
    weights = families.LADDER_WEIGHTS / SIZE
    if not weights.is_dir():
        problems.append(f"{weights}: no such folder, expected the weights that come with the package")
    if problems:
        return Health(tuple(problems), packages, extras)
    measured = measure(weights)
    problems += [
        f"{each.verb}: fast and plain numbers are {each.gap:.1e} apart, expected {LIMIT:g} or less"
        for each in measured
        if not each.gap <= LIMIT
    ]
    return Health(tuple(problems), packages, extras, machine(), fast_paths_here(), caches(), measured)


# --- what is there --------------------------------------------------------------------------------------


def installed(requirements: Sequence[str], extra: str = "") -> tuple[Installed, ...]:
    """Those of the ``requirements`` that hold here: without ``extra`` the needed ones, with it those that it adds."""
    found = []
    for text in requirements:
        wanted = Requirement(text)
        holds = wanted.marker is None or wanted.marker.evaluate({"extra": extra})
        if not holds or bool(extra) != ("extra ==" in str(wanted.marker)) or wanted.name.replace("-", "_") == PACKAGE:
            continue
        version = _version(wanted.name)
        fits = version is not None and wanted.specifier.contains(version, prereleases=True)
        found.append(Installed(wanted.name, str(wanted.specifier), version, fits))
    return tuple(found)


def _version(name: str) -> str | None:
    return next((each.version for each in metadata.distributions(name=name)), None)


def machine() -> dict[str, str | int]:
    """Python, processor, threads, memory (bytes) and GPUs."""
    import torch

    from isp_mech.models import free_bytes

    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "memory free": free_bytes("cpu"),
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        **{f"GPU {i}": gpu.name for i, gpu in enumerate(gpus)},
        **{f"GPU {i} memory free": free_bytes(f"cuda:{i}") for i in range(len(gpus))},
    }


def _processor() -> str:
    known = Path("/proc/cpuinfo")
    lines = known.read_text().splitlines() if known.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def fast_paths_here() -> tuple[FastPath, ...]:
    """Every fast path of a CPU, on or off."""
    import torch

    from isp_mech.inference.parallel_batches import STREAMS
    from isp_mech.models.fast_linear import has_fast_products
    from isp_mech.models.fast_paths import fast_paths

    threads, instructions = torch.get_num_threads(), torch.backends.cpu.get_cpu_capability()
    off = {
        "shared beginnings, the last layer where it is read, attention over prefixes": "",
        "linear layers by oneDNN": "" if has_fast_products() else f"the processor has {instructions}, expected AVX512",
        "two batches at once": "" if threads >= STREAMS else f"torch has {threads} thread, expected {STREAMS} or more",
    }
    if not fast_paths():
        off = dict.fromkeys(off, "ISP_MECH_PLAIN is 1")
    return tuple(FastPath(name, not why, why) for name, why in off.items())


def caches() -> tuple[Cache, ...]:
    """Where files pile up: downloads of the hub, and converted GGUF files."""
    from huggingface_hub.constants import HF_HUB_CACHE

    from isp_mech.models.gguf import cache_folder

    folders = {"hub": Path(HF_HUB_CACHE), "gguf": cache_folder()}
    return tuple(Cache(name, str(folder), size_of(folder)) for name, folder in folders.items())


def size_of(folder: Path) -> int:
    """The bytes of the files below ``folder``; links, by which the hub names its files a second time, count nothing."""
    files = (Path(root, name) for root, _, names in os.walk(folder) for name in names)
    return sum(file.lstat().st_size for file in files if file.is_file() and not file.is_symlink())


# --- how fast it is -------------------------------------------------------------------------------------


def measure(weights: Path, *, clock: Callable[[], float] = time.perf_counter) -> tuple[Measured, ...]:
    """Scoring and tracing ``PAIRS`` pairs with the model in ``weights``, the fast way and the plain way in turn."""
    import isp_mech as im

    pairs, model = im.contrast(TASK, n=PAIRS), im.load_model(weights)
    verbs: dict[str, Callable[[], Table]] = {
        "score": lambda: im.score(pairs, model).scores,
        "trace": lambda: im.trace(pairs, model).effects,
    }
    took: dict[tuple[str, bool], list[float]] = {(verb, plain): [] for verb in verbs for plain in (False, True)}
    made: dict[tuple[str, bool], Table] = {}
    began = clock()
    for _ in range(ROUNDS):
        for verb, plain in took:
            with _way(plain):
                start = clock()
                made[verb, plain] = verbs[verb]()
                took[verb, plain].append(clock() - start)
        if clock() - began >= SECONDS:
            break
    best = {key: min(times) for key, times in took.items()}
    return tuple(
        Measured(verb, best[verb, False], best[verb, True], best[verb, True] / best[verb, False],
                 gap(made[verb, False].frame, made[verb, True].frame))
        for verb in verbs
    )  # fmt: skip


def gap(fast: pd.DataFrame, plain: pd.DataFrame) -> float:
    """The largest |fast - plain| / (1 + |plain|) over all numbers of two tables; infinite where one has a number and
    the other none."""
    import numpy as np

    names = plain.select_dtypes("number").columns.difference(NO_MEASURES)
    ours, theirs = (each[names].to_numpy(dtype=float) for each in (fast, plain))
    if ours.shape != theirs.shape or (np.isnan(ours) != np.isnan(theirs)).any():
        return float("inf")
    return float(np.nanmax(np.abs(ours - theirs) / (1 + np.abs(theirs)), initial=0.0))


@contextmanager
def _way(plain: bool) -> Iterator[None]:
    """Fast paths off or on within, whatever they are outside."""
    switch = "ISP_MECH_PLAIN"
    before = os.environ.get(switch)
    os.environ[switch] = "1" if plain else "0"
    try:
        yield
    finally:
        del os.environ[switch]
        if before is not None:
            os.environ[switch] = before
