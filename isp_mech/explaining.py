"""The whole chain on one task and one family: measure, draw, tell. A run that was stopped goes on where it was.

    DIR/pairs.jsonl      the pairs, with their roles
    DIR/units/           what is done, one file for each model and table
    DIR/tables/          the same, joined over models
    DIR/figures/         PDF, SVG and PNG, with the data beside
    DIR/report.html

Drawing and telling need the tables alone; torch is imported only to measure.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isp_mech.contrasts import contrast, contrast_names
from isp_mech.contrasts.files import is_pairs_file, read_pairs, write_pairs
from isp_mech.errors import InputError
from isp_mech.families import Family, Size
from isp_mech.families import family as find_family
from isp_mech.pairs import PairSet
from isp_mech.tasks import Task, read_task

if TYPE_CHECKING:
    from isp_mech.figures import PaperFigure
    from isp_mech.tables import Table

STEPS = ("score", "trace", "locate", "verify")
TABLES = {
    "score": ("scores", "items", "curve", "shares", "values", "value_curve", "rule_differences"),
    "trace": ("lens", "attention", "direct_effects", "onset"),
    "locate": ("effects", "sites", "stability"),
    "verify": ("verification",),
}
JOINED = ("story",)  # made from the others, over all models
NEEDS = {"score": (), "trace": (), "locate": (), "verify": ("locate",)}


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


def read_subject(
    task: str | Path | PairSet | Task, *, n: int = 300, seed: int = 0, source: str | Path | None = None
) -> PairSet | Task:
    """The pairs or the task that ``task`` names: a contrast (or a variant, ``neqa:twin``), a file of pairs or items."""
    if isinstance(task, PairSet | Task):
        return task
    name, _, variant = str(task).partition(":")
    if name in contrast_names():
        return contrast(name, n=n, seed=seed, source=source, variant=variant)
    if source is not None:
        raise InputError(
            "source", [f"{str(source)!r}: goes with a contrast's name, one of {', '.join(contrast_names())}"]
        )
    path = Path(task)
    if is_pairs_file(path):
        return read_pairs(path)
    if path.exists() or path.suffix or "/" in str(task):
        return read_task(str(task))
    raise InputError(
        "task", [f"{str(task)!r}: expected one of {', '.join(contrast_names())}, or a file (.jsonl, .csv)"]
    )


def default_folder(subject: PairSet | Task) -> Path:
    """``reports/<task>``, the name made fit for a folder."""
    safe = "".join(c if c.isalnum() or c in "-_." else "-" for c in subject.name).strip(".-")
    return Path("reports") / (safe or "task")


# --- measuring ------------------------------------------------------------------------------------


def measure(
    subject: PairSet | Task,
    family: Family,
    *,
    out: str | Path,
    steps: Sequence[str] = STEPS,
    seed: int = 0,
    rule: str = "strict",
    replacement: str | Sequence[str] = "mean",
    n_random: int = 200,
    share: float = 0.1,
    batch_size: int | str = "auto",
    device: str = "cpu",
    dtype: str = "float32",
    progress: bool = True,
) -> dict[str, Table]:
    """The tables of ``steps`` over all of the family's models, by name; also written to ``out``/tables.

    One model is in memory at a time. Each model's table is kept in ``out``/units as soon as it is done,
    under a key of everything that determines it, and is read from there the next time.
    """
    from isp_mech.runs import RunDirectory

    kinds = (replacement,) if isinstance(replacement, str) else tuple(replacement)
    _check(subject, steps, kinds, batch_size, n_random, share)
    directory = RunDirectory(out)
    common = _common_key(subject, seed=seed, dtype=dtype, device=device)
    settings: dict[str, dict[str, Any]] = {
        "score": {"rule": rule},
        "trace": {},
        "locate": {"replacement": kinds},
        "verify": {"replacement": kinds, "n_random": n_random, "share": share},
    }
    wanted = [step for step in STEPS if step in steps or any(step in NEEDS[later] for later in steps)]
    options = {"batch_size": batch_size, "seed": seed, "progress": progress}
    parts: list[dict[str, Table]] = []
    for size in family.members:
        load = _loader(size, dtype, device, progress)
        key = {**common, "model": _fingerprint(size)}
        found: dict[str, Table] = {}
        together = {"score", "trace"} <= set(wanted) and rule == "strict"
        run = _runner(subject, load, found, options, {**settings["score"], **settings["verify"]}, together)
        for step in wanted:
            names = [name for name in TABLES[step] if name not in _without(subject)]
            for name in names:
                found[name] = directory.unit(name, {**key, **settings[step]}, partial(_part, run, step, name))
        parts.append(found)
    tables = _join(parts, seed)
    for name, table in tables.items():
        table.save(directory.path / "tables" / f"{name}.parquet")
    if isinstance(subject, PairSet):
        write_pairs(subject, directory.path / "pairs.jsonl")
    return tables


def _without(subject: PairSet | Task) -> set[str]:
    """The tables of scoring that the subject does not have."""
    if isinstance(subject, PairSet):
        return {"values", "value_curve"}
    by_metric = {"classification": {"values", "value_curve"}, "numeric": {"rule_differences"}}
    return {"shares", *by_metric.get(subject.metric, set())}


def _check(
    subject: PairSet | Task,
    steps: Sequence[str],
    kinds: Sequence[str],
    batch_size: int | str,
    n_random: int,
    share: float,
) -> None:
    from isp_mech.replacing import REPLACEMENTS

    problems = [f"step {step!r}: expected some of {', '.join(STEPS)}" for step in steps if step not in STEPS]
    problems += [
        f"replacement {k!r}: expected one of {', '.join(REPLACEMENTS)}" for k in kinds if k not in REPLACEMENTS
    ]
    if not kinds or len(set(kinds)) < len(kinds):
        problems.append(f"replacement {list(kinds)}: expected one or more, each once")
    if batch_size != "auto" and (not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1):
        problems.append(f"batch size {batch_size!r}: expected 'auto' or a whole number, 1 or more")
    if not 0 < share <= 1:
        problems.append(f"share {share!r}: expected a share of the sites over 0 and up to 1")
    if n_random < 1:
        problems.append(f"random sets {n_random!r}: expected a whole number, 1 or more")
    beyond = [step for step in steps if step in STEPS and step != "score"]
    if isinstance(subject, Task) and beyond:
        problems.append(
            f"{', '.join(beyond)}: needs contrasting pairs, and {subject.name} is a plain task: expected one of "
            f"{', '.join(contrast_names())}, or a file of pairs"
        )
    if problems:
        raise InputError("explain", problems)


def _common_key(subject: PairSet | Task, *, seed: int, dtype: str, device: str) -> dict[str, Any]:
    from isp_mech.tables import make_run

    rows = list(map(repr, subject.items if isinstance(subject, Task) else subject.pairs))
    digest = hashlib.sha256(
        "\n".join([type(subject).__name__, str(subject.equally_likely), *rows]).encode()
    ).hexdigest()
    code = make_run(model="", task="", method="")
    return {
        "task": subject.name,
        "prompts": digest,
        "seed": seed,
        "dtype": dtype,
        "device": device.split(":")[0],
        "versions": dict(code.versions),
        "commit": code.commit,
    }


def _fingerprint(size: Size) -> list[Any]:
    """What tells one set of weights from another: names, and for a folder its files' sizes and times."""
    folder = Path(size.path_or_id).expanduser()
    files = sorted((*folder.glob("*.safetensors"), *folder.glob("*.json"))) if folder.is_dir() else []
    return [*astuple(size), [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]]


def _loader(size: Size, dtype: str, device: str, progress: bool) -> Callable[[], Any]:
    @cache
    def load() -> Any:
        from isp_mech.models import load_size

        _tell(progress, f"{size.name}: loading")
        return load_size(size, dtype=dtype, device=device)

    return load


def _runner(
    subject: PairSet | Task,
    load: Callable[[], Any],
    found: Mapping[str, Table],
    options: Mapping[str, Any],
    settings: Mapping[str, Any],
    together: bool,
) -> Callable[[str], dict[str, Table]]:
    """What one step gives for one model, by the tables' names; a step is run once, when its first table is asked for.

    ``found`` holds what earlier steps gave: verifying chooses from the effects that locating found. ``together``
    scores and traces by the same forwards.
    """

    @cache
    def scores() -> Any:
        from isp_mech.scoring import score

        return score(subject, load(), rule=settings["rule"], trace=together, **options)

    @cache
    def run(step: str) -> dict[str, Table]:
        model = load()
        _tell(options["progress"], f"{model.name}: {step}")
        if step == "score":
            made = scores()
            found_tables = {name: getattr(made, name) for name in TABLES["score"]}
            return {name: table for name, table in found_tables.items() if table is not None}
        assert isinstance(subject, PairSet)
        if step == "trace":
            from isp_mech.tracing import trace

            seen = scores().traces if together else trace(subject, model, **options)
            return {"lens": seen.lens, "attention": seen.attention, "direct_effects": seen.effects, "onset": seen.onset}
        if step == "locate":
            from isp_mech.locating import locate

            sites = locate(subject, model, replacement=settings["replacement"], **options)
            return {"effects": sites.effects, "sites": sites.sites, "stability": sites.stability}
        from isp_mech.verifying import verify

        drawn = {name: settings[name] for name in ("n_random", "share")}
        first = settings["replacement"][0]
        return {"verification": verify(found["effects"], subject, model, replacement=first, **drawn, **options)}

    return run


def _part(run: Callable[[str], dict[str, Table]], step: str, name: str) -> Table:
    return run(step)[name]


def _join(parts: Sequence[Mapping[str, Table]], seed: int) -> dict[str, Table]:
    """The models' tables as one each: false discoveries are controlled over all models' sites together, and
    the gap that a verification closes is measured to the family's best. With sites, their story over sizes too."""
    from isp_mech.summaries import story
    from isp_mech.tables import concat

    joined = {name: concat([part[name] for part in parts]) for name in parts[0]}
    if "sites" in joined:
        from isp_mech import locating

        sites = locating.join([locating.Sites(part["effects"], part["sites"], part["stability"]) for part in parts])
        joined["sites"] = sites.sites
        beside = {name: joined.get(name) for name in ("curve", "shares", "onset")}
        joined["story"] = story(sites.sites, joined["effects"], seed=seed, **beside)
    if "verification" in joined:
        from isp_mech import verifying

        joined["verification"] = verifying.join([part["verification"] for part in parts])
    return joined


# --- drawing and telling, from tables alone -------------------------------------------------------


def read_tables(folder: str | Path) -> dict[str, Table]:
    """The tables that a run left in ``folder``, by file name. ``InputError`` where there is none, or a bad one."""
    from isp_mech.tables import read_table

    order = [*(name for names in TABLES.values() for name in names), *JOINED]
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
