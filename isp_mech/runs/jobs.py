"""Jobs: what has to be computed for tasks on models, and the names of the units that come of it.

A job is one step (score, trace, locate, block, verify, restore) on one model and one task, or on a shard of its pairs;
it gives a few tables, and each of them is a unit of its own. Nothing here loads a model, or torch.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from isp_mech.contrasts import contrast_names
from isp_mech.errors import InputError, visible
from isp_mech.families import Family, Size
from isp_mech.runs.fingerprints import content_of
from isp_mech.runs.run_directory import unit_name
from isp_mech.runs.settings import STEPS, Settings, Step
from isp_mech.sites import DECISION
from isp_mech.tables import make_run
from isp_mech.tasks import PairSet, Task

TABLES: Mapping[Step, tuple[str, ...]] = {
    "score": ("scores", "items", "curve", "shares", "values", "value_curve", "rule_differences"),
    "trace": ("lens", "attention", "direct_effects", "onset"),
    "locate": ("effects", "sites", "stability", "token_attention", "story"),
    "block": ("role_effects", "head_roles", "role_stability"),
    "verify": ("verification",),
    "restore": ("restoration", "restored_pairs"),
}
NEEDS: Mapping[Step, Step] = {"verify": "locate"}
SHARDED = ("score", "trace")  # steps whose rows do not depend on the other pairs
SUMMARIES = ("curve", "shares", "value_curve", "onset")  # made of all shards' rows
JOINED = ("story",)  # made of all models' tables: no unit of its own


@dataclass(frozen=True, eq=False)
class Job:
    """One step (or scoring and tracing, by the same forwards) on one model and one task or shard.

    ``units`` maps the tables that come of it to their keys. ``needs`` is the job whose tables it reads.
    ``stamps`` is what every one of its tables says of its own making.
    """

    steps: tuple[Step, ...]
    units: Mapping[str, Mapping[str, Any]]
    size: Size
    weights: str
    subject: PairSet | Task
    settings: Settings
    stamps: Mapping[str, Mapping[str, str]]
    needs: Job | None = None

    @cached_property
    def files(self) -> tuple[str, ...]:
        """The names of its units' files."""
        return tuple(map(self.file_of, self.units))

    def file_of(self, name: str) -> str:
        """The name of the file of one unit."""
        return unit_name(name, self.units[name])

    @property
    def pairs(self) -> PairSet:
        """The subject of a step that needs pairs."""
        assert isinstance(self.subject, PairSet)
        return self.subject

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
    """One task on one family, whose tables are joined: the jobs of ``steps`` in an order in which each can be computed.

    ``weights`` are the fingerprints of the family's members by name; ``origin`` is how the command line is told
    the task. Steps that others need are added. ``InputError`` for an unknown step, and for a plain task that is
    to be more than scored.
    """

    subject: PairSet | Task
    family: Family
    steps: tuple[Step, ...]
    settings: Settings
    weights: Mapping[str, str]
    origin: str = ""

    def __post_init__(self) -> None:
        problems = [f"step {step!r}: expected some of {', '.join(STEPS)}" for step in self.steps if step not in STEPS]
        names = [size.name for size in self.family.members]
        strangers = [name for name in self.settings.chatting if name not in names]
        problems += [f"chat {name!r}: expected some of {', '.join(names)}" for name in strangers]
        beyond = [step for step in STEPS if step in self.steps and step != "score"]
        if isinstance(self.subject, Task) and beyond:
            problems.append(needs_pairs(self.subject, beyond))
        if problems:
            raise InputError("steps", problems)
        asked = [s for s in self.steps if s != "restore" or self.settings.searched]
        wanted = {*asked, *(NEEDS[step] for step in asked if step in NEEDS)}
        object.__setattr__(self, "steps", tuple(step for step in STEPS if step in wanted))

    @property
    def tables(self) -> tuple[str, ...]:
        """The names of its tables."""
        whole = {"score", "trace", "locate"} <= set(self.steps) and self.settings.positions == DECISION
        missing = without(self.subject) | (set() if whole else set(JOINED))  # a story has all its tables
        return tuple(name for step in self.steps for name in TABLES[step] if name not in missing)

    @cached_property
    def content(self) -> str:
        """The fingerprint of the task."""
        return content_of(self.subject)

    @cached_property
    def jobs(self) -> tuple[Job, ...]:
        """What has to be computed."""
        pieces = _shards(self.subject, self.settings.shard)
        contents = [content_of(piece) for piece in pieces] if len(pieces) > 1 else [self.content]
        jobs = []
        for size in self.family.members:
            made: dict[Step, Job] = {}
            for steps in self._together():
                sharded = steps[0] in SHARDED
                for piece, content in zip(pieces, contents, strict=True) if sharded else [(self.subject, self.content)]:
                    needs = made.get(NEEDS[steps[0]]) if steps[0] in NEEDS else None
                    jobs.append(self._job(steps, size, piece, content, needs))
                    made |= dict.fromkeys(steps, jobs[-1])
        return tuple(jobs)

    def _together(self) -> list[tuple[Step, ...]]:
        """The steps, those together that share their forwards."""
        if {"score", "trace"} <= set(self.steps) and self.settings.rule == "strict":
            return [("score", "trace"), *((step,) for step in self.steps if step not in SHARDED)]
        return [(step,) for step in self.steps]

    def _job(self, steps: tuple[Step, ...], size: Size, piece: PairSet | Task, content: str, needs: Job | None) -> Job:
        code, weights = make_run(model="", task="", method=""), self.weights[size.name]
        settings = self.settings.of_model(size.name)
        key = {
            "task": self.subject.name,
            "versions": dict(code.versions),
            "commit": code.commit,
            "model": [size.name, size.n_params, size.revision, weights],
            "content": content,
        }
        skipped = without(piece) | set(JOINED) | (set(SUMMARIES) if piece is not self.subject else set())
        step_of = {name: step for step in steps for name in TABLES[step] if name not in skipped}
        units = {name: {**key, **settings.key(step)} for name, step in step_of.items()}
        stamps = {
            name: {"content": content, "weights": weights, "command": self.command(step, [size])}
            for name, step in step_of.items()
        }
        return Job(steps, units, size, weights, piece, settings, stamps, needs)

    def command(self, step: Step, sizes: Sequence[Size]) -> str:
        """The command line that makes the tables of ``step`` for these sizes again."""
        words = ["isp-mech", step, *(shlex.split(self.origin) or ["pairs.jsonl"])]
        if "--seed" not in words and self.settings.seed:
            words += ["--seed", str(self.settings.seed)]
        if self.family.kind == "embedded":
            words += ["--family", self.family.name]
            if len(sizes) < len(self.family):
                words += ["--sizes", ",".join(size.name for size in sizes)]
        else:
            words += [word for size in sizes for word in ("--family", size.path_or_id)]
        revisions = {size.revision for size in sizes if size.revision}
        words += [word for revision in sorted(revisions) for word in ("--revision", revision)]
        settings = self.settings.of_model(sizes[0].name) if len(sizes) == 1 else self.settings
        return shlex.join([*words, *settings.words(step)])


def needs_pairs(task: Task, steps: Collection[str]) -> str:
    """What is wrong where a plain task is to be more than scored."""
    names = ", ".join(contrast_names())
    refused = f"{', '.join(steps)}: needs contrasting pairs, and {visible(task.name)} is a plain task"
    return f"{refused}: expected one of {names}, or a file of pairs"


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
