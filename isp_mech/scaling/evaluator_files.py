"""Results that others computed, item by item: families without weights, beside one's own.

    task = read_task("neqa_classification.jsonl")
    theirs = read_results(["gpt2.csv", "opt-125m.csv"], task)              # the prize's evaluator, one file a model
    theirs = read_results({"ada": "ada.csv"}, task, n_params={"ada": 350_000_000})
    flips(theirs); figures.scaling_curve(theirs.curve)

Three kinds of files are read:

- ``MODEL.csv`` of the prize's evaluator: ``index`` and, by the metric, ``loss``, ``correct``, ``total_logprob`` (and
  ``predicted``), or ``loss`` alone, or ``logodds_difference``, ``correct``, ``total_logprob``, or ``estimate``;
- ``samples_*.jsonl``, what lm-evaluation-harness logs (``--log_samples``): the log-probability of each item's classes;
- ``results*.json`` of lm-evaluation-harness: the accuracy over all items, without the items.

Of two classes the loss says the margin, log(p / (1 - p)) with p = exp(-loss); of more it does not, and the margin is
missing. Early versions of the prize's evaluator gave as ``total_logprob`` the sum of the classes' log-probabilities,
not the logarithm of their summed probabilities. A file does not tell which: a coverage near 0 may mean that.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from isp_mech.errors import InputError
from isp_mech.families import hub_size
from isp_mech.scaling.evaluator_rows import COLUMNS, TIE, from_evaluator, from_sample
from isp_mech.scaling.group_rows import Row, mean_columns
from isp_mech.tables import Table, make_run, table
from isp_mech.tasks import Item, Task
from isp_mech.tasks.text_files import json_rows, read_text, table_rows

_Z = 1.96  # of a 95 % interval
_MODEL_ARGUMENT = re.compile(r"(?:^|,)\s*(?:pretrained|model|engine)=([^,]+)")


@dataclass(frozen=True)
class Results:
    """Tables as ``score`` gives them. ``items`` is empty for accuracies alone and where nothing is right or wrong;
    ``values`` and ``value_curve`` are there for metrics with a number of their own."""

    items: Table
    curve: Table
    values: Table | None = None
    value_curve: Table | None = None


@dataclass(frozen=True)
class _Read:
    """What one file says: a row for every item (of ``items`` or ``values``), or the accuracy alone."""

    model: str
    rows: list[Row]
    accuracy: float = math.nan
    se: float = math.nan


def read_results(
    files: Sequence[str | Path] | Mapping[str, str | Path],
    task: Task,
    *,
    n_params: Mapping[str, int] = MappingProxyType({}),
    seed: int = 0,
) -> Results:
    """The results in ``files`` on the items of ``task``, of one model each.

    A model is named as its file says; a mapping ``{name: file}`` names it otherwise. ``n_params`` gives parameters
    (without embeddings) of models whose family is not known here. Raises ``InputError`` with everything in the files
    that does not fit the task's items: an item too many or missing, another prompt, a class that is none, a loss and a
    verdict that exclude one another.
    """
    listed = list(files.items()) if isinstance(files, Mapping) else [("", file) for file in files]
    problems: list[str] = []
    read: list[_Read] = []
    for name, file in listed:
        of_file: list[str] = []
        one = _read(Path(file), task, of_file)
        problems += [f"{Path(file).name}: {problem}" for problem in of_file]
        read += [_Read(name or one.model, one.rows, one.accuracy, one.se)] if one is not None else []
    if not listed:
        problems.append("no files, expected one or more")
    sizes = {one.model: n_params.get(one.model) or hub_size(one.model).n_params for one in read}
    problems += [
        f"n_params of {model!r} is not known, expected n_params={{{model!r}: ...}}"
        for model, size in sizes.items()
        if size is None
    ]
    kept = _one_a_model(read, problems)
    if problems:
        raise InputError("read_results", problems)
    return _tables(kept, task, sizes, [Path(file).name for _, file in listed], seed)


def _one_a_model(read: Sequence[_Read], problems: list[str]) -> list[_Read]:
    """Each model once: its items where both these and the accuracy were given, if the two agree."""
    kept: dict[str, _Read] = {}
    for one in sorted(read, key=lambda one: not one.rows):
        before = kept.setdefault(one.model, one)
        if before is one:
            continue
        if one.rows:
            problems.append(f"{one.model}: items in two files, expected one file a model")
            continue
        mean = float(np.mean([row["correct"] for row in before.rows])) if before.rows else before.accuracy
        if not abs(mean - one.accuracy) < TIE:
            problems.append(f"{one.model}: accuracy {one.accuracy:g} in one file, {mean:g} in another")
    return list(kept.values())


def _tables(
    read: Sequence[_Read], task: Task, sizes: Mapping[str, int | None], files: Sequence[str], seed: int
) -> Results:
    run = make_run(
        model=", ".join(one.model for one in read), task=task.name, method="results of others", seed=seed,
        settings={"files": ", ".join(files), "metric": task.metric},
    )  # fmt: skip
    baseline = float(np.mean([1 / len(item.classes) for item in task])) if task.equally_likely else math.nan
    items: list[Row] = []
    curve: list[Row] = []
    values: list[Row] = []
    means: list[Row] = []
    for one in sorted(read, key=lambda one: sizes[one.model] or 0):
        head = {"model": hub_size(one.model).name, "n_params": sizes[one.model], "task": task.name}
        judged = [row for row in one.rows if "correct" in row]
        if judged or not math.isnan(one.accuracy):
            curve.append({**head, "side": "item", **_curve_row(one, judged, seed), "baseline": baseline})
        if task.metric == "classification":
            items += [{**head, "side": "item", **row} for row in one.rows]
        elif one.rows:
            kept = ("item", "value", "n_parsed")
            values += [{**head, "metric": task.metric, **{name: row.get(name) for name in kept}} for row in one.rows]
            mean = mean_columns(["value"], [row["value"] for row in one.rows], seed=seed)
            means.append({**head, "metric": task.metric, **mean, "n": len(one.rows)})
    return Results(
        table("items", items, run),
        table("curve", curve, run),
        table("values", values, run) if values else None,
        table("value_curve", means, run) if means else None,
    )


def _curve_row(one: _Read, judged: Sequence[Row], seed: int) -> Row:
    nothing = {"loss": math.nan, "loss_lo": math.nan, "loss_hi": math.nan, "coverage": math.nan, "ties": None}
    if not judged:
        lo, hi = max(0.0, one.accuracy - _Z * one.se), min(1.0, one.accuracy + _Z * one.se)
        return {"accuracy": one.accuracy, "accuracy_lo": lo, "accuracy_hi": hi, **nothing, "n": None}
    if "loss" not in judged[0]:
        return {**mean_columns(["accuracy"], [float(row["correct"]) for row in judged], seed=seed), **nothing,
                "n": len(judged)}  # fmt: skip
    columns = [[float(row["correct"]), row["loss"]] for row in judged]
    coverage = float(np.mean(np.exp([row["total_logprob"] for row in judged])))
    ties = sum(row["tie"] for row in judged)
    return {**mean_columns(["accuracy", "loss"], columns, seed=seed), "coverage": coverage, "ties": ties,
            "n": len(judged)}  # fmt: skip


# --- one file --------------------------------------------------------------------------------------------


def _read(path: Path, task: Task, problems: list[str]) -> _Read | None:
    text = read_text(path)
    if path.suffix.lower() == ".csv":
        return _Read(path.stem, _evaluator_rows(text, task, problems))
    if path.suffix.lower() == ".jsonl":
        return _Read(path.parent.name.replace("__", "/"), _sample_rows(text, task, problems))
    if path.suffix.lower() == ".json":
        return _accuracy(text, task, problems)
    problems.append(f"suffix {path.suffix!r}, expected .csv, .jsonl or .json")
    return None


class _Given(NamedTuple):
    """Where a row stands, which item it is about, and what makes a row of a table from it."""

    where: str
    index: Any
    row_of: Callable[[Item], Row]


def _by_item(rows: Iterator[_Given], task: Task, problems: list[str]) -> list[Row]:
    """The rows in the task's order; every item that is missing, there twice, or does not fit goes to ``problems``."""
    of_place: dict[int, Row] = {}
    before = len(problems)
    for where, index, row_of in rows:
        place = int(index) if isinstance(index, int) or re.fullmatch(r"\d{1,9}", str(index)) else -1
        if not 0 <= place < len(task):
            problems.append(f"{where}: item {index!r}, expected a place from 0 to {len(task) - 1}")
        elif place in of_place:
            problems.append(f"{where}: item {place} is there twice, expected it once")
        else:
            try:
                of_place[place] = {"item": task[place].id, **row_of(task[place])}
            except ValueError as error:
                problems.append(f"{where}: {error}")
    if len(problems) == before and len(of_place) < len(task):
        missing = sorted(set(range(len(task))) - set(of_place))
        problems.append(f"{len(missing)} of {len(task)} items are missing, the first of them {missing[0]}")
    return [of_place[place] for place in sorted(of_place)]


def _evaluator_rows(text: str, task: Task, problems: list[str]) -> list[Row]:
    rows, broken = table_rows(text)
    problems += broken
    names = set(rows[0].fields) if rows else set()
    missing = [name for name in COLUMNS[task.metric] if name not in names]
    at = next((name for name in ("index", "") if name in names), None)
    if at is None or missing:
        problems.append(
            f"columns {', '.join(sorted(names)) or 'none'}: expected index and {', '.join(COLUMNS[task.metric])} "
            f"(metric {task.metric})"
        )
        return []

    def told() -> Iterator[_Given]:
        for where, cells in rows:
            yield _Given(where, cells[at], partial(from_evaluator, cells, metric=task.metric))

    return _by_item(told(), task, problems)


def _sample_rows(text: str, task: Task, problems: list[str]) -> list[Row]:
    rows, broken = json_rows(text)
    problems += broken
    filters = list(dict.fromkeys(str(row.get("filter", "none")) for _, row in rows))
    chosen = "none" if "none" in filters else (filters or [""])[0]

    def told() -> Iterator[_Given]:
        for where, row in rows:
            if str(row.get("filter", "none")) == chosen:
                yield _Given(where, row.get("doc_id"), partial(from_sample, row, metric=task.metric))

    if task.metric not in ("classification", "sequence_prob"):
        problems.append(f"metric {task.metric}: logged samples are read for classification and sequence_prob")
        return []
    return _by_item(told(), task, problems)


def _accuracy(text: str, task: Task, problems: list[str]) -> _Read | None:
    try:
        given = json.loads(text)
        results = {str(name): dict(values) for name, values in given["results"].items()}
        config = given.get("config", {})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        problems.append('expected {"results": {task: {"acc": ...}}}, as lm-evaluation-harness writes')
        return None
    name = task.name.lower().replace("-", "_")
    ours = [key for key in results if key.lower().replace("-", "_").removesuffix("_10shot").endswith(name)]
    if len(ours) != 1:
        problems.append(f"results of {', '.join(results) or 'nothing'}: expected those of {task.name} once")
        return None
    numbers = [results[ours[0]].get(key) for key in ("acc,none", "acc", "acc_stderr,none", "acc_stderr")]
    accuracy = next((number for number in numbers[:2] if isinstance(number, int | float)), math.nan)
    se = next((number for number in numbers[2:] if isinstance(number, int | float)), math.nan)
    samples = given.get("n-samples", {}).get(ours[0], {}).get("effective", len(task))
    if not 0 <= accuracy <= 1:
        problems.append(f"{ours[0]}: acc {numbers[0] or numbers[1]!r}, expected a share from 0 to 1")
    if samples != len(task):
        problems.append(f"{ours[0]}: {samples} items, but the task has {len(task)}")
    arguments = config.get("model_args", "") if isinstance(config, dict) else ""
    told = arguments.get("pretrained", "") if isinstance(arguments, dict) else arguments
    match = _MODEL_ARGUMENT.search(str(told))
    model = given.get("model_name") or (match[1] if match else str(told))
    if not model:
        problems.append("no model is named (model_name, or model_args of config), expected {name: file}")
        return None
    return _Read(str(model), [], float(accuracy), float(se))
