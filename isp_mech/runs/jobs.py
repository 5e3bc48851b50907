"""Jobs: what has to be computed for tasks on models, and the names of the units that come of it.

A job is one step (score, trace, locate, verify) on one model and one task, or on a shard of its pairs; it gives a
few tables, and each of them is a unit of its own. Nothing here loads a model, or torch.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from isp_mech.families import Family, Size
from isp_mech.runs.fingerprints import content_of
from isp_mech.tasks import PairSet
from isp_mech.runs.run_directory import unit_name
from isp_mech.sites import DECISION, METHODS, REPLACEMENTS
from isp_mech.tables import make_run
from isp_mech.tasks import Task

STEPS = ("score", "trace", "locate", "verify")
TABLES = {
    "score": ("scores", "items", "curve", "shares", "values", "value_curve", "rule_differences"),
    "trace": ("lens", "attention", "direct_effects", "onset"),
    "locate": ("effects", "sites", "stability", "story"),
    "verify": ("verification",),
}
NEEDS: Mapping[str, tuple[str, ...]] = {"score": (), "trace": (), "locate": (), "verify": ("locate",)}
SHARDED = ("score", "trace")  # steps whose rows do not depend on the other pairs
SUMMARIES = ("curve", "shares", "value_curve", "onset")  # made of all shards' rows
JOINED = ("story",)  # made of all models' tables: no unit of its own


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a job is computed with. ``threads`` None leaves torch's number; ``shard`` 0 keeps all pairs together."""

    seed: int = 0
    rule: str = "strict"
    replacement: tuple[str, ...] = ("mean",)
    method: str = METHODS[0]
    positions: str = DECISION
    n_random: int = 200
    share: float = 0.1
    batch_size: int | str = "auto"
    device: str = "cpu"
    device_map: str | None = None
    dtype: str = "float32"
    threads: int | None = None
    shard: int = 0

    def problems(self) -> list[str]:
        """Everything that is wrong with them, one line each."""
        kinds, batch = self.replacement, self.batch_size
        wrong = [f"replacement {k!r}: expected one of {', '.join(REPLACEMENTS)}" for k in kinds
                 if k not in REPLACEMENTS]  # fmt: skip
        if not kinds or len(set(kinds)) < len(kinds):
            wrong.append(f"replacement {list(kinds)}: expected one or more, each once")
        if self.method not in METHODS:
            wrong.append(f"method {self.method!r}: expected one of {', '.join(METHODS)}")
        if not isinstance(self.positions, str) or not self.positions:
            wrong.append(f"positions {self.positions!r}: expected {DECISION}, or the name of a role")
        elif self.positions != DECISION and self.method != METHODS[0]:
            wrong.append(f"method {self.method!r} with positions {self.positions!r}: expected method {METHODS[0]}")
        if batch != "auto" and not _whole(batch, 1):
            wrong.append(f"batch size {batch!r}: expected 'auto' or a whole number, 1 or more")
        if not isinstance(self.share, int | float) or not 0 < self.share <= 1:
            wrong.append(f"share {self.share!r}: expected a share of the sites over 0 and up to 1")
        if not _whole(self.n_random, 1):
            wrong.append(f"random sets {self.n_random!r}: expected a whole number, 1 or more")
        if self.rule not in ("strict", "prize"):
            wrong.append(f"rule {self.rule!r}: expected strict or prize")
        if self.dtype not in ("float32", "bfloat16", "float16"):
            wrong.append(f"dtype {self.dtype!r}: expected float32, bfloat16 or float16")
        for name in ("device", "device_map"):
            value = getattr(self, name)
            if not (isinstance(value, str) and value) and not (name == "device_map" and value is None):
                wrong.append(f"{name} {value!r}: expected a text, as cpu, cuda or cuda:1 (device_map: auto)")
        for name, least in (("seed", 0), ("threads", 1), ("shard", 0)):
            value = getattr(self, name)
            if not _whole(value, least) and not (name == "threads" and value is None):
                wrong.append(f"{name} {value!r}: expected a whole number, {least} or more")
        return wrong

    def of_step(self, step: str) -> dict[str, Any]:
        """Those that only this step depends on."""
        drawn = {"n_random": self.n_random, "share": self.share}
        located = {"replacement": list(self.replacement), "method": self.method, "positions": self.positions}
        own: dict[str, dict[str, Any]] = {"score": {"rule": self.rule}, "trace": {}, "locate": located}
        return own.get(step, {**located, **drawn})

    def of_all(self) -> dict[str, Any]:
        """Those that every step depends on."""
        return {
            "seed": self.seed,
            "dtype": self.dtype,
            "device": self.device.split(":")[0],
            "device_map": self.device_map,
            "batch_size": self.batch_size,
            "threads": self.threads,
        }


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < 2**31


@dataclass(frozen=True, eq=False)
class Job:
    """One step (or scoring and tracing, by the same forwards) on one model and one task or shard.

    ``units`` maps the tables that come of it to their keys. ``needs`` is the job whose tables it reads.
    ``stamp`` is what every one of its tables says of its own making.
    """

    steps: tuple[str, ...]
    units: Mapping[str, Mapping[str, Any]]
    size: Size
    weights: str
    subject: PairSet | Task
    settings: Settings
    stamp: Mapping[str, Mapping[str, str]]
    needs: Job | None = None

    @cached_property
    def files(self) -> tuple[str, ...]:
        """The names of its units' files."""
        return tuple(unit_name(name, key) for name, key in self.units.items())

    @property
    def name(self) -> str:
        """What progress and messages call it."""
        return f"{self.size.name}: {' and '.join(self.steps)}: {self.subject.name}"

    @property
    def model(self) -> tuple[str, ...]:
        """What a worker keeps loaded."""
        s = self.settings
        return self.size.path_or_id, self.weights, s.dtype, s.device, s.device_map or "", str(s.threads)


@dataclass(frozen=True, eq=False)
class Part:
    """One task on one family: whose tables are joined. ``origin`` is how the command line is told the task."""

    subject: PairSet | Task
    family: Family
    steps: tuple[str, ...]
    settings: Settings
    origin: str
    jobs: tuple[Job, ...]

    @property
    def tables(self) -> tuple[str, ...]:
        """The names of its tables."""
        whole = {"score", "trace", "locate"} <= set(self.steps) and self.settings.positions == DECISION
        missing = without(self.subject) | (set() if whole else set(JOINED))  # a story has all its tables
        return tuple(name for step in self.steps for name in TABLES[step] if name not in missing)


def part_of(
    subject: PairSet | Task,
    family: Family,
    *,
    steps: Sequence[str],
    settings: Settings,
    weights: Mapping[str, str],
    origin: str = "",
) -> Part:
    """The jobs of ``steps``, and of those that they need, in an order in which each can be computed.

    ``weights`` are the fingerprints of the family's members by name.
    """
    wanted = tuple(step for step in STEPS if step in steps or any(step in NEEDS[later] for later in steps))
    code = make_run(model="", task="", method="")
    common = {"task": subject.name, "versions": dict(code.versions), "commit": code.commit, **settings.of_all()}
    pieces = [(piece, content_of(piece)) for piece in _shards(subject, settings.shard)]
    whole = pieces if len(pieces) == 1 else [(subject, content_of(subject))]
    jobs = []
    for size in family.members:
        key = {**common, "model": [size.name, size.n_params, size.revision, weights[size.name]]}
        made: dict[str, Job] = {}
        for group in _groups(wanted, settings):
            for piece, content in pieces if group[0] in SHARDED else whole:
                skipped = without(subject) | set(JOINED) | (set(SUMMARIES) if piece is not subject else set())
                step_of = {name: step for step in group for name in TABLES[step] if name not in skipped}
                units = {name: {**key, "content": content, **settings.of_step(s)} for name, s in step_of.items()}
                stamp = {
                    name: stamp_of(step, origin, family, [size], settings, weights[size.name], content)
                    for name, step in step_of.items()
                }
                needs = next((made[step] for step in NEEDS[group[0]]), None)
                jobs.append(Job(group, units, size, weights[size.name], piece, settings, stamp, needs))
                made |= {step: jobs[-1] for step in group}
    return Part(subject, family, wanted, settings, origin, tuple(jobs))


def _groups(steps: Sequence[str], settings: Settings) -> list[tuple[str, ...]]:
    """The steps, those together that share their forwards."""
    if {"score", "trace"} <= set(steps) and settings.rule == "strict":
        return [("score", "trace"), *((step,) for step in steps if step not in ("score", "trace"))]
    return [(step,) for step in steps]


def _shards(subject: PairSet | Task, shard: int) -> list[PairSet | Task]:
    if not 0 < shard < len(subject):
        return [subject]
    return [subject.take(range(i, min(i + shard, len(subject)))) for i in range(0, len(subject), shard)]


def without(subject: PairSet | Task) -> set[str]:
    """The tables of scoring that the subject does not have."""
    if isinstance(subject, PairSet):
        return {"values", "value_curve"}
    by_metric = {"classification": {"values", "value_curve"}, "numeric": {"rule_differences"}}
    return {"shares", *by_metric.get(subject.metric, set())}


# --- what a table says of its making ----------------------------------------------------------------


def stamp_of(
    step: str, origin: str, family: Family, sizes: Sequence[Size], settings: Settings, weights: str, content: str
) -> dict[str, str]:
    """Fields for a Run's settings: the fingerprints, and the command that makes the table again."""
    return {"content": content, "weights": weights, "command": _command(step, origin, family, sizes, settings)}


def _command(step: str, origin: str, family: Family, sizes: Sequence[Size], settings: Settings) -> str:
    defaults, step_settings = Settings(), settings.of_step(step)
    words = ["isp-mech", step, *(shlex.split(origin) or ["pairs.jsonl"])]
    if "--seed" not in words and settings.seed:
        words += ["--seed", str(settings.seed)]
    if family.kind == "embedded":
        words += ["--family", family.name]
        if len(sizes) < len(family):
            words += ["--sizes", ",".join(size.name for size in sizes)]
    else:
        words += [word for size in sizes for word in ("--family", size.path_or_id)]
    revisions = {size.revision for size in sizes if size.revision}
    words += [word for revision in sorted(revisions) for word in ("--revision", revision)]
    names = {"n_random": "random"}
    for name in (*step_settings, "device", "device_map", "dtype", "batch_size", "threads", "shard"):
        value = getattr(settings, name)
        if value != getattr(defaults, name) or name == "device":
            text = ",".join(value) if isinstance(value, tuple) else str(value)
            words += [f"--{names.get(name, name).replace('_', '-')}", text]
    return shlex.join(words)
