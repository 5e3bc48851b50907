"""The lists that tasks draw from: rows of a file beside this one, or of a user's own file with the same columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Generic, TypeVar

from isp_mech.errors import InputError
from isp_mech.tasks.text_files import Row, read_lines, read_text, table_rows

HERE = Path(__file__).parent
Entry = TypeVar("Entry")
Cells = dict[str, str]


def read_table(path: str | Path, columns: Sequence[str], *, optional: Sequence[str] = ()) -> list[Row]:
    """Every row of a TSV (or, by its suffix, CSV) with a header, as ``Row(where, {column: text})``.

    Every cell of ``columns`` must be there and not blank; ``optional`` ones default to ``""``; other
    columns are ignored. Raises ``InputError`` with all problems of the file.
    """
    text = read_text(path)
    rows, problems = table_rows(text, tabs=Path(path).suffix.lower() != ".csv")
    read = []
    for where, raw in rows:
        cells = {name.strip(): cell.strip() for name, cell in raw.items()}
        missing = [name for name in columns if name not in cells]
        if missing:
            problems = [f"no column {name!r} among {', '.join(cells)}" for name in missing]
            break
        problems += [f"{where}: {name} is empty, expected some text" for name in columns if not cells[name]]
        problems += [f"{where}: {name} has a line break, expected none" for name in cells if "\n" in cells[name]]
        read.append(Row(where, {name: cells.get(name, "") for name in (*columns, *optional)}))
    if not read and not problems:
        problems = [f"expected at least one row, found {'only a header' if text.strip() else 'an empty file'}"]
    if problems:
        raise InputError(str(path), problems)
    return read


def _nothing_more(rows: Sequence[Cells]) -> list[str]:
    return []


@dataclass(frozen=True)
class EntryList(Generic[Entry]):
    """A list of entries: where the project's own is, and how a row becomes an entry.

    ``make`` takes the cells by their columns' names, and says by ``ValueError`` what is wrong with them. No two rows
    may have the same ``once`` (as ``alike`` spells it); ``whole`` gives what is wrong with all rows together. With
    ``or_lines`` a file that ends neither in .tsv nor in .csv has the first column alone, a line each.
    """

    file: str
    make: Callable[..., Entry]
    columns: tuple[str, ...]
    once: str
    optional: tuple[str, ...] = ()
    alike: Callable[[str], str] = str
    whole: Callable[[Sequence[Cells]], list[str]] = _nothing_more
    or_lines: bool = False

    @cached_property
    def _own(self) -> tuple[Entry, ...]:
        return self._from_file(HERE / self.file)

    def read(self, source: str | Path | None = None) -> tuple[Entry, ...]:
        """The entries of the file ``source``, or the project's own. ``InputError`` lists all that is wrong with it."""
        return self._own if source is None else self._from_file(source)

    def _from_file(self, path: str | Path) -> tuple[Entry, ...]:
        problems: list[str] = []
        entries: list[Entry] = []
        first: dict[str, str] = {}
        rows = self._rows(path)
        for where, cells in rows:
            try:
                entries.append(self.make(**cells))
            except ValueError as error:
                problems.append(f"{where}: {error}")
            value = cells[self.once]
            before = first.setdefault(self.alike(value), where)
            if before != where:
                problems.append(f"{where}: {self.once} {value!r} is on {before} already, expected it once")
        problems += self.whole([cells for _, cells in rows])
        if problems:
            raise InputError(str(path), problems)
        return tuple(entries)

    def _rows(self, path: str | Path) -> list[Row]:
        if self.or_lines and Path(path).suffix.lower() not in (".tsv", ".csv"):
            others = dict.fromkeys(self.optional, "")
            return [Row(f"line {n}", {self.columns[0]: line.strip(), **others}) for n, line in read_lines(path)]
        return read_table(path, self.columns, optional=self.optional)


@cache
def _words() -> dict[str, tuple[str, ...]]:
    lists: dict[str, list[str]] = {}
    for _, row in read_table(HERE / "words.tsv", ("list", "word")):
        lists.setdefault(row["list"], []).append(row["word"])
    return {name: tuple(words) for name, words in lists.items()}


def words(name: str) -> tuple[str, ...]:
    """The words of one list of ``words.tsv``, in its order; ``KeyError`` for a list that is not there.

    >>> words("vowel")
    ('a', 'e', 'i', 'o', 'u')
    """
    return _words()[name]
