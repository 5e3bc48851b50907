"""Brings a frame to the declared columns and types, or says everything that does not fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from isp_mech.errors import InputError
from isp_mech.tables.schemas import SCHEMAS, Column


def conform(name: str, frame: pd.DataFrame) -> pd.DataFrame:
    schema = SCHEMAS[name]
    declared = [column.name for column in schema]
    later = {c.name: c.default for c in schema if c.default is not None and c.name not in frame.columns}
    frame = frame.assign(**later) if later else frame
    given = [str(c) for c in frame.columns]
    if given == declared and _fits(frame, schema):
        return frame.copy(deep=False) if isinstance(frame.index, pd.RangeIndex) else frame.reset_index(drop=True)
    problems = [f"missing column {c!r}" for c in declared if c not in given]
    problems += [f"unexpected column {c!r}" for c in dict.fromkeys(given) if c not in declared]
    problems += [f"column {c!r} is repeated" for c in dict.fromkeys(given) if given.count(c) > 1]
    out = {}
    for column in schema:
        if given.count(column.name) == 1:
            try:
                out[column.name] = _coerce(frame[column.name], column)
            except ValueError as error:
                problems.append(f"column {column.name!r}: {error}")
    if problems:
        raise InputError(f"table {name!r}", problems)
    return pd.DataFrame(out, columns=declared).reset_index(drop=True)


def _fits(frame: pd.DataFrame, schema: Sequence[Column]) -> bool:
    """Whether every column has its declared type, and a value in each row where it must."""
    types = [str(dtype) == column.dtype for dtype, column in zip(frame.dtypes, schema, strict=True)]
    full = [column.name for column in schema if not column.nullable]
    return all(types) and not frame[full].isna().to_numpy().any()


def _coerce(values: pd.Series, column: Column) -> pd.Series:
    """The column in its declared type; ``ValueError`` with the first row that does not fit."""
    dtype: Any = column.dtype
    values = values.reset_index(drop=True)
    missing = values.isna()
    if missing.any() and not column.nullable:
        raise ValueError(f"row {_first(missing)} is missing: expected {column.dtype}")
    if column.dtype == "string":
        return _coerce_text(values)
    if column.dtype == "bool":
        if values.dtype == bool:
            return values
        return _coerce_kind(values, (bool, np.bool_), "true or false").astype("bool")
    if pd.api.types.is_numeric_dtype(values.dtype) and not pd.api.types.is_bool_dtype(values.dtype):
        numbers = values
    else:
        kinds = (int, float, np.integer, np.floating)
        numbers = _coerce_kind(values, kinds, "a number", skip=missing).where(~missing, None)
    if column.dtype in ("int64", "Int64"):
        return _coerce_int(numbers, dtype)
    try:
        exact = numbers.astype("Float64").astype("float64") if numbers.dtype == object else numbers.astype("float64")
    except OverflowError:
        raise ValueError("a number is beyond float64") from None
    with np.errstate(over="ignore"):
        rounded = exact.astype(dtype)
    beyond = np.isinf(rounded) & ~np.isinf(exact)
    if beyond.any():
        raise ValueError(f"row {_first(beyond)} has {float(exact[_first(beyond)])!r}: beyond {column.dtype}")
    return rounded


def _coerce_text(values: pd.Series) -> pd.Series:
    if not isinstance(values.dtype, pd.StringDtype):
        values = _coerce_kind(values, (str,), "text")
    try:
        return values.astype("string")
    except (UnicodeEncodeError, pa.ArrowInvalid):
        bad = [not _is_unicode(value) for value in values]
        raise ValueError(f"row {bad.index(True)} has a lone surrogate, which is not text") from None


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _coerce_kind(values: pd.Series, kinds: tuple[type, ...], expected: str, skip: pd.Series | None = None) -> pd.Series:
    objects = values.astype(object)
    truths = (bool, np.bool_)
    wanted = {t: issubclass(t, kinds) and (bool in kinds or not issubclass(t, truths)) for t in set(map(type, objects))}
    if all(wanted.values()):
        return objects
    wrong = pd.Series([not wanted[type(v)] for v in objects], dtype=bool)
    if skip is not None:
        wrong &= ~skip
    if wrong.any():
        row = _first(wrong)
        raise ValueError(f"row {row} has {objects[row]!r}: expected {expected}")
    return objects


def _coerce_int(values: pd.Series, dtype: Any) -> pd.Series:
    if pd.api.types.is_integer_dtype(values.dtype) and not pd.api.types.is_unsigned_integer_dtype(values.dtype):
        return values.astype("Int64").astype(dtype)
    if set(map(type, values)) == {int}:
        with suppress(OverflowError):
            return pd.Series(np.fromiter(values, np.int64, len(values))).astype(dtype)
    whole: list[int | None] = []
    for row, value in enumerate(values.astype(object)):
        if value is None or value is pd.NA or value != value:
            whole.append(None)
        elif math.isfinite(value) and int(value) == value and -(2**63) <= int(value) < 2**63:
            whole.append(int(value))
        else:
            raise ValueError(f"row {row} has {value!r}: expected a whole number")
    return pd.Series(whole, dtype="Int64").astype(dtype)


def _first(mask: Any) -> int:
    return int(np.flatnonzero(np.asarray(mask))[0])
