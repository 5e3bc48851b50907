"""Reading files that anybody may have written: UTF-8, lines, JSON lines, CSV. All that is wrong is reported at once."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from isp_mech.errors import InputError
from isp_mech.tasks.rows import show

MAX_BYTES = 256 * 2**20
MAX_LINE = 4 * 2**20
MAX_DEPTH = 100
MOST_BROKEN = 50  # records with broken quotes behind which it goes on: each may have swallowed the whole file
_TOO_DEEP = f"JSON nested too deep, expected at most {MAX_DEPTH} levels"


class Row(NamedTuple):
    """A row of a file: where it stands (``line 7``), and its fields."""

    where: str
    fields: dict[str, Any]


class Rows(NamedTuple):
    """The rows of a file that could be read, and what is wrong with the others, one text each."""

    rows: list[Row]
    problems: list[str]


def is_there(path: Path) -> bool:
    """Whether there is a file or folder of that name; False too for what no file can be called."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def read_text(path: str | Path) -> str:
    """The file's text without a byte order mark.

    ``InputError`` for a file that cannot be read, that is over 256 MB, or that is not UTF-8 (every such line is named).
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise InputError(str(path), ["no such file"]) from None
    except (OSError, ValueError) as error:
        raise InputError(str(path), [f"cannot be read: {getattr(error, 'strerror', None) or error}"]) from None
    if len(data) > MAX_BYTES:
        raise InputError(str(path), [f"over {MAX_BYTES // 2**20} MB: expected a smaller file, split it"])
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
            byte, place = f"byte 0x{line[error.start]:02x}", offset + error.start
            problems.append(f"line {number}: {byte} at offset {place} of the file is not UTF-8, expected UTF-8")
        offset += len(line) + 1
    return problems


def read_lines(path: str | Path) -> list[tuple[int, str]]:
    """``(line number, text)`` of every line that is not blank; ``InputError`` as ``read_text``, or for none."""
    lines = [(n, line.rstrip("\r")) for n, line in enumerate(read_text(path).split("\n"), 1) if line.strip()]
    if not lines:
        raise InputError(str(path), ["expected at least one row, found an empty file"])
    return lines


def json_rows(text: str) -> Rows:
    """The objects of JSON lines. Neither NaN nor a field given twice is JSON here; blank lines are skipped."""
    rows, problems = [], []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip(" \t\r"):
            try:
                rows.append(Row(f"line {number}", _json_object(line)))
            except ValueError as error:
                problems.append(f"line {number}: {error}")
    return Rows(rows, problems)


def _json_object(line: str) -> dict[str, Any]:
    """The object of one line of JSON; ``ValueError`` says what else it is."""
    if len(line) > MAX_LINE:
        raise ValueError(f"{len(line)} characters, expected at most {MAX_LINE}")
    try:
        row = json.loads(line, object_pairs_hook=_object, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise ValueError(f"broken JSON at column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    except ValueError as error:
        raise ValueError(f"broken JSON: {str(error).split(';')[0]}") from None
    if _too_deep(row):
        raise ValueError(_TOO_DEEP)
    if not isinstance(row, dict):
        raise ValueError(f"found {show(row)}, expected an object with fields")
    return row


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError(f"the field {show(next(n for n in names if names.count(n) > 1))} is given twice")
    return dict(pairs)


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def _too_deep(value: object) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        inner = [part.values() if isinstance(part, dict) else part for part in level if isinstance(part, (list, dict))]
        level = [value for part in inner for value in part]
        if not level:
            return False
    return True


@contextmanager
def _long_cells() -> Iterator[None]:
    """csv refuses cells over 128 kB; a prompt with many shots may be longer."""
    before = csv.field_size_limit(MAX_BYTES)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def table_rows(text: str, *, tabs: bool = False) -> Rows:
    """The rows under a header of CSV, or, with ``tabs``, of tab-separated text without quotes. All cells are texts.

    Columns without a name that are empty in every row are left out, unless there is only one. Behind a row with broken
    quotes it goes on with the next line.
    """
    records, problems = _records(text, tabs=tabs)
    rows: list[Row] = []
    if not records:
        return Rows(rows, problems)
    (where, header), *below = records
    if not tabs and len(header) == 1 and (other := next((c for c in ";\t|" if c in header[0]), "")):
        return Rows(rows, [*problems, f"{where}: {other!r} between the columns, expected commas"])
    named = [name for name in dict.fromkeys(header) if name and header.count(name) > 1]
    problems += [f"{where}: the column {show(name)} is given twice" for name in named]
    empty = {i for i, name in enumerate(header) if not name.strip()}
    empty -= {i for i in empty for _, cells in below if i < len(cells) and cells[i].strip()}
    unnamed = [i for i, name in enumerate(header) if not name.strip() and i not in empty]
    if len(unnamed) > 1:
        places = ", ".join(str(i + 1) for i in unnamed)
        problems.append(f"{where}: columns {places} have no name, and texts: expected a name for all but one")
    dropped = empty if len(empty) + len(unnamed) > 1 else set()
    for where, cells in below:
        cells = _fitted(cells, header)
        if len(cells) != len(header):
            problems.append(f"{where}: found {len(cells)} cells, expected {len(header)}")
        else:
            kept = {name: cell for i, (name, cell) in enumerate(zip(header, cells, strict=True)) if i not in dropped}
            rows.append(Row(where, kept))
    return Rows(rows, problems)


def _fitted(cells: list[str], header: Sequence[str]) -> list[str]:
    """The cells of a row, without empty ones behind the last column, and with those of columns without a name that
    are left out at a row's end."""
    while len(cells) > len(header) and not cells[-1].strip():
        cells = cells[:-1]
    missing = header[len(cells) :]
    return cells + [""] * len(missing) if missing and not "".join(missing).strip() else cells


def _records(text: str, *, tabs: bool) -> tuple[list[tuple[str, list[str]]], list[str]]:
    """The records of a table, each with the line that it begins on, and what is wrong with those that cannot be read.

    A record with broken quotes may have swallowed the next ones: it goes on with the line after its first. What
    stands there may be the rest of the broken record, so nothing is said of cells that do not fit until a record does.
    """
    lines = io.StringIO(text, newline="").readlines()
    records: list[tuple[str, list[str]]] = []
    problems: list[str] = []
    at, doubtful = 0, False
    with _long_cells():
        while at < len(lines):
            some = iter(lines[at:])
            reader = csv.reader(some, delimiter="\t", quoting=csv.QUOTE_NONE) if tabs else csv.reader(some, strict=True)
            first = at
            try:
                for cells in reader:
                    where, first = f"line {first + 1}", at + reader.line_num
                    width = len(records[0][1]) if records else 0
                    if not cells or (tabs and not "".join(cells).strip()) or (doubtful and len(cells) != width):
                        continue
                    records.append((where, cells))
                    doubtful = False
                break
            except csv.Error as error:
                problems.append(f"line {first + 1}: broken CSV: {error}")
                if not records or len(problems) >= MOST_BROKEN:
                    break  # without a header there are no rows
                at, doubtful = first + 1, True
    return records, problems
