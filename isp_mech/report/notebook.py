"""The report in a notebook's cell, and where a run's report is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path

from markupsafe import Markup

from isp_mech.errors import InputError
from isp_mech.report.page import report_text
from isp_mech.tables import Table
from isp_mech.tasks import Pair, PairSet


@dataclass(frozen=True, repr=False)
class Shown:
    """A page that a notebook shows in a frame ``height`` pixels high; it cannot reach the notebook around it."""

    page: str
    height: int

    def __repr__(self) -> str:
        return f"a report of {len(self.page)} characters; a notebook shows it"

    def _repr_html_(self) -> str:
        return (
            f'<iframe title="report" width="100%" height="{self.height}" style="border: 0" '
            f'sandbox="allow-scripts allow-downloads" srcdoc="{Markup.escape(self.page)}"></iframe>'
        )


def report_file(run: str | Path) -> Path:
    """The page of a run's folder, or ``run`` itself if it is a page. ``InputError`` where there is none."""
    path = Path(run)
    page = path if path.suffix == ".html" else path / "report.html"
    if not page.is_file():
        raise InputError(str(run), [f"found no {page.name}, expected a folder that `isp-mech report` wrote"])
    return page


def show(run: str | Path | PairSet | Sequence[Pair], *found: object, height: int = 900) -> Shown:
    """What a notebook shows as the report, when it is the last line of a cell.

    ``run`` is a run's folder or page; or pairs, and then ``found`` is what ``score``, ``trace``, ``locate`` and others
    gave for them, or tables, or tables by name. ``InputError`` for a folder without a page, and for pairs without
    tables that have rows.
    """
    if isinstance(run, str | Path):
        return Shown(report_file(run).read_text(encoding="utf-8"), height)
    tables: dict[str, Table] = {}
    for table in _tables(found):
        number = sum(of.name == table.name for of in tables.values())
        tables[f"{table.name} {number + 1}" if number else table.name] = table
    name = run.name if isinstance(run, PairSet) else "pairs"
    return Shown(report_text(tables, {}, title=name, examples=tuple(run)), height)


def _tables(found: object) -> Iterator[Table]:
    if isinstance(found, Table):
        yield found
    elif isinstance(found, Mapping):
        yield from _tables(tuple(found.values()))
    elif isinstance(found, tuple | list):
        for each in found:
            yield from _tables(each)
    elif is_dataclass(found):
        yield from _tables(tuple(getattr(found, field.name) for field in fields(found)))
