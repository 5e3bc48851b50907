"""Numbers that others published: families without weights, drawn and tested beside one's own.

    read = published("accuracies.tsv")                   # one row for each model, checkpoint and task
    figures.scaling_curve(read.curve)                    # as what `score` gives
    shapes(read.observations, over="tokens")             # scaling: names of curves
    regressions(read.observations)                       # scaling: size, tokens and their interaction

A table "observations" holds each accuracy with what the model was: parameters, tokens, operations of
training. ``observations_of`` brings one's own curve to that form, and ``concat`` puts both into one.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd

from isp_mech.errors import InputError
from isp_mech.families import Size, family_of_hub_id, hub_size
from isp_mech.scaling.group_rows import Row, frame_of
from isp_mech.tables import Table, make_run, table
from isp_mech.tasks.text_files import read_lines

PYTHIA_TOKENS_PER_STEP = 2_097_152  # 1,024 sequences of 2,048 tokens (Biderman et al. 2023, arXiv 2304.01373)
FLOPS_PER_PARAMETER_AND_TOKEN = 6  # Kaplan et al. 2020, arXiv 2001.08361, section 2.1
_Z = 1.96  # of a 95 % interval

# How often people's answers agreed with the key, on the prize's own items: validation by Surge, reported by the
# prize's organisers in the comments to their announcement of the first round's winners (2022).
HUMAN_AGREEMENT: Mapping[str, float] = MappingProxyType({
    "neqa": 0.98, "quote-repetition": 1.0, "redefine-math": 1.0, "hindsight-neglect": 1.0,
})  # fmt: skip


@dataclass(frozen=True)
class _Number:
    """A column of numbers from ``low`` to ``high`` and the names it may have."""

    names: tuple[str, ...]
    low: float
    high: float
    whole: bool = False


_TEXTS = {
    "model": ("model", "modelname", "model_name"),
    "task": ("task", "taskname", "task_name"),
    "revision": ("modelrevision", "revision", "checkpoint"),
    "family": ("family",),
}
_NUMBERS = {
    "accuracy": _Number(("accuracy", "acc"), 0, 1),
    "se": _Number(("accuracy_se", "se", "stderr", "acc_stderr"), 0, 1),
    "n": _Number(("n", "n_items"), 1, 1e12, whole=True),
    "n_params": _Number(("n_params", "params", "parameters"), 1, 1e15, whole=True),
    "tokens": _Number(("tokens", "n_tokens", "training_tokens"), 1, 1e18),
    "flops": _Number(("flops", "training_flops"), 1, 1e36),
    "baseline": _Number(("baseline",), 0, 1),
}
_NEEDED = ("model", "task", "accuracy")
_NAMED_SIZE = re.compile(r"(?:^|[-_ ])(\d+(?:\.\d+)?)([kmbt])(?=$|[-_ ])", re.IGNORECASE)
_UNITS = {"k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}


@dataclass(frozen=True)
class Published:
    """Tables ``observations`` (each accuracy with what the model was) and ``curve`` (as ``score`` gives it)."""

    observations: Table
    curve: Table


def published(
    path: str | Path, *, revision: str | None = None, tasks: Mapping[str, str] = MappingProxyType({})
) -> Published:
    """Published accuracies from a tidy TSV or CSV: one row for each model (and checkpoint) and task.

    Columns (by these or usual names): ``model``, ``task``, ``accuracy`` from 0 to 1; and where there are,
    ``accuracy_se`` (for the 95 % interval, ± 1.96 of it), ``n``, ``revision``, ``family``, ``tokens`` and
    ``flops`` of training, ``baseline``, and ``n_params`` (without embeddings), which may be missing for models
    of known families; other columns are left alone. Not given but known: a Pythia step is 2,097,152 tokens;
    operations are 6 x n_params x tokens; ``n`` is what the standard errors of a task say where all of them,
    as those of right and wrong answers do, say the same number. There is a baseline only where the file gives
    one: whether guessing has a meaning depends on the classes, which a table of accuracies does not show.
    Rows of several revisions keep theirs in the curve's model names (``pythia-1b@step64000``), unless
    ``revision`` picks one. ``tasks`` gives tasks other names, ``{"isp_memo_trap": "memo-trap"}``, so that they stand
    beside one's own. Raises ``InputError`` with every bad cell.
    """
    problems: list[str] = []
    rows = [row for cells in _cells(path, problems) if (row := _observation(cells, problems)) is not None]
    kept = [row for row in rows if revision in (None, row["revision"])]
    if not kept and not problems:
        there = ", ".join(sorted({str(row["revision"]) for row in rows}))
        problems.append(f"no row of revision {revision!r}, expected one of {there}")
    problems += [f"tasks: no task {task!r} in the file" for task in tasks if task not in {row["task"] for row in rows}]
    seen: dict[str, int] = {}
    for row in kept:
        row["task"] = tasks.get(row["task"], row["task"])
        what = f"{_name(row['model'], row['revision'])} on {row['task']}"
        first = seen.setdefault(what, row["line"])
        if first != row["line"]:
            problems.append(f"line {row['line']}: {what} is on line {first} already, expected it once")
    if problems:
        raise InputError(str(path), problems)
    frame, notes = _with_implied_n(pd.DataFrame(kept).drop(columns="line"))
    run = make_run(
        model=", ".join(sorted(set(frame["model"]))),
        task=", ".join(sorted(set(frame["task"]))),
        method="published numbers",
        settings={"file": Path(path).name, "revision": revision or ""},
        notes=notes,
    )
    observations = table("observations", frame, run)
    return Published(observations, _curve(observations))


def observations_of(
    curve: Table, *, family: str, tokens: Mapping[str, float] | None = None, side: str | None = None
) -> Table:
    """The rows of a "curve" Table as "observations" of ``family``, so that it can stand beside published ones.

    ``tokens`` maps models' names to the tokens they saw in training; ``side`` keeps one side. ``InputError``
    for another table, a side that is not there, or a model of ``tokens`` that is not.
    """
    every = frame_of(curve, "curve", "observations_of")
    frame = every if side is None else every[every["side"] == side]
    known = tokens or {}
    problems = [f"tokens of {name!r}: no such model" for name in known if name not in set(frame["model"])]
    if not len(frame):
        problems.append(f"side {side!r}: expected one of {', '.join(sorted(set(every['side']))) or 'none'}")
    if problems:
        raise InputError("observations_of", problems)
    seen = frame["model"].map(lambda name: float(known.get(name, math.nan)))
    share = frame["accuracy"].to_numpy(float)
    n = frame["n"].to_numpy("float64", na_value=np.nan)
    kept = frame[["model", "n_params", "task", "side", "accuracy", "accuracy_lo", "accuracy_hi", "n", "baseline"]]
    extra = {
        "family": family, "revision": "", "nominal_params": math.nan, "tokens": seen,
        "flops": FLOPS_PER_PARAMETER_AND_TOKEN * frame["n_params"] * seen,
        "accuracy_se": np.sqrt(share * (1 - share) / n),
    }  # fmt: skip
    return table("observations", kept.assign(**extra), curve.run)


def human_agreement(task: str) -> float | None:
    """The share of people's answers that agreed with the key, 0..1, on the prize's own items of the first round's
    tasks (Surge, reported by the organisers, 2022: 1.00 on three tasks, 0.98 on NeQA); None for other tasks.

    >>> human_agreement("neqa"), human_agreement("hindsight-neglect_classification"), human_agreement("memo-trap")
    (0.98, 1.0, None)
    """
    name = task.lower().replace("_", "-").removesuffix("-classification").removesuffix("-10shot")
    return HUMAN_AGREEMENT.get(name)


def named_size(model: str) -> float | None:
    """Parameters as a model's name says them; None where it says none.

    >>> named_size("EleutherAI/pythia-1.4b"), named_size("Gopher-280B"), named_size("gpt2-xl")
    (1400000000.0, 280000000000.0, None)
    """
    size = _NAMED_SIZE.search(model.split("/")[-1])
    return None if size is None else float(size[1]) * _UNITS[size[2].lower()]


def training_tokens(model: str, revision: str) -> float | None:
    """Tokens that a known model had seen at ``revision``; None where the project does not know.

    >>> training_tokens("EleutherAI/pythia-70m", "step1000"), training_tokens("gpt2", "main")
    (2097152000.0, None)
    """
    step = re.fullmatch(r"step(\d+)", revision)
    pythia = (family_of_hub_id(model) or "").startswith("pythia")
    return float(step[1]) * PYTHIA_TOKENS_PER_STEP if pythia and step and int(step[1]) else None


def _cells(path: str | Path, problems: list[str]) -> Iterator[Row]:
    """``{column: text}`` of every whole line under the header, "" where there is no such column, with its ``line``."""
    delimiter = "," if Path(path).suffix.lower() == ".csv" else "\t"
    rows, broken = [], []
    for number, line in read_lines(path):
        try:
            rows.append((number, [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter))]))
        except csv.Error as error:
            broken.append(f"line {number}: {error}, expected one row of cells")
    if broken:
        raise InputError(str(path), broken)
    (_, header), *lines = rows
    given = [cell.lower() for cell in header]
    known = _TEXTS | {column: of.names for column, of in _NUMBERS.items()}
    at = {column: given.index(n) for column, names in known.items() for n in reversed(names) if n in given}
    missing = [f"line 1: no column {name!r} among {', '.join(header)}" for name in _NEEDED if name not in at]
    if missing or not lines:
        raise InputError(str(path), missing or ["expected rows under the header"])
    for number, cells in lines:
        if len(cells) == len(given):
            yield {column: cells[at[column]] if column in at else "" for column in known} | {"line": number}
        else:
            problems.append(f"line {number}: expected {len(given)} cells, found {len(cells)}")


def _observation(cells: Row, problems: list[str]) -> Row | None:
    """One row of "observations", with its line; None where it lacks what it needs. What is wrong with it goes to
    ``problems``."""
    line = f"line {cells['line']}"
    model, revision = cells["model"], cells["revision"]
    number = {column: _number(cells[column], column, line, problems) for column in _NUMBERS}
    size = hub_size(model) if model else Size("?", "?", None)
    n_params = size.n_params if number["n_params"] is None else int(number["n_params"])
    problems += [f"{line}: {column} is empty, expected a name" for column in ("model", "task") if not cells[column]]
    if n_params is None and model and not cells["n_params"]:
        problems.append(f"{line}: n_params of {model} is not known, expected a column n_params")
    accuracy, half = number["accuracy"], _Z * (math.nan if number["se"] is None else number["se"])
    if accuracy is None or n_params is None:
        return None
    tokens = training_tokens(model, revision) if number["tokens"] is None else number["tokens"]
    operations = None if tokens is None else FLOPS_PER_PARAMETER_AND_TOKEN * n_params * tokens
    return {
        "line": cells["line"],
        "model": size.name,
        "n_params": n_params,
        "task": cells["task"],
        "family": cells["family"] or family_of_hub_id(model) or _NAMED_SIZE.sub("", size.name) or size.name,
        "revision": revision,
        "side": "item",
        "nominal_params": named_size(model),
        "tokens": tokens,
        "flops": operations if number["flops"] is None else number["flops"],
        "accuracy": accuracy,
        "accuracy_lo": float(np.maximum(0.0, accuracy - half)),
        "accuracy_hi": float(np.minimum(1.0, accuracy + half)),
        "accuracy_se": number["se"],
        "n": None if number["n"] is None else int(number["n"]),
        "baseline": number["baseline"],
    }


def _number(text: str, column: str, line: str, problems: list[str]) -> float | None:
    if not text and column not in _NEEDED:
        return None
    of = _NUMBERS[column]
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if of.low <= value <= of.high and (not of.whole or value == int(value)):
        return value
    kind = "a whole number" if of.whole else "a number"
    problems.append(f"{line}: {column} {text!r}, expected {kind} from {of.low:g} to {of.high:g}")
    return None


def _name(model: str, revision: str) -> str:
    return f"{model}@{revision}" if revision else model


def _with_implied_n(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """``n`` filled in for tasks without one whose standard errors all say the same: se² = a (1 - a) / (n - 1)."""
    implied = {}
    for task, rows in frame.groupby("task", sort=False):
        share, se = rows["accuracy"].to_numpy(float), rows["accuracy_se"].to_numpy(float)
        telling = (se > 0) & (share > 0) & (share < 1)
        certain = (share == 0) | (share == 1)  # their standard error is 0, whatever n is
        if rows["n"].notna().any() or telling.sum() < 2 or not (telling | (certain & (se == 0))).all():
            continue
        says = share[telling] * (1 - share[telling]) / se[telling] ** 2 + 1
        whole = round(float(np.median(says)))
        if whole >= 2 and np.abs(says - whole).max() < 0.01 * math.sqrt(whole):
            implied[str(task)] = whole
    n = [implied.get(task, given) for task, given in zip(frame["task"], frame["n"], strict=True)]
    notes = [f"items of {task}: {count}, as its standard errors say" for task, count in implied.items()]
    return frame.assign(n=pd.Series(n, dtype="Float64", index=frame.index)), notes


def _curve(observations: Table) -> Table:
    frame = observations.frame
    several = frame["revision"].nunique() > 1
    names = [_name(m, r if several else "") for m, r in zip(frame["model"], frame["revision"], strict=True)]
    kept = frame[["n_params", "task", "side", "accuracy", "accuracy_lo", "accuracy_hi", "n", "baseline"]]
    nothing = dict.fromkeys(("loss", "loss_lo", "loss_hi", "coverage"), math.nan)
    ties = pd.array([None] * len(frame), dtype="Int64")
    return table("curve", kept.assign(model=names, ties=ties, **nothing), observations.run)
