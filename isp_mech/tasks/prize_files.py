"""Reading and writing the prize's CSV and JSONL, and reading from the hub."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from isp_mech.errors import InputError
from isp_mech.tasks.items import CITATIONS, METRICS, Item, Task, is_text
from isp_mech.tasks.rows import NEEDED, infer_metric, parse_row, row_of, show

SUFFIXES = (".csv", ".jsonl")
MAX_BYTES = 256 * 2**20
MAX_LINE = 4 * 2**20
MAX_DEPTH = 100
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_METRIC_ENDING = re.compile(rf"[_-]({'|'.join(METRICS)})$")
_TOO_DEEP = f"JSON nested too deep, expected at most {MAX_DEPTH} levels"
Row = tuple[str, dict[str, Any]]  # where it stands ("line 7"), and its fields


def read_task(path_or_id: str | os.PathLike[str], *, metric: str | None = None, name: str | None = None) -> Task:
    """The task of a ``.csv`` or ``.jsonl`` file of the prize's format, or of a data set on the hub.

    ``metric`` is inferred from the fields where not given; ``name`` is the file's, without
    ``_classification`` and the like. An item's id is its ``id`` field where every row has a different
    one, else its position counted from 0. ``InputError`` lists everything wrong with the file: line,
    field, what was found, what was expected.
    """
    source = str(path_or_id)
    path = Path(path_or_id)
    if metric is not None and metric not in METRICS:
        raise InputError(source, [f"metric {metric!r}: expected one of {', '.join(METRICS)}"])
    if path.suffix.lower() not in SUFFIXES and _HUB_ID.fullmatch(source) and not is_there(path):
        rows, problems, csv_texts = *_hub_rows(source), False
    else:
        csv_texts = path.suffix.lower() == ".csv"
        rows, problems = (_csv_rows if csv_texts else _jsonl_rows)(_read_text(path))
    names = list(dict.fromkeys(field for _, row in rows for field in row))
    metric = metric or infer_metric(names)
    items: list[Item] = []
    if not rows:
        problems += [] if problems else ["no rows: expected at least one"]
    elif metric is None:
        problems.append(
            f"found {_listed(names)}: expected prompt with classes and answer_index (classification; logodds with "
            "other_prompt), with completion (sequence_prob), or with true_answer or anchor (numeric)"
        )
    elif missing := [needed for needed in NEEDED[metric] if needed not in names]:
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
    if target.suffix.lower() not in SUFFIXES:
        raise InputError(str(path), [f"suffix {target.suffix!r}: expected {' or '.join(SUFFIXES)}"])
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


def _listed(names: list[str]) -> str:
    return ", ".join(map(show, names[:20])) + (", ..." if len(names) > 20 else "") if names else "no fields"


def _items(rows: list[Row], metric: str, csv_texts: bool) -> tuple[list[Item], list[str]]:
    ids = [row.get("id") for _, row in rows]
    texts = [str(value) for value in ids if is_text(value) or type(value) is int]
    own = len(set(texts)) == len(rows) and all(texts)
    items, problems = [], []
    for place, (where, row) in enumerate(rows):
        item, wrong = parse_row(row, metric, texts[place] if own else str(place), texts_only=csv_texts)
        items += [item] if item else []
        problems += [f"{where}: {problem}" for problem in wrong]
    return items, problems


# ---- bytes and lines


def is_there(path: Path) -> bool:
    """Whether there is a file or folder of that name; False too for what no file can be called."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _read_text(path: Path) -> str:
    """The file's text without a byte order mark; ``InputError`` where it is none."""
    if is_there(path) and path.is_dir():
        raise InputError(str(path), [f"a folder: expected a file ending in {' or '.join(SUFFIXES)}"])
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(str(path), [f"suffix {path.suffix!r}: expected {' or '.join(SUFFIXES)}"])
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise InputError(str(path), ["no such file"]) from None
    except (OSError, ValueError) as error:
        raise InputError(str(path), [f"cannot be read: {error}"]) from None
    if len(data) > MAX_BYTES:
        raise InputError(str(path), [f"over {MAX_BYTES // 2**20} MB: expected a task file, split it"])
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(str(path), ["UTF-16, by its byte order mark: expected UTF-8"])
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(str(path), _encoding_problems(data)) from None


def _encoding_problems(data: bytes) -> list[str]:
    problems, offset = [], 0
    for number, line in enumerate(data.split(b"\n"), 1):
        try:
            line.decode()
        except UnicodeDecodeError as error:
            place = offset + error.start
            problems.append(
                f"line {number}: byte 0x{data[place]:02x} at offset {place} of the file is not UTF-8, expected UTF-8"
            )
        offset += len(line) + 1
    return problems


def _jsonl_rows(text: str) -> tuple[list[Row], list[str]]:
    rows: list[Row] = []
    problems = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip(" \t\r"):
            continue
        where = f"line {number}"
        if len(line) > MAX_LINE:
            problems.append(f"{where}: {len(line)} characters, expected at most {MAX_LINE}")
            continue
        try:
            row = json.loads(line, object_pairs_hook=_object, parse_constant=_no_constant)
        except json.JSONDecodeError as error:
            problems.append(f"{where}: broken JSON at column {error.colno}: {error.msg}")
        except RecursionError:
            problems.append(f"{where}: {_TOO_DEEP}")
        except ValueError as error:
            problems.append(f"{where}: broken JSON: {str(error).split(';')[0]}")
        else:
            if _too_deep(row):
                problems.append(f"{where}: {_TOO_DEEP}")
            elif isinstance(row, dict):
                rows.append((where, row))
            else:
                problems.append(f"{where}: found {show(row)}, expected an object with the fields of an item")
    return rows, problems


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError(f"the field {show(next(n for n in names if names.count(n) > 1))} is given twice")
    return dict(pairs)


def _too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            v
            for part in level
            if isinstance(part, (list, dict))
            for v in (part.values() if isinstance(part, dict) else part)
        ]
        if not level:
            return False
    return True


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def _jsonl_text(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False, separators=(",", ":"), allow_nan=False) + "\n" for row in rows)


@contextmanager
def _long_fields() -> Iterator[None]:
    """csv refuses fields over 128 kB; a prompt with many shots may be longer."""
    before = csv.field_size_limit(MAX_BYTES)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _csv_rows(text: str) -> tuple[list[Row], list[str]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[Row] = []
    problems: list[str] = []
    header: list[str] = []
    with _long_fields():
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                break
            except csv.Error as error:
                problems.append(f"line {line}: broken CSV: {error}")
                break
            if not cells:
                continue
            if not header:
                header = cells
                twice = [name for name in dict.fromkeys(header) if header.count(name) > 1]
                problems += [f"line {line}: the column {show(name)} is given twice" for name in twice]
            elif len(cells) != len(header):
                problems.append(f"line {line}: found {len(cells)} cells, expected {len(header)}")
            else:
                rows.append((f"line {line}", dict(zip(header, cells, strict=True))))
    return rows, problems


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


def _hub_rows(hub_id: str) -> tuple[list[Row], list[str]]:
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
    return [(f"row {number}", dict(row)) for number, row in enumerate(chosen, 1)], []
