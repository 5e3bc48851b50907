"""What a verb found, told to people as a table or to programs as one JSON document."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from isp_mech.errors import InputError

if TYPE_CHECKING:
    from isp_mech.tables import Table


@dataclass(frozen=True)
class Answer:
    """``document`` is what ``--json`` prints, ``tell`` prints the same for people. ``code`` is the exit code;
    ``failure`` is raised once what could be found is printed."""

    document: Mapping[str, object]
    tell: Callable[[], None]
    code: int = 0
    failure: InputError | None = None

    def give(self, as_json: bool) -> int:
        """Prints, and returns the exit code."""
        if as_json:
            print(json.dumps(plain(self.document), indent=1, ensure_ascii=False, allow_nan=False))
        else:
            self.tell()
        if self.failure is not None:
            raise self.failure
        return self.code


def rows(table: Table) -> list[dict[str, object]]:
    """The table's rows with all their columns. Missing values are None; numbers are the stored ones, not rounded."""
    frame = table.frame.astype(object)
    return [{str(name): value for name, value in row.items()} for row in
            frame.where(frame.notna(), None).to_dict("records")]  # fmt: skip


def plain(value: object) -> object:
    """``value`` as JSON can hold it: NaN is None, an infinite number a text, a tuple a list.

    >>> plain({"a": (float("nan"), float("-inf"), 0.1)})
    {'a': [None, '-Infinity', 0.1]}
    """
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
