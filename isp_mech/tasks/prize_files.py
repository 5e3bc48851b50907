"""Reading and writing the prize's CSV and JSONL, and reading from the hub."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import secrets
from pathlib import Path
from typing import Any

from isp_mech.errors import InputError
from isp_mech.tasks.items import CITATIONS, METRICS, NEEDS, Item, Metric, Task, is_text
from isp_mech.tasks.rows import infer_metric, parse_row, row_of, show
from isp_mech.tasks.text_files import Row, Rows, is_there, json_rows, read_text, table_rows

SUFFIXES = (".csv", ".jsonl")
OF_METRICS = ("other_prompt", "classes", "answer_index", "completion", "true_answer", "anchor")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_METRIC_ENDING = re.compile(rf"[_-]({'|'.join(METRICS)}|sequence-probability)$")


def read_task(path_or_id: str | os.PathLike[str], *, metric: Metric | None = None, name: str | None = None) -> Task:
    """The task of a ``.csv`` or ``.jsonl`` file of the prize's format, or of a data set on the hub.

    ``metric`` is inferred from the fields where not given, those aside that are empty in every row; ``name`` is the
    file's, without ``_classification`` and the like. An item's id is its ``id`` field where every row has a different
    one, else its position counted from 0. ``InputError`` lists everything wrong with the file: line,
    field, what was found, what was expected.
    """
    source = str(path_or_id)
    path = Path(path_or_id)
    if metric is not None and metric not in METRICS:
        raise InputError(source, [f"metric {metric!r}: expected one of {', '.join(METRICS)}"])
    if path.suffix.lower() not in SUFFIXES and _HUB_ID.fullmatch(source) and not is_there(path):
        csv_texts = False
        rows, problems = _hub_rows(source)
    else:
        csv_texts = path.suffix.lower() == ".csv"
        _check_suffix(path)
        rows, problems = table_rows(read_text(path)) if csv_texts else json_rows(read_text(path))
    metric, rows = _without_empty_fields(metric, rows)
    names = list(dict.fromkeys(field for _, row in rows for field in row))
    items: list[Item] = []
    if not rows:
        problems += [] if problems else ["no rows: expected at least one"]
    elif metric is None:
        problems.append(
            f"found {_listed(names)}: expected prompt with classes and answer_index (classification; logodds with "
            "other_prompt), with completion (sequence_prob), or with true_answer or anchor (numeric)"
        )
    elif missing := [needed for needed in NEEDS[metric].fields if needed not in names]:
        what = "column" if csv_texts else "field"
        problems += [f"missing {what} {needed!r} in every row: found {_listed(names)}" for needed in missing]
    else:
        items, wrong = _items(rows, metric, csv_texts)
        problems += wrong
    if problems or metric is None:
        raise InputError(source, problems)
    name = name or _METRIC_ENDING.sub("", path.stem if path.suffix.lower() in SUFFIXES else path.name) or source
    return Task(name, tuple(items), metric, CITATIONS.get(name.lower().replace("_", "-"), ""), source=source)


def write_task(task: Task, path: str | os.PathLike[str]) -> Path:
    """Writes the task as ``.csv`` or ``.jsonl``, whole or not at all, and returns the path.

    What was read is written back equal, row for row. JSONL keeps the types of extra fields; in CSV
    they become text (JSON, where they were not), and a field that only some items have is empty in
    the others. ``InputError`` for another suffix.
    """
    target = Path(path)
    _check_suffix(target)
    with_id = [item.id for item in task] != [str(i) for i in range(len(task))]
    rows = [row_of(item, task.metric, with_id=with_id) for item in task]
    text = _csv_text(rows) if target.suffix.lower() == ".csv" else _jsonl_text(rows)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.write_bytes(text.encode())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def _check_suffix(path: Path) -> None:
    if is_there(path) and path.is_dir():
        raise InputError(str(path), [f"a folder: expected a file ending in {' or '.join(SUFFIXES)}"])
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(str(path), [f"suffix {path.suffix!r}: expected {' or '.join(SUFFIXES)}"])


def _listed(names: list[str]) -> str:
    return ", ".join(map(show, names[:20])) + (", ..." if len(names) > 20 else "") if names else "no fields"


def _without_empty_fields(metric: Metric | None, rows: list[Row]) -> tuple[Metric | None, list[Row]]:
    """The metric, inferred from the fields that hold something in some row, and the rows without those of the others
    that this metric does not need."""
    names = list(dict.fromkeys(field for _, row in rows for field in row))
    filled = [name for name in names if any(row.get(name) not in (None, "") for _, row in rows)]
    metric = metric or infer_metric(filled) or infer_metric(names)
    if metric is None:
        return metric, rows
    unused = {name for name in OF_METRICS if name not in filled and name not in NEEDS[metric].fields}
    if not unused & set(names):
        return metric, rows
    return metric, [Row(where, {k: v for k, v in row.items() if k not in unused}) for where, row in rows]


def _items(rows: list[Row], metric: Metric, csv_texts: bool) -> tuple[list[Item], list[str]]:
    ids = [row.get("id") for _, row in rows]
    texts = [str(value) for value in ids if is_text(value) or type(value) is int]
    own = len(set(texts)) == len(rows) and all(texts)
    items, problems = [], []
    for place, (where, row) in enumerate(rows):
        item, wrong = parse_row(row, metric, texts[place] if own else str(place), texts_only=csv_texts)
        items += [item] if item else []
        problems += [f"{where}: {problem}" for problem in wrong]
    return items, problems


def _jsonl_text(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False, separators=(",", ":"), allow_nan=False) + "\n" for row in rows)


def _csv_text(rows: list[dict[str, Any]]) -> str:
    header = list(dict.fromkeys(name for row in rows for name in row))
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(header)
    for row in rows:
        writer.writerow([_cell(name, row[name]) if name in row else "" for name in header])
    return out.getvalue()


def _cell(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    return repr(value) if name == "classes" else json.dumps(value, ensure_ascii=False)


# ---- the hub


def _hub_rows(hub_id: str) -> Rows:
    try:
        import datasets
    except ImportError:
        raise InputError(
            hub_id, ["no such file; reading it from the hub needs the package datasets: pip install 'isp-mech[hub]'"]
        ) from None
    try:
        splits = datasets.load_dataset(hub_id)
    except Exception as error:  # datasets and its network stack raise types of many packages
        raise InputError(hub_id, [f"no such file, and not to be had from the hub: {error}"]) from None
    if "train" in splits:
        chosen = splits["train"]
    elif len(splits) == 1:
        chosen = next(iter(splits.values()))
    else:
        raise InputError(hub_id, [f"splits {', '.join(splits)}: expected 'train' or a single one"])
    return Rows([Row(f"row {number}", dict(row)) for number, row in enumerate(chosen, 1)], [])
