"""The declared columns of every table, with type, unit and sign, as ``schemas.tsv`` beside this file has them.

One row declares one column. A row of the table ``every`` stands at the head of every table. A row that gives
no more than a column's name takes the rest from the row of that name under ``shared``. A type that ends in ``?`` may be
missing; ``with interval`` declares the ends of the 95 % interval too, as NAME_lo and NAME_hi. ``string = WORD`` is a
column that came later: a table without it has WORD in every row; ``float64? = nan`` one that is missing there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal, cast, get_args

Dtype = Literal["string", "bool", "int64", "Int64", "float32", "float64"]


@dataclass(frozen=True)
class Column:
    """A declared column. ``Int64`` holds missing values; so do floats that are ``nullable``.

    ``unit`` is nats, share, relative or empty; ``meaning`` says sign and range. ``ValueError`` for an unknown type.
    """

    name: str
    dtype: Dtype
    unit: str
    meaning: str
    nullable: bool = False
    default: str | float | None = None

    def __post_init__(self) -> None:
        if self.dtype not in get_args(Dtype):
            raise ValueError(f"column {self.name!r}: type {self.dtype!r}, expected one of {', '.join(get_args(Dtype))}")


def _columns(name: str, kind: str, unit: str, meaning: str) -> Iterator[Column]:
    """The column of a row, and the ends of its interval where it has one."""
    kind, _, default = kind.partition(" = ")
    bare = kind.removesuffix(" with interval")
    dtype = cast(Dtype, bare.rstrip("?"))
    later = float(default) if default and dtype != "string" else default or None
    yield Column(name, dtype, unit, meaning, bare.endswith("?") or dtype == "Int64", later)
    if bare != kind:
        for ending, end in (("lo", "lower"), ("hi", "upper")):
            yield Column(f"{name}_{ending}", dtype, unit, f"{end} end of the 95 % interval of {name}", nullable=True)


def _read(path: Path) -> Mapping[str, tuple[Column, ...]]:
    names = ("table", "column", "type", "unit", "meaning")
    header, *lines = path.read_text(encoding="utf-8").splitlines()
    if header.split("\t") != list(names):
        raise ValueError(f"{path}: columns {header!r}, expected {', '.join(names)}")
    shared: dict[str, list[Column]] = {}
    tables: dict[str, list[Column]] = {}
    for line in lines:
        table, *cells = line.split("\t")
        column, kind, unit, meaning = (*cells, "", "", "")[:4]
        columns = list(_columns(column, kind, unit, meaning)) if kind else shared[column]
        if table == "shared":
            shared[column] = columns
        else:
            tables.setdefault(table, list(tables.get("every", ()))).extend(columns)
    return MappingProxyType({name: tuple(columns) for name, columns in tables.items() if name != "every"})


SCHEMAS: Mapping[str, tuple[Column, ...]] = _read(Path(__file__).parent / "schemas.tsv")
