"""The whole chain on one task and one family: measure, draw, report. A run that was stopped goes on where it was.

    DIR/pairs.jsonl      the pairs, with their roles
    DIR/units/           what is done, one file for each model and table
    DIR/tables/          the same, joined over models
    DIR/interventions/   the best change at each size, a file that `isp-mech score --intervention` takes
    DIR/figures/         PDF, SVG and PNG, with the data beside
    DIR/report.html

Figures and report need the tables alone; torch is imported only to measure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from isp_mech.contrasts.pair_files import is_pairs_file, read_pairs
from isp_mech.errors import InputError
from isp_mech.families import Family
from isp_mech.families import family as find_family
from isp_mech.inference.progress import Progress, say
from isp_mech.runs.execute import run_what_can
from isp_mech.runs.fingerprints import weights_of
from isp_mech.runs.jobs import TABLES, Part
from isp_mech.runs.plans import N_PAIRS, origin_of, read_subject
from isp_mech.runs.run_directory import RunDirectory
from isp_mech.runs.settings import CHAIN, QUICK, Dtype, Settings, Step
from isp_mech.runs.task_folders import default_folder, folder_name
from isp_mech.sites import Replacement
from isp_mech.tasks import PairSet, Task

SAVED_AS: Mapping[Needs, str] = {"roles": "by-roles", "nothing": "anywhere"}  # in the names of files

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from isp_mech.figures.restored_rows import Needs
    from isp_mech.tables import Table


def explain(
    task: str | Path | PairSet | Task,
    *,
    family: str | Family | Sequence[str | Path] = "ladder",
    out: str | Path | None = None,
    n: int = N_PAIRS,
    seed: int = 0,
    replacement: Replacement | Sequence[Replacement] = "mean",
    interventions: str | Sequence[str] = QUICK,
    chat: bool | str = False,
    system: str = "",
    batch_size: int | str = "auto",
    device: str = "cpu",
    dtype: Dtype = "float32",
    progress: bool = True,
) -> Path:
    """The path of ``report.html``, written into the folder ``out`` with all tables and figures.

    ``task`` is a contrast's name, a file of pairs, or a file of the prize's format, for which there is no
    lure to trace: it is scored only. ``n`` pairs are drawn for a name; a file is used whole. With ``chat`` prompts go
    into each model's own chat template, or into those of the models named (with commas between), behind the text
    ``system``. ``interventions`` are the kinds that are searched for a change that restores prompt-following:
    ``quick``, ``all``, ``none``, or some by name. What is done already in ``out`` is not done again. Raises
    ``InputError`` before anything is written where an argument or the task's file is bad; and, once the report of what
    could be done is written, where something of a model could not.
    """
    subject = read_subject(task, n=n, seed=seed)
    folder = Path(out) if out is not None else default_folder(subject)
    directory = RunDirectory(folder)
    part = part_in(
        directory,
        subject,
        family if isinstance(family, Family) else find_family(family),
        steps=steps_for(subject),
        settings=Settings(
            seed=seed,
            replacement=(replacement,) if isinstance(replacement, str) else tuple(replacement),
            interventions=(interventions,) if isinstance(interventions, str) else tuple(interventions),
            chat="all" if chat is True else chat or "none",
            system=system,
            batch_size=batch_size,
            device=device,
            dtype=dtype,
        ),
        origin=origin_of(task, n=n, seed=seed),
    )
    ran = run_what_can({"": part}, directory, progress=progress)
    if ran.failure is not None and not ran.tables[""]:
        raise ran.failure
    report = make_report(read_tables(folder, ran.tables[""]), folder, progress=progress)
    if ran.failure is not None:
        raise ran.failure
    return report


def steps_for(subject: PairSet | Task) -> tuple[Step, ...]:
    """The steps of ``explain`` that a task allows: a plain one, without a lure, is scored only."""
    return CHAIN if isinstance(subject, PairSet) else ("score",)


def part_in(
    directory: RunDirectory,
    subject: PairSet | Task,
    family: Family,
    *,
    steps: Sequence[Step] = CHAIN,
    settings: Settings,
    origin: str = "",
) -> Part:
    """One task on one family, to be measured in ``directory``; ``InputError`` where the device is not there."""
    part = Part(subject, family, tuple(steps), settings, {}, origin)
    if settings.device != "cpu":
        from isp_mech.models import check_device

        check_device("device", settings.device)
    return replace(part, weights=weights_of({size.name: size for size in family.members}, directory))


# --- figures and report, from tables alone --------------------------------------------------------


def read_tables(folder: str | Path, names: Sequence[str] = ()) -> dict[str, Table]:
    """The tables that a run left in ``folder``, by file name: those called ``names``, or all.

    ``InputError`` where there is none, or a bad one.
    """
    from isp_mech.tables import read_table

    order = [name for of_step in TABLES.values() for name in of_step]
    there = sorted(file.stem for file in (Path(folder) / "tables").glob("*.parquet"))
    names = names or [*(name for name in order if name in there), *(name for name in there if name not in order)]
    if not names:
        expected = "a folder that `isp-mech explain` or `score` wrote"
        raise InputError(str(folder), [f"found no tables/*.parquet, expected {expected}"])
    return {name: read_table(Path(folder) / "tables" / f"{name}.parquet") for name in names}


def make_figures(tables: Mapping[str, Table], folder: str | Path | None = None) -> dict[str, Figure]:
    """The figures that ``tables`` allow, by name; with ``folder``, also written to ``folder``/figures."""
    from isp_mech import figures

    plots: dict[str, tuple[str, Callable[..., Figure]]] = {
        "scaling_curve": ("curve", figures.scaling_curve),
        "shares_over_size": ("shares", figures.shares_over_size),
        "lens_over_depth": ("lens", lambda lens: figures.lens_over_depth(lens, onset=tables.get("onset"))),
        "onset_over_size": ("onset", figures.onset_over_size),
        "attention_by_role": ("attention", figures.attention_by_role),
        "story_over_size": ("story", figures.story_over_size),
        "override_map": ("sites", figures.override_map),
        "direct_vs_total": ("sites", figures.direct_vs_total),
        "head_role_map": ("head_roles", figures.head_role_map),
        "verification": ("verification", figures.verification),
        "restored_vs_cost": ("restoration", figures.restored_vs_cost),
        "restored_over_size": ("restoration", figures.restored_over_size),
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


def save_interventions(tables: Mapping[str, Table], folder: str | Path) -> list[Path]:
    """The files written to ``folder``/interventions: for each model the best change that counts as restoring, of those
    that need the spans of roles (``-by-roles``) and of those that need nothing of a prompt (``-anywhere``)."""
    from isp_mech.figures.restored_rows import best_change, restored_rows

    if "restoration" not in tables or not len(tables["restoration"]):
        return []
    rows, written = restored_rows(tables["restoration"]), []
    place = Path(folder) / "interventions"
    for model in dict.fromkeys(rows["model"]):
        for needs, name in SAVED_AS.items():
            best = best_change(rows[rows["model"] == model], needs)
            path = place / f"{folder_name(model)}-{name}.json"
            if best is not None:
                place.mkdir(parents=True, exist_ok=True)
                path.write_text(f"{best['saved']}\n", encoding="utf-8")
                written.append(path)
            else:
                path.unlink(missing_ok=True)  # of an earlier run: it is the best no more
    return written


def make_report(tables: Mapping[str, Table], folder: str | Path, *, progress: Progress = False) -> Path:
    """The path of ``folder``/report.html, with the figures that ``tables`` allow and one of the folder's pairs;
    the best changes are saved beside it."""
    from isp_mech.report import write_report

    if progress:
        say("drawing figures, writing the report", always=progress == "steps")
    figures = make_figures(tables, folder)
    save_interventions(tables, folder)
    frame = next((table for table in tables.values() if len(table)), next(iter(tables.values()))).frame
    tasks, pairs = list(dict.fromkeys(frame["task"])), Path(folder) / "pairs.jsonl"
    examples = read_pairs(pairs).pairs if is_pairs_file(pairs) else ()
    return write_report(Path(folder) / "report.html", tables, figures, title=", ".join(tasks), examples=examples)
