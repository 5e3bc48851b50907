"""One page that says what was found: ``report.html``, a single file that needs no network.

Its shape is ``page.html``, a jinja2 template, with ``page.css``. Whatever comes from data is escaped there and
cannot act. With the pairs' own scores it also has ``explorer.js``, the one script that its policy lets run.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup
from matplotlib.figure import Figure

from isp_mech.errors import InputError, visible
from isp_mech.figures.frames import site_name, sizes_of
from isp_mech.figures.paper_figure import save_as
from isp_mech.figures.style import probability
from isp_mech.report.cautions import cautions, limits
from isp_mech.report.example import cards_of, legend_of
from isp_mech.report.explorer import NO_SCRIPT, explorer
from isp_mech.report.findings import findings
from isp_mech.report.size_by_size import size_by_size
from isp_mech.report.task_rows import TaskRows, task_rows
from isp_mech.report.wording import nats, texts
from isp_mech.tables import Run, Table, write_whole
from isp_mech.tasks import Pair

_KINDS = {".svg": "image/svg+xml", ".png": "image/png"}


def write_report(
    path: str | Path,
    tables: Mapping[str, Table],
    figures: Mapping[str, Figure | str | Path],
    *,
    title: str,
    examples: Sequence[Pair] = (),
) -> Path:
    """The path of the page written: what was found in words, an example, the figures, each size, how it was made.

    ``path`` is the file, or a folder that gets ``report.html``. ``figures`` maps a figure function's
    name (``scaling_curve``, ..., or ``task/scaling_curve``) to a Figure or to an SVG or PNG file; all
    are put into the page itself. Of ``examples``, the run's pairs, the first is shown; where the tables have
    scores of theirs, a reader can go from the curve to a size, a site and each of these pairs. Texts from
    data are shown and cannot act. Equal input gives equal bytes. ``InputError`` for no tables, or a
    figure file that is missing or of another kind.
    """
    path = Path(path)
    content = report_text(tables, figures, title=title, examples=examples)
    return write_whole(path / "report.html" if path.is_dir() else path, content.encode("utf-8"))


def report_text(
    tables: Mapping[str, Table],
    figures: Mapping[str, Figure | str | Path],
    *,
    title: str,
    examples: Sequence[Pair] = (),
) -> str:
    """The page that ``write_report`` writes, as text."""
    if not any(len(table) for table in tables.values()):
        raise InputError("report", ["found no table with rows, expected at least one"])
    tasks = list(dict.fromkeys(task for table in tables.values() for task in table.frame["task"].unique()))
    parts = [task_rows(tables, task) for task in tasks]
    keep_in_mind = dict.fromkeys(line for part in parts for line in cautions(part, tables))
    shared, own = _provenance(tables)
    return _template().render(
        title=title,
        subtitle=_subtitle(tables, tasks),
        parts=parts,
        example=next(iter(examples), None),
        ask=explorer(tables.values(), parts, examples),
        no_script=NO_SCRIPT,
        figures=[_figure(name, source) for name, source in figures.items()],
        lists=[("To keep in mind", list(keep_in_mind)), ("What these numbers are not evidence of", limits(tables))],
        shared=shared,
        own=own,
    )


# --- how data becomes text ------------------------------------------------------------------------


@cache
def _template() -> Template:
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, finalize=shown, keep_trailing_newline=True
    )
    for function in (findings, size_by_size, largest_sites, legend_of, cards_of):
        environment.globals[function.__name__] = function
    environment.filters |= {"prose": prose, "prompt": lambda raw: shown(raw, keep="\n\t")}
    return environment.get_template("page.html")


def shown(raw: object, *, keep: str = "") -> Markup:
    """``raw`` as HTML text that shows it and does nothing; control characters but those in ``keep`` are written out.

    >>> print(shown("<b>&"))
    &lt;b&gt;&amp;
    """
    return raw if isinstance(raw, Markup) else Markup.escape(visible(raw, keep=keep))


def prose(raw: str) -> Markup:
    """A sentence as HTML in which a number is never parted from its unit."""
    text = str(shown(raw))
    for unit in ("%", "nats", "points"):
        text = text.replace(f" {unit}", f"&nbsp;{unit}")
    return Markup(text)


# --- what is on the page --------------------------------------------------------------------------


def _subtitle(tables: Mapping[str, Table], tasks: Sequence[str]) -> str:
    models = [
        model for model, _ in sizes_of(pd.concat([table.frame[["model", "n_params"]] for table in tables.values()]))
    ]
    return f"{', '.join(tasks)}; {len(models)} model{'s' if len(models) > 1 else ''}: {', '.join(models)}"


def largest_sites(of: TaskRows, most: int = 10) -> list[tuple[str, list[list[str]]]]:
    """The largest size's label and the cells of its ``most`` strongest sites; empty where none were measured."""
    sites = of.rows("sites")
    if not len(sites):
        return []
    sites = sites[sites["model"] == sites["model"].iloc[-1]]
    strongest = sites.sort_values("effect", key=abs, ascending=False).head(most)
    return [(of.labels[sites["model"].iloc[0]], [_cells(row) for _, row in strongest.iterrows()])]


def _cells(row: pd.Series) -> list[str]:
    low, high = (nats(row[end]).removesuffix(" nats") for end in ("effect_lo", "effect_hi"))
    direct = "not measured" if pd.isna(row["direct_effect"]) else nats(row["direct_effect"])
    q = "not tested" if pd.isna(row["q"]) else probability(row["q"]).removeprefix("p ").removeprefix("= ")
    return [site_name(row), nats(row["effect"]), f"{low} to {high}", direct, q, "yes" if row["significant"] else "no"]


@dataclass(frozen=True)
class PageFigure:
    """A figure with its caption: what it shows, and how to read it."""

    image: Markup
    title: str
    reading: str


def _figure(name: str, source: Figure | str | Path) -> PageFigure:
    place, _, key = name.replace("-", "_").rpartition("/")
    title, reading = texts("captions.tsv").get(key, (f"{key.replace('_', ' ')}.", ""))
    numbered = getattr(source, "names_by_number", {})
    if numbered:
        said = ", ".join(f"{number} is {name}" for number, name in numbered.items())
        reading = f"{reading} Names in a script that no font here has are numbered: {said}.".strip()
    return PageFigure(_image(source), f"{place.replace('_', '-')}: {title}" if place else title, reading)


def _image(source: Figure | str | Path) -> Markup:
    """A data URI of a figure, or of an SVG or PNG file. ``InputError`` for a file of another kind or none."""
    if isinstance(source, Figure):
        suffix, buffer = ".svg", io.BytesIO()
        save_as(source, buffer, format="svg", outlines=True)
        content = buffer.getvalue()
    else:
        path = Path(source)
        suffix = path.suffix.lower()
        if suffix not in _KINDS:
            raise InputError(str(path), [f"found a figure of kind {path.suffix!r}, expected .svg or .png"])
        try:
            content = path.read_bytes()
        except OSError as error:
            raise InputError(str(path), [f"the figure cannot be read ({error.strerror})"]) from None
    return Markup(f"data:{_KINDS[suffix]};base64,{base64.b64encode(content).decode('ascii')}")


def _provenance(tables: Mapping[str, Table]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """How each table was made, from its Run: what all share, and what is each table's own."""
    runs = {name: _fields(table.run) for name, table in tables.items()}
    first = next(iter(runs.values()))
    shared = {k: v for k, v in first.items() if all(run.get(k) == v for run in runs.values())}
    own = []
    for name, fields in runs.items():
        parts = [f"{len(tables[name])} rows", *(f"{k}: {v}" for k, v in fields.items() if k not in shared)]
        own.append((name, "; ".join(parts)))
    return list(shared.items()), own


def _fields(run: Run) -> dict[str, str]:
    names = ("model", "revision", "task", "method", "seed", "dtype", "device", "commit")
    fields: dict[str, object] = {name: getattr(run, name) for name in names}
    fields["versions"] = ", ".join(f"{k} {v}" for k, v in run.versions.items())
    fields |= {f"setting {k}": v for k, v in run.settings.items()}
    return {k: str(v) for k, v in fields.items() if v not in (None, "")}
