"""A matplotlib Figure in this library's style, and how it is saved: the same bytes each time, laid out once.

Nothing here touches pyplot or the reader's own matplotlib settings: a figure carries its style and
draws itself under it.
"""

from __future__ import annotations

import gc
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

from matplotlib import rc_context
from matplotlib.backend_bases import RendererBase
from matplotlib.figure import Figure

from isp_mech.figures.style import LOOK
from isp_mech.tables import Table

_FILES: Any = {
    "pdf.fonttype": 42, "ps.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "isp_mech", "savefig.dpi": 300,
    "savefig.facecolor": "white",
}  # fmt: skip
_UNDATED: Mapping[str, Mapping[str, None]] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}


class PaperFigure(Figure):
    """A matplotlib Figure that draws and saves itself in this library's style, whatever the reader's settings.

    ``savefig`` embeds TrueType fonts, keeps text as text in SVG, and writes the same bytes each time.
    ``names_by_number`` are the names that no font here can write, by the numbers that stand for them in the figure.
    """

    names_by_number: Mapping[str, str] = MappingProxyType({})

    def draw(self, renderer: RendererBase) -> None:
        with rc_context(LOOK):
            super().draw(renderer)

    def savefig(self, fname: str | PathLike[Any] | IO[Any], **settings: Any) -> None:
        save_as(self, fname, **settings)

    def _repr_png_(self) -> bytes:
        """What a notebook's cell shows, whether or not pyplot is there."""
        file = io.BytesIO()
        self.savefig(file, dpi=120)
        return file.getvalue()


def new_figure(width: float, height: float) -> PaperFigure:
    """An empty figure of ``width`` x ``height`` inches whose panels lay themselves out without overlap."""
    return PaperFigure(figsize=(width, height), layout="constrained")


def save_as(figure: Figure, target: str | PathLike[Any] | IO[Any], *, outlines: bool = False, **settings: Any) -> None:
    """Writes one file of ``figure`` without dates; with ``outlines`` an SVG's text becomes shapes that need no font."""
    suffix = Path(target).suffix.removeprefix(".") if isinstance(target, str | PathLike) else ""
    kind = settings.get("format") or suffix or "png"
    if kind in _UNDATED:
        settings["metadata"] = {**_UNDATED[kind], **settings.get("metadata", {})}
    with rc_context({**LOOK, **_FILES, "svg.fonttype": "path" if outlines else "none"}), _laid_out(figure):
        with _lean_fonts() if kind == "pdf" else nullcontext():
            Figure.savefig(figure, target, **settings)


@contextmanager
def _laid_out(figure: Figure) -> Iterator[None]:
    """Within it the panels stand where they are: laid out once for all files, and again only if something changed.

    Left to itself, matplotlib draws twice for each file, once to find the places. What it leaves to be collected is
    collected afterwards: looking for it while drawing takes a fifth of the time.
    """
    engine, collecting = figure.get_layout_engine(), gc.isenabled()
    gc.disable()
    try:
        if engine is not None and figure.stale:
            engine.execute(figure)
        figure.set_layout_engine(None)
        yield
    finally:
        figure.set_layout_engine(engine)
        figure.stale = False
        if collecting:
            gc.enable()


@contextmanager
def _lean_fonts() -> Iterator[None]:
    """Within it a PDF's fonts are cut down without the tables that shape text: each glyph has its place already.

    To read those, for every font of every file, is most of what a PDF costs.
    """
    from fontTools.subset import Options  # type: ignore[import-untyped]

    usual = Options._drop_tables_default
    Options._drop_tables_default = [*usual, "GSUB", "GPOS", "GDEF", "kern"]
    try:
        yield
    finally:
        Options._drop_tables_default = usual


def save(figure: Figure, stem: str | Path, table: Table | None = None) -> tuple[Path, ...]:
    """The files written: ``stem.pdf``, ``stem.svg``, ``stem.png`` (300 dpi) and, given the table, ``stem.parquet``.

    The folder is made where it is missing. The same figure gives the same bytes.
    """
    stem = Path(stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in ("pdf", "svg", "png")]
    for path in paths:
        save_as(figure, path)
    if table is not None:
        paths.append(stem.with_name(f"{stem.name}.parquet"))
        table.save(paths[-1])
    return tuple(paths)
