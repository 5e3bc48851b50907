"""The whole chain on one task and one family: measure, draw, tell. A run that was stopped goes on where it was.

    DIR/pairs.jsonl      the pairs, with their roles
    DIR/units/           what is done, one file for each model and table
    DIR/tables/          the same, joined over models
    DIR/figures/         PDF, SVG and PNG, with the data beside
    DIR/report.html

Drawing and telling need the tables alone; torch is imported only to measure.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isp_mech.contrasts import contrast_names
from isp_mech.contrasts.pair_files import is_pairs_file, read_pairs
from isp_mech.errors import InputError, visible
from isp_mech.families import Family
from isp_mech.families import family as find_family
from isp_mech.runs.jobs import NEEDS, STEPS, TABLES, Settings
from isp_mech.tasks import PairSet
from isp_mech.runs.plans import origin_of, plain_name, read_subject
from isp_mech.tasks import Task

if TYPE_CHECKING:
    from isp_mech.runs.engines import Engine
    from isp_mech.figures import PaperFigure
    from isp_mech.tables import Table

__all__ = ["NEEDS", "STEPS", "TABLES", "default_folder", "draw", "explain", "measure", "read_subject", "read_tables",
           "tell"]  # fmt: skip


def explain(
    task: str | Path | PairSet | Task,
    *,
    family: str | Family | Sequence[str | Path] = "ladder",
    out: str | Path | None = None,
    n: int = 300,
    seed: int = 0,
    replacement: str | Sequence[str] = "mean",
    batch_size: int | str = "auto",
    device: str = "cpu",
    dtype: str = "float32",
    progress: bool = True,
) -> Path:
    """The path of ``report.html``, written into the folder ``out`` with all tables and figures.

    ``task`` is a contrast's name, a file of pairs, or a file of the prize's format, for which there is no
    lure to trace: it is scored only. ``n`` pairs are drawn for a name; a file is used whole. What is
    done already in ``out`` is not done again. Raises ``InputError`` before anything is written where an
    argument or the task's file is bad.
    """
    subject = read_subject(task, n=n, seed=seed)
    chosen = family if isinstance(family, Family) else find_family(family)
    folder = Path(out) if out is not None else default_folder(subject)
    tables = measure(
        subject,
        chosen,
        out=folder,
        steps=STEPS if isinstance(subject, PairSet) else ("score",),
        origin=origin_of(task, n=n, seed=seed),
        seed=seed,
        replacement=replacement,
        batch_size=batch_size,
        device=device,
        dtype=dtype,
        progress=progress,
    )
    _tell(progress, "drawing figures, writing the report")
    figures = draw(tables, folder)
    return tell(tables, figures, folder, examples=subject.pairs[:1] if isinstance(subject, PairSet) else ())


def default_folder(subject: PairSet | Task) -> Path:
    """``reports/<task>``, the name made fit for a folder."""
    return Path("reports") / plain_name(subject.name)


# --- measuring ------------------------------------------------------------------------------------


def measure(
    subject: PairSet | Task,
    family: Family,
    *,
    out: str | Path,
    steps: Sequence[str] = STEPS,
    origin: str = "",
    engine: Engine | None = None,
    seed: int = 0,
    rule: str = "strict",
    replacement: str | Sequence[str] = "mean",
    method: str = "exact",
    positions: str = "decision",
    n_random: int = 200,
    share: float = 0.1,
    batch_size: int | str = "auto",
    device: str = "cpu",
    device_map: str | None = None,
    dtype: str = "float32",
    threads: int | None = None,
    shard: int = 0,
    progress: bool = True,
) -> dict[str, Table]:
    """The tables of ``steps`` over all of the family's models, by name; also written to ``out``/tables.

    It is a plan with one task: each model's table is kept in ``out``/units as soon as it is done, under a key of
    everything that determines it, and is read from there the next time. ``origin`` is how the command line is told
    the task; ``engine`` is who computes (this process).
    """
    from isp_mech.runs.engines import Engine
    from isp_mech.runs.fingerprints import weights_of
    from isp_mech.runs.jobs import part_of
    from isp_mech.runs.execute import finish
    from isp_mech.runs.run_directory import RunDirectory
    from isp_mech.tables import read_table

    settings = Settings(
        seed=seed,
        rule=rule,
        replacement=(replacement,) if isinstance(replacement, str) else tuple(replacement),
        method=method,
        positions=positions,
        n_random=n_random,
        share=share,
        batch_size=batch_size,
        device=device,
        device_map=device_map,
        dtype=dtype,
        threads=threads,
        shard=shard,
    )
    _check(subject, steps, settings)
    directory = RunDirectory(out)
    weights = weights_of({size.name: size for size in family.members}, directory)
    part = part_of(subject, family, steps=steps, settings=settings, weights=weights, origin=origin)
    finish(part, directory, (engine or Engine()).start(directory, progress=progress))
    return {name: read_table(Path(out) / "tables" / f"{name}.parquet") for name in part.tables}


def _check(subject: PairSet | Task, steps: Sequence[str], settings: Settings) -> None:
    problems = [f"step {step!r}: expected some of {', '.join(STEPS)}" for step in steps if step not in STEPS]
    problems += settings.problems()
    beyond = [step for step in steps if step in STEPS and step != "score"]
    if isinstance(subject, Task) and beyond:
        problems.append(
            f"{', '.join(beyond)}: needs contrasting pairs, and {visible(subject.name)} is a plain task: expected one "
            f"of {', '.join(contrast_names())}, or a file of pairs"
        )
    if problems:
        raise InputError("explain", problems)
    if settings.device != "cpu":
        from isp_mech.models import check_device

        check_device("device", settings.device)


# --- drawing and telling, from tables alone -------------------------------------------------------


def read_tables(folder: str | Path) -> dict[str, Table]:
    """The tables that a run left in ``folder``, by file name. ``InputError`` where there is none, or a bad one."""
    from isp_mech.tables import read_table

    order = [name for names in TABLES.values() for name in names]
    place = {name: i for i, name in enumerate(order)}
    files = sorted((Path(folder) / "tables").glob("*.parquet"), key=lambda f: (place.get(f.stem, len(order)), f.stem))
    if not files:
        raise InputError(
            str(folder), ["found no tables/*.parquet, expected a folder that `isp-mech explain` or `score` wrote"]
        )
    return {file.stem: read_table(file) for file in files}


def draw(tables: Mapping[str, Table], folder: str | Path | None = None) -> dict[str, PaperFigure]:
    """The figures that ``tables`` allow, by name; with ``folder``, also written to ``folder``/figures."""
    from isp_mech import figures

    plots: dict[str, tuple[str, Callable[..., PaperFigure]]] = {
        "scaling_curve": ("curve", figures.scaling_curve),
        "shares_over_size": ("shares", figures.shares_over_size),
        "lens_over_depth": ("lens", lambda lens: figures.lens_over_depth(lens, onset=tables.get("onset"))),
        "onset_over_size": ("onset", figures.onset_over_size),
        "attention_by_role": ("attention", figures.attention_by_role),
        "story_over_size": ("story", figures.story_over_size),
        "override_map": ("sites", figures.override_map),
        "direct_vs_total": ("sites", figures.direct_vs_total),
        "verification": ("verification", figures.verification),
    }
    drawn = {
        name: plot(tables[table]) for name, (table, plot) in plots.items() if table in tables and len(tables[table])
    }
    if not drawn and not len(tables.get("value_curve", ())):
        raise InputError("figures", [f"found tables {', '.join(tables)}: none that a figure is drawn from"])
    if folder is not None:
        for name, figure in drawn.items():
            figures.save(figure, Path(folder) / "figures" / name.replace("_", "-"), tables[plots[name][0]])
    return drawn


def tell(
    tables: Mapping[str, Table],
    figures: Mapping[str, PaperFigure],
    folder: str | Path,
    *,
    examples: Sequence[Any] | None = None,
) -> Path:
    """The path of ``folder``/report.html; without ``examples``, the first of ``folder``/pairs.jsonl is shown."""
    from isp_mech.report import write_report

    pairs_file = Path(folder) / "pairs.jsonl"
    if examples is None:
        examples = read_pairs(pairs_file).pairs[:1] if is_pairs_file(pairs_file) else ()
    frame = next((table for table in tables.values() if len(table)), next(iter(tables.values()))).frame
    title = ", ".join(dict.fromkeys(frame["task"]))
    return write_report(Path(folder) / "report.html", tables, figures, title=title, examples=examples)


def _tell(progress: bool, text: str) -> None:
    if progress:
        print(text, file=sys.stderr, flush=True)
