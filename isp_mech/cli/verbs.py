"""What each verb of the command line does. What is heavy is imported where it is needed."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from isp_mech.cli import printing
from isp_mech.errors import InputError

if TYPE_CHECKING:
    from isp_mech.runs.scheduler import Workers
    from isp_mech.runs.settings import Settings
    from isp_mech.tables import Table


def measure(arguments: Namespace) -> None:
    """``score``, ``trace``, ``locate`` or ``verify``; ``explain`` is all that the task allows, and a report."""
    from isp_mech.families import family
    from isp_mech.runs.execute import run_what_can
    from isp_mech.runs.explain import default_folder, part_in, read_tables, steps_for
    from isp_mech.runs.plans import origin_of, read_subject
    from isp_mech.runs.run_directory import RunDirectory
    from isp_mech.tasks import Task
    from isp_mech.tasks.released_files import release_of

    settings, progress = _settings(arguments), _progress(arguments)
    subject = read_subject(arguments.task, n=arguments.n, seed=settings.seed, source=arguments.source)
    origin = origin_of(arguments.task, n=arguments.n, seed=settings.seed, source=arguments.source)
    release = release_of(arguments.task, subject) if isinstance(subject, Task) else None
    if release is not None:
        print(release.sentence)
    given = arguments.family or ["ladder"]
    sizes = [size.strip() for size in arguments.sizes.split(",")] if arguments.sizes else None
    chosen = family(given[0] if len(given) == 1 else given, sizes=sizes, revision=arguments.revision)
    out = Path(arguments.out) if arguments.out else default_folder(subject)
    directory, steps = RunDirectory(out), steps_for(subject) if arguments.name == "explain" else (arguments.name,)
    part = part_in(directory, subject, chosen, steps=steps, settings=settings, origin=origin)
    ran = run_what_can({"": part}, directory, workers=_workers(arguments), progress=progress)
    if ran.failure is None or ran.tables[""]:
        _show(arguments, read_tables(out, ran.tables[""]), out, steps, progress)
    if ran.failure is not None:
        raise ran.failure


def _show(arguments: Namespace, tables: Mapping[str, Table], out: Path, steps: Sequence[str], progress: bool) -> None:
    """Prints what was measured; after ``explain``, writes the report."""
    from isp_mech.runs.explain import make_report

    if arguments.name != "explain":
        printing.OF_STEPS[arguments.name](tables)
        print(f"tables: {out / 'tables'}")
        return
    report = make_report(tables, out, progress=progress)
    printing.curve(tables)
    if steps == ("score",):
        print("scored only: tracing, locating and verifying need pairs (`isp-mech tasks`, or a file of pairs)")
    print(f"report: {report}")


def figures(arguments: Namespace) -> None:
    """Draws the figures of a folder again."""
    from isp_mech.runs.explain import make_figures, read_tables

    made = make_figures(read_tables(arguments.folder), arguments.folder)
    print(f"figures: {Path(arguments.folder) / 'figures'} ({', '.join(name.replace('_', '-') for name in made)})")


def report(arguments: Namespace) -> None:
    """Writes the figures and the page of a folder again."""
    from isp_mech.runs.explain import make_report, read_tables

    print(f"report: {make_report(read_tables(arguments.folder), arguments.folder)}")


def run(arguments: Namespace) -> None:
    """Carries out a plan, or says what of it is done."""
    from isp_mech.runs.execute import run_parts, status
    from isp_mech.runs.plans import read_plan
    from isp_mech.runs.run_directory import RunDirectory

    workers, directory = _workers(arguments), RunDirectory(arguments.out)
    parts = read_plan(arguments.plan).parts(directory)
    if not arguments.status:
        run_parts(parts, directory, workers=workers, progress=_progress(arguments))
    rows = [(folder, step, f"{done} of {n}") for folder, step, done, n in status(parts, directory)]
    printing.columns([("results", "step", "done"), *rows])
    if not arguments.status:
        print(f"figures and a page of one: isp-mech report {arguments.out}/{rows[0][0]}")


def show(arguments: Namespace) -> None:
    """Prints how a table's file was made."""
    from isp_mech.runs.provenance import provenance

    printing.columns(list(provenance(arguments.file)))


def check(arguments: Namespace) -> int:
    """Prints what a model can do; the exit code is 1 where it cannot score."""
    from isp_mech.models.check import check_model

    options = {name: getattr(arguments, name) for name in ("dtype", "device", "revision", "trust_remote_code")}
    found = check_model(arguments.model, **options)
    if arguments.json:
        print(found.to_json())
    else:
        printing.columns([(name, "" if fact is None else str(fact)) for name, fact in found.facts.items()])
        print()
        rows = [("can it", "", "largest gap to plain transformers", "")]
        for each in found.abilities:
            unit = "of the stream" if each.name == "trace" else "nats"
            gap = "not compared" if each.gap is None else f"{each.gap:.1e} {unit}"
            rows.append((each.name, "yes" if each.can else "no", gap if each.can or each.gap else "", each.note))
        printing.columns(rows)
    return 0 if found.abilities[0].can else 1


def tasks(_: Namespace) -> None:
    """Prints the tasks there are by name."""
    from isp_mech.contrasts import task_lines

    printing.columns(task_lines())


def families(_: Namespace) -> None:
    """Prints the families there are by name."""
    from isp_mech.families import family, family_names

    rows = []
    for name in family_names():
        try:
            members = ", ".join(f"{size.name} ({printing.count(size.n_params)})" for size in family(name).members)
        except InputError as error:
            members = error.problems[0]
        rows.append((name, members))
    printing.columns(rows)
    others = "a checkpoint folder, a GGUF file or any hub id, repeated for a list"
    print(f"\nin brackets: parameters without embeddings; also {others}")


def ladder(arguments: Namespace) -> int:
    """Trains the embedded family again."""
    from isp_mech.ladder import train

    return train.main(arguments.options, prog="isp-mech ladder train")


# --- what several verbs are told ------------------------------------------------------------------------


def _settings(arguments: Namespace) -> Settings:
    from isp_mech.runs.settings import DECLARED, Settings

    given = {name: value for name, value in vars(arguments).items() if name in DECLARED}
    settings = Settings(**{"device": "auto", **given})
    if settings.device != "auto":
        return settings
    import torch

    return replace(settings, device="cuda" if torch.cuda.is_available() else "cpu")


def _workers(arguments: Namespace) -> Workers:
    from isp_mech.runs.scheduler import Workers

    return Workers(arguments.jobs, arguments.ray, arguments.gpus, arguments.trust_remote_code)


def _progress(arguments: Namespace) -> bool:
    return sys.stderr.isatty() if arguments.progress is None else bool(arguments.progress)
