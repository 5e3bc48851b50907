"""``Table``: one checked frame with its Run; one parquet file on disk."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from isp_mech.errors import InputError
from isp_mech.tables.atomic_write import write_whole
from isp_mech.tables.run import Run, merge_runs
from isp_mech.tables.schemas import SCHEMAS
from isp_mech.tables.validation import conform

WHOLE = "isp_mech.sha256"  # in a file's metadata: of all its bytes, with this one blank
BLANK = b"0" * 64


@dataclass(frozen=True, eq=False, repr=False)
class Table:
    """A frame with the declared columns of ``SCHEMAS[name]``, in their order, and the Run that made it.

    Types are brought to the declared ones where nothing is lost (float32 columns are rounded);
    ``InputError`` lists every missing, unexpected or unfit column. The frame is a copy.
    """

    name: str
    frame: pd.DataFrame
    run: Run

    def __post_init__(self) -> None:
        if self.name not in SCHEMAS:
            raise InputError(f"table {self.name!r}", [f"unknown table: expected one of {', '.join(SCHEMAS)}"])
        object.__setattr__(self, "frame", conform(self.name, self.frame))

    def __len__(self) -> int:
        return len(self.frame)

    def __repr__(self) -> str:
        rows, columns = self.frame.shape
        shape = f"{rows} rows x {columns} columns"
        return f"Table({self.name!r}, {shape}, model={self.run.model!r}, task={self.run.task!r})"

    def _repr_html_(self) -> str:
        return self.frame.to_html(max_rows=20)

    def equals(self, other: Table) -> bool:
        """Same name, same Run, same columns and values (missing equals missing)."""
        return self.name == other.name and self.run == other.run and self.frame.equals(other.frame)

    def save(self, path: str | os.PathLike[str], *, key: str = "") -> Path:
        """Writes one parquet file and returns its path; the file is whole or not there.

        Equal tables give equal bytes. The Run and the table's name are in the file's metadata, and
        ``key``, a text by which ``read_table`` can tell this file from another of the same kind.
        """
        return write_whole(path, self.to_bytes(key=key))

    def to_bytes(self, *, key: str = "") -> bytes:
        """The bytes of the file that ``save`` writes; they hold the sha256 of themselves."""
        columns, buffer = _to_arrow(self, key), io.BytesIO()
        options = {"compression": "zstd", "write_page_checksum": True, "store_schema": True}
        with pq.ParquetWriter(buffer, columns.schema, **options) as writer:
            writer.write_table(columns)
            writer.add_key_value_metadata({WHOLE: BLANK.decode()})
        blank = buffer.getvalue()
        return blank.replace(BLANK, hashlib.sha256(blank).hexdigest().encode())


def table(name: str, rows: Any, run: Run) -> Table:
    """The Table ``name`` from a frame, from a mapping of columns, or from a sequence of rows (mappings).

    No rows at all give an empty table with the declared columns.
    """
    columns = [column.name for column in SCHEMAS.get(name, ())]
    if isinstance(rows, pd.DataFrame):
        frame = rows
    elif isinstance(rows, Mapping):
        frame = pd.DataFrame({k: pd.Series(list(v), dtype=_raw(v)) for k, v in rows.items()})
    else:
        listed = list(rows)
        names = list(dict.fromkeys(key for row in listed for key in row)) if listed else columns
        lists = {key: [row.get(key) for row in listed] for key in names}
        frame = pd.DataFrame({key: pd.Series(values, dtype=_raw(values)) for key, values in lists.items()})
    return Table(name, frame, run)


def _raw(values: Any) -> Any:
    """Keep arrays' own type, and take lists as objects: no type is guessed from texts."""
    return values.dtype if isinstance(values, (np.ndarray, pd.Series)) else object


def concat(tables: Sequence[Table]) -> Table:
    """One Table of all rows in order. The tables have one name; their Runs are merged.

    Fields on which the runs agree are kept; texts on which they differ are joined by ", " without
    repeats (models, tasks, ...), a seed on which they differ is None and told in a note, notes are
    united. ``InputError`` for no tables or different names.
    """
    names = list(dict.fromkeys(t.name for t in tables))
    if len(names) != 1:
        raise InputError("concat", [f"expected tables of one name, found {', '.join(names) or 'none'}"])
    if len(tables) == 1:
        return tables[0]
    frame = pd.concat([t.frame for t in tables], ignore_index=True)
    return Table(names[0], frame, merge_runs([t.run for t in tables]))


_ARROW = {
    "string": pa.string(),
    "bool": pa.bool_(),
    "int64": pa.int64(),
    "Int64": pa.int64(),
    "float32": pa.float32(),
    "float64": pa.float64(),
}


def _to_arrow(made: Table, key: str) -> pa.Table:
    schema = SCHEMAS[made.name]
    # NaN is kept as NaN in floats; missing Int64 is null
    arrays = [
        pa.array(made.frame[c.name].to_numpy(), type=_ARROW[c.dtype], from_pandas=False)
        if c.dtype.startswith("float")
        else pa.array(made.frame[c.name], type=_ARROW[c.dtype])
        for c in schema
    ]
    arrays = [a.combine_chunks() if isinstance(a, pa.ChunkedArray) else a for a in arrays]
    text = made.run.to_json()
    head = {"table": made.name, "run": text, "key": key, "check": _check(made.name, text, key, len(made), WHOLE)}
    metadata = {f"isp_mech.{name}": value for name, value in head.items()}
    return pa.Table.from_arrays(arrays, schema=pa.schema([(c.name, _ARROW[c.dtype]) for c in schema], metadata))


def _check(name: str, run: str, key: str, rows: int, *more: str) -> str:
    """Guards the name, the Run, the key, the number of rows, and that there is a checksum of the whole file."""
    return hashlib.sha256("\n".join((name, str(rows), key, *more, run)).encode()).hexdigest()


def read_table(path: str | os.PathLike[str], *, key: str | None = None) -> Table:
    """The Table saved at ``path``, exactly.

    ``InputError`` for a file that is missing, damaged or not one of ours, or, where a ``key`` is
    given, was saved under another.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise InputError(str(path), ["no such file"]) from None
    except (OSError, ValueError) as error:
        raise InputError(
            str(path), [f"not a parquet file that can be read ({getattr(error, 'strerror', None) or error})"]
        ) from None
    return table_of_bytes(data, str(path), key=key)


def table_of_bytes(data: bytes, where: str, *, key: str | None = None) -> Table:
    """The Table of a file's bytes; ``where`` is what an ``InputError`` calls the file."""
    file, name, text, _ = _opened(data, where, key)
    try:
        columns = file.read()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(where, error) from None
    try:
        run = Run.from_json(text)
        kinds = {column.name: column.dtype for column in SCHEMAS.get(name, ())}
        frame = pd.DataFrame(
            {field.name: _from_arrow(columns.column(field.name), kinds.get(field.name)) for field in columns.schema}
        )
        return Table(name, frame, run)
    except InputError as error:
        raise InputError(where, error.problems) from None
    except (ValueError, TypeError, pa.ArrowException) as error:
        raise InputError(where, [f"damaged: {error}"]) from None


def checksum_of_bytes(data: bytes, where: str, *, key: str | None = None) -> str:
    """The sha256 that a file's bytes are held against; no Table is made of them. Otherwise as ``table_of_bytes``."""
    return _opened(data, where, key)[3]


def _opened(data: bytes, where: str, key: str | None) -> tuple[pq.ParquetFile, str, str, str]:
    """The file, its table's name, the Run's text and the checksum of the whole, all of them checked.

    Files of before have no checksum of the whole, only of their pages and of their metadata.
    """
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(where, error) from None
    head = file.metadata.metadata or {}
    try:
        name, text, saved, check = (head[f"isp_mech.{k}".encode()].decode() for k in ("table", "run", "key", "check"))
    except (KeyError, UnicodeDecodeError):
        raise InputError(where, ["a parquet file, but no table of isp_mech: its metadata names no run"]) from None
    whole = head.get(WHOLE.encode(), b"")
    if _check(name, text, saved, file.metadata.num_rows, *([WHOLE] if whole else [])) != check:
        raise InputError(where, ["damaged: the checksum of its metadata does not fit"])
    if whole and hashlib.sha256(data.replace(whole, BLANK)).hexdigest().encode() != whole:
        raise InputError(where, ["damaged: the checksum of the whole file does not fit"])
    if key is not None and key != saved:
        raise InputError(where, [f"holds another unit: found the key {saved!r}, expected {key!r}"])
    return file, name, text, whole.decode() or hashlib.sha256(data).hexdigest()


def _unreadable(where: str, error: Exception) -> InputError:
    return InputError(where, [f"not a parquet file that can be read ({str(error).splitlines()[0]})"])


def _from_arrow(column: pa.ChunkedArray, dtype: str | None) -> pd.Series[Any]:
    kept = {pa.string(): pd.StringDtype(), pa.int64(): pd.Int64Dtype()}  # others become numpy's types
    return pd.Series(column.to_pandas(types_mapper=kept.get if dtype in ("string", "Int64") else None))
