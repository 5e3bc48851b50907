"""What each verb of the command line does. What is heavy is imported where it is needed."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from isp_mech.cli import printing
from isp_mech.cli.answers import Answer, rows
from isp_mech.errors import InputError

if TYPE_CHECKING:
    from isp_mech.inference.progress import Progress
    from isp_mech.runs.scheduler import Workers
    from isp_mech.runs.settings import Settings
    from isp_mech.tables import Table
    from isp_mech.tasks.released_files import Release


def measure(arguments: Namespace) -> Answer:
    """``score``, ``trace``, ``locate`` or ``verify``; ``explain`` is all that the task allows, and a report."""
    from isp_mech.families import family
    from isp_mech.runs.execute import run_what_can
    from isp_mech.runs.explain import default_folder, make_report, part_in, read_tables, steps_for
    from isp_mech.runs.plans import origin_of, read_subject
    from isp_mech.runs.run_directory import RunDirectory
    from isp_mech.tasks import Task
    from isp_mech.tasks.released_files import release_of

    settings, progress = _settings(arguments), _progress(arguments)
    subject = read_subject(arguments.task, n=arguments.n, seed=settings.seed, source=arguments.source)
    origin = origin_of(arguments.task, n=arguments.n, seed=settings.seed, source=arguments.source)
    release = release_of(arguments.task, subject) if isinstance(subject, Task) else None
    given = arguments.family or ["ladder"]
    sizes = [size.strip() for size in arguments.sizes.split(",")] if arguments.sizes else None
    chosen = family(given[0] if len(given) == 1 else given, sizes=sizes, revision=arguments.revision)
    out = Path(arguments.out) if arguments.out else default_folder(subject)
    directory, steps = RunDirectory(out), steps_for(subject) if arguments.name == "explain" else (arguments.name,)
    part = part_in(directory, subject, chosen, steps=steps, settings=settings, origin=origin)
    ran = run_what_can({"": part}, directory, workers=_workers(arguments), progress=progress)
    if ran.failure is not None and not ran.tables[""]:
        raise ran.failure
    tables = read_tables(out, ran.tables[""])
    lines = [("tables", str(out / "tables"))]
    if arguments.name == "explain":
        lines = [("report", str(make_report(tables, out, progress=progress)))]
        if saved := sorted(path.name for path in (out / "interventions").glob("*.json")):
            lines.insert(0, ("interventions", f"{out / 'interventions'} ({', '.join(saved)})"))
        if steps == ("score",):
            lines.insert(0, ("scored only", "tracing, locating and verifying need pairs (`isp-mech tasks`, or a file)"))
    return _measured(arguments.name, tables, lines, release, ran.failure)


def _measured(
    verb: str,
    tables: Mapping[str, Table],
    lines: Sequence[tuple[str, str]],
    release: Release | None,
    failure: InputError | None,
) -> Answer:
    """The tables that ``verb`` prints, with ``lines`` after them."""
    shown = {name: tables[name] for name in printing.PRINTED[verb] if name in tables}
    notes = dict.fromkeys(note for table in shown.values() for note in table.run.notes)
    document = {**{name: rows(table) for name, table in shown.items()}, "notes": list(notes), **dict(lines)}

    def tell() -> None:
        if release is not None:
            print(release.sentence)
        printing.OF_VERBS[verb](tables)
        for name, text in lines:
            print(f"{name}: {text}")

    return Answer(document | ({"release": release.sentence} if release else {}), tell, failure=failure)


def figures(arguments: Namespace) -> None:
    """Draws the figures of a folder again."""
    from isp_mech.runs.explain import make_figures, read_tables

    made = make_figures(read_tables(arguments.folder), arguments.folder)
    print(f"figures: {Path(arguments.folder) / 'figures'} ({', '.join(name.replace('_', '-') for name in made)})")


def report(arguments: Namespace) -> None:
    """Writes the figures and the page of a folder again."""
    from isp_mech.runs.explain import make_report, read_tables

    print(f"report: {make_report(read_tables(arguments.folder), arguments.folder)}")


def view(arguments: Namespace) -> None:
    """Opens the page of a folder in the browser, and prints where it is."""
    import webbrowser

    from isp_mech.report import report_file

    page = report_file(arguments.folder)
    print(f"report: {page}", flush=True)
    if not webbrowser.open(page.resolve().as_uri()):
        print("found no browser to open it with")


def run(arguments: Namespace) -> Answer:
    """Carries out a plan, or says what of it is done."""
    from isp_mech.runs.execute import run_parts, status
    from isp_mech.runs.plans import read_plan
    from isp_mech.runs.run_directory import RunDirectory

    workers, directory = _workers(arguments), RunDirectory(arguments.out)
    parts = read_plan(arguments.plan).parts(directory)
    if not arguments.status:
        run_parts(parts, directory, workers=workers, progress=_progress(arguments))
    found = list(status(parts, directory))

    def tell() -> None:
        printing.columns(
            [("results", "step", "done"), *((folder, step, f"{done} of {n}") for folder, step, done, n in found)]
        )
        if not arguments.status:
            print(f"figures and a page of one: isp-mech report {arguments.out}/{found[0][0]}")

    return Answer({"results": [dict(zip(("folder", "step", "done", "of"), row, strict=True)) for row in found]}, tell)


def show(arguments: Namespace) -> Answer:
    """Prints how a table's file was made."""
    from isp_mech.runs.provenance import provenance

    found = list(provenance(arguments.file))
    return Answer(dict(found), lambda: printing.columns(found))


def check(arguments: Namespace) -> Answer:
    """What a model can do; the exit code is 1 where it cannot score."""
    from isp_mech.models.check import check_model

    options = {name: getattr(arguments, name) for name in ("dtype", "device", "revision", "trust_remote_code")}
    found = check_model(arguments.model, **options)
    return Answer(asdict(found), lambda: printing.check(found), code=0 if found.abilities[0].can else 1)


def doctor(_: Namespace) -> Answer:
    """What is installed here and how fast it is; the exit code is 1 where something that is needed is not there."""
    from isp_mech.cli.doctor import examine

    found = examine()
    return Answer(asdict(found), lambda: printing.health(found), code=1 if found.problems else 0)


def tasks(_: Namespace) -> Answer:
    """The tasks there are by name."""
    from isp_mech.contrasts import contrast_names, contrast_variants, task_lines

    lines = task_lines()
    asked = dict(lines)
    found = [{"name": name, "asks": asked[name], "variants": contrast_variants(name)} for name in contrast_names()]
    return Answer({"tasks": found}, lambda: printing.columns(lines))


def families(_: Namespace) -> Answer:
    """The families there are by name."""
    from isp_mech.families import family, family_names

    found: list[dict[str, object]] = []
    lines = []
    for name in family_names():
        try:
            members = family(name).members
        except InputError as error:
            found.append({"name": name, "problem": error.problems[0]})
            lines.append((name, error.problems[0]))
            continue
        found.append({"name": name, "sizes": [{"name": size.name, "n_params": size.n_params} for size in members]})
        lines.append((name, ", ".join(f"{size.name} ({printing.count(size.n_params)})" for size in members)))

    def tell() -> None:
        printing.columns(lines)
        others = "a checkpoint folder, a GGUF file or any hub id, repeated for a list"
        print(f"\nin brackets: parameters without embeddings; also {others}")

    return Answer({"families": found}, tell)


def completion(arguments: Namespace) -> None:
    """Prints what a shell has to read."""
    from isp_mech.cli.completion import script

    print(script(arguments.shell))


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


def _progress(arguments: Namespace) -> Progress:
    return "steps" if arguments.progress else arguments.progress is None
