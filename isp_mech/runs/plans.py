"""Plans: which families, tasks, steps and settings; a TOML file, read whole or refused with all that is wrong.

    families = ["ladder", {family = "pythia", sizes = ["70m", "160m"], revisions = ["step3000", "step143000"]}]
    tasks    = ["neqa", "quote-repetition:twin", {task = "mine.jsonl"}, {task = "redefine-math", n = 100}]
    steps    = ["score", "trace", "locate", "verify", "restore"]      # default: these, as the task allows; "block" too

    [settings]
    n = 300
    seed = 0

Paths are relative to the plan. What is done is in the run directory's units; ``results/<family>/<task>`` holds the
tables read over them.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isp_mech.contrasts import contrast, contrast_names
from isp_mech.contrasts.pair_files import is_pairs_file, read_pairs
from isp_mech.errors import InputError
from isp_mech.families import Family, Size, family_names
from isp_mech.families import family as find_family
from isp_mech.runs.fingerprints import weights_of
from isp_mech.runs.jobs import Part, needs_pairs
from isp_mech.runs.run_directory import RunDirectory
from isp_mech.runs.settings import CHAIN, DECLARED, STEPS, Settings, Step, is_whole
from isp_mech.runs.task_folders import folder_name
from isp_mech.tasks import PairSet, Task, read_task
from isp_mech.tasks.rows import show
from isp_mech.tasks.text_files import is_there, read_text

MAX_CHARACTERS = 256 * 2**10
MAX_PARTS = 10_000
N_PAIRS = 300
_TOP = ("families", "tasks", "steps", "settings")
_FAMILY = ("family", "sizes", "revisions")
_TASK = ("task", "n", "source")


@dataclass(frozen=True)
class Plan:
    """What a plan's file says: each of ``families`` with each of ``tasks``."""

    families: tuple[Family, ...]
    tasks: tuple[tuple[PairSet | Task, str], ...]  # and how the command line is told it
    steps: tuple[Step, ...]
    settings: Settings

    def parts(self, directory: RunDirectory) -> dict[str, Part]:
        """Each task on each family, by the folder of its results. Models are fingerprinted, none is loaded."""
        sizes = {_label(i, size): size for i, family in enumerate(self.families) for size in family.members}
        weights = weights_of(sizes, directory)
        parts: dict[str, Part] = {}
        for i, family in enumerate(self.families):
            own = {size.name: weights[_label(i, size)] for size in family.members}
            for subject, origin in self.tasks:
                steps = tuple(s for s in self.steps if s == "score" or isinstance(subject, PairSet))
                parts[_folder(family, subject, parts)] = Part(subject, family, steps, self.settings, own, origin)
        return parts


def _label(place: int, size: Size) -> str:
    return f"{place} {size.name}"


def _folder(family: Family, subject: PairSet | Task, taken: Mapping[str, Part]) -> str:
    revisions = "-".join(dict.fromkeys(size.revision for size in family.members if size.revision))
    name = family.name.replace(", ", "-")
    models = folder_name(f"{name}-{revisions}" if revisions else name)
    base = f"results/{models}/{folder_name(subject.name)}"
    names = [base, *(f"{base}-{i}" for i in range(2, len(taken) + 2))]
    return next(name for name in names if name not in taken)


# --- tasks ----------------------------------------------------------------------------------------------


def read_subject(
    task: str | Path | PairSet | Task, *, n: int = N_PAIRS, seed: int = 0, source: str | Path | None = None
) -> PairSet | Task:
    """The pairs or the task that ``task`` names: a contrast (or a variant, ``neqa:twin``), a file of pairs or items."""
    if isinstance(task, PairSet | Task):
        return task
    name, _, variant = str(task).partition(":")
    if name in contrast_names():
        return contrast(name, n=n, seed=seed, source=source, variant=variant)
    if source is not None:
        raise InputError(
            "source", [f"{str(source)!r}: goes with a contrast's name, one of {', '.join(contrast_names())}"]
        )
    path = Path(task)
    if is_pairs_file(path):
        return read_pairs(path)
    if is_there(path) or path.suffix or "/" in str(task):
        return read_task(str(task))
    raise InputError(
        "task", [f"{str(task)!r}: expected one of {', '.join(contrast_names())}, or a file (.jsonl, .csv)"]
    )


def origin_of(
    task: str | Path | PairSet | Task, *, n: int = N_PAIRS, seed: int = 0, source: str | Path | None = None
) -> str:
    """The words that tell the command line of ``task``; none for one that was made in Python."""
    if isinstance(task, PairSet | Task):
        return ""
    words = [str(task)]
    if str(task).partition(":")[0] in contrast_names():
        words += ["--n", str(n), "--seed", str(seed), *(["--source", str(source)] if source else [])]
    return shlex.join(words)


# --- reading ----------------------------------------------------------------------------------------------


def read_plan(path: str | Path) -> Plan:
    """The plan of a TOML file. ``InputError`` lists everything wrong with it, and with the files it names."""
    given = _load(Path(path))
    here, problems = Path(path).parent, _Problems()
    _refuse_others(given, _TOP, "", problems)
    settings, n = _settings(given.get("settings", {}), problems)
    steps = _texts(given.get("steps", list(CHAIN)), "steps", problems)
    problems += [f"steps: {show(s)}: expected some of {', '.join(STEPS)}" for s in steps if s not in STEPS]
    families = [f for place, entry in _entries(given, "families", problems)
                for f in _families(entry, place, here, problems)]  # fmt: skip
    tasks = [t for place, entry in _entries(given, "tasks", problems)
             for t in _task(entry, place, here, n, settings.seed, problems)]  # fmt: skip
    if len(families) * len(tasks) > MAX_PARTS:
        problems.append(f"{len(families)} families on {len(tasks)} tasks: expected at most {MAX_PARTS} together")
    if not problems and "score" not in steps:
        problems += [f"tasks: {needs_pairs(task, steps)}" for task, _ in tasks if isinstance(task, Task)]
    if problems:
        raise InputError(str(path), list(dict.fromkeys(problems)))
    return Plan(tuple(families), tuple(tasks), tuple(step for step in STEPS if step in steps), settings)


class _Problems(list[str]):
    """Everything that is wrong with a plan, one line each."""

    def of(self, place: str, error: ValueError) -> None:
        """Adds what an error says, as being wrong with ``place``."""
        subject, lines = getattr(error, "subject", ""), getattr(error, "problems", (str(error),))
        self += [f"{place}: {subject}: {line}" if subject else f"{place}: {line}" for line in lines]


def _refuse_others(given: Mapping[str, Any], known: Sequence[str], place: str, problems: _Problems) -> None:
    expected = f"unknown, expected some of {', '.join(known)}"
    problems += [f"{place}{show(name)}: {expected}" for name in given if name not in known]


def _number_of_pairs(n: Any, place: str, problems: _Problems) -> int:
    if is_whole(n, 1):
        return int(n)
    problems.append(f"{place}: n: found {show(n)}, expected a whole number of pairs, 1 or more")
    return N_PAIRS


def _load(path: Path) -> dict[str, Any]:
    text = read_text(path)
    if len(text) > MAX_CHARACTERS:
        raise InputError(str(path), [f"over {MAX_CHARACTERS // 1024} kB: expected a plan, in TOML"])
    try:
        return tomllib.loads(text.replace("\r\n", "\n"))
    except RecursionError:
        raise InputError(str(path), ["nested too deep: expected a plan, in TOML"]) from None
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(str(path), [f"not TOML: {error}"]) from None


def _settings(given: Any, problems: _Problems) -> tuple[Settings, int]:
    """The settings, and the number of pairs; the defaults where they are wrong."""
    if not isinstance(given, dict):
        problems.append(f"settings: found {show(given)}, expected a table")
        return Settings(), N_PAIRS
    _refuse_others(given, ("n", *DECLARED), "settings: ", problems)
    n = _number_of_pairs(given.get("n", N_PAIRS), "settings", problems)
    try:
        return Settings(**{"threads": 1, **{name: value for name, value in given.items() if name in DECLARED}}), n
    except InputError as error:
        problems += [f"settings: {line}" for line in error.problems]
        return Settings(), n


def _entries(given: Mapping[str, Any], name: str, problems: _Problems) -> list[tuple[str, Any]]:
    entries = given.get(name, [])
    if not isinstance(entries, list) or not entries:
        problems.append(f"{name}: found {show(entries)}, expected a list of at least one")
        return []
    return [(f"{name}[{i}]", entry) for i, entry in enumerate(entries)]


def _texts(given: Any, place: str, problems: _Problems) -> list[str]:
    if not isinstance(given, list) or not given or not all(isinstance(text, str) and text for text in given):
        problems.append(f"{place}: found {show(given)}, expected a list of texts, at least one")
        return []
    return given


def _fields(entry: Any, main: str, allowed: tuple[str, ...], place: str, problems: _Problems) -> dict[str, Any] | None:
    """The entry as a table; None, and a complaint, where it is neither a text nor a table with the field ``main``."""
    row = {main: entry} if isinstance(entry, str) else entry
    if not isinstance(row, dict) or main not in row:
        problems.append(f"{place}: found {show(entry)}, expected a text, or a table with {', '.join(allowed)}")
        return None
    _refuse_others(row, allowed, f"{place}: ", problems)
    return row if set(row) <= set(allowed) else None


def _families(entry: Any, place: str, here: Path, problems: _Problems) -> list[Family]:
    row = _fields(entry, "family", _FAMILY, place, problems)
    if row is None:
        return []
    before = len(problems)
    names = _texts([row["family"]] if isinstance(row["family"], str) else row["family"], f"{place}: family", problems)
    sizes = _texts(row["sizes"], f"{place}: sizes", problems) if "sizes" in row else None
    revisions = _texts(row["revisions"], f"{place}: revisions", problems) if "revisions" in row else [None]
    if len(problems) > before:
        return []
    found = [name if name.lower() in family_names() else _local(name, here, is_dir=True) for name in names]
    try:
        given = found[0] if len(found) == 1 else found
        return [find_family(given, sizes=sizes, revision=revision) for revision in revisions]
    except ValueError as error:
        problems.of(place, error)
        return []


def _task(
    entry: Any, place: str, here: Path, n: int, seed: int, problems: _Problems
) -> list[tuple[PairSet | Task, str]]:
    row = _fields(entry, "task", _TASK, place, problems)
    if row is None:
        return []
    task, n, source = row["task"], row.get("n", n), row.get("source")
    if not isinstance(task, str) or not task or not isinstance(source, str | None):
        problems.append(f"{place}: found {show(row)}, expected texts for task and source")
        return []
    before = len(problems)
    n = _number_of_pairs(n, place, problems)
    if len(problems) > before:
        return []
    if task.partition(":")[0] not in contrast_names():
        task = _local(task, here)
    source = None if source is None else _local(source, here)
    try:
        return [(read_subject(task, n=n, seed=seed, source=source), origin_of(task, n=n, seed=seed, source=source))]
    except ValueError as error:
        problems.of(place, error)
        return []


def _local(name: str, here: Path, *, is_dir: bool = False) -> str:
    """The path beside the plan, where there is something of that name; a folder's path is made absolute."""
    try:
        path = here / Path(name).expanduser()
        if is_dir:
            return str(path.resolve()) if path.is_dir() else name
        return str(path) if path.exists() or re.search(r"\.[a-z]+$", name) else name
    except (OSError, ValueError, RuntimeError):  # a name that no file can have
        return name
