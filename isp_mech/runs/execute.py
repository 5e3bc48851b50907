"""A plan carried out: what is missing is computed, what is damaged is computed again, tables are read over units."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from isp_mech.runs.engines import Engine
from isp_mech.errors import InputError, NotKept
from isp_mech.runs.merge import check, gather, keep, kept, undone
from isp_mech.runs.jobs import Job, Part
from isp_mech.runs.run_directory import RunDirectory

MENDINGS = 3  # times that damaged units are computed again before the directory is given up


def run_parts(
    parts: Mapping[str, Part], directory: RunDirectory, *, engine: Engine | None = None, progress: bool = False
) -> list[str]:
    """The folders in which the parts' tables were written. What is done already is not done again.

    A job that fails does not keep the others from being done, nor the tables from being written that are complete;
    then it is an ``InputError`` that tells of all of them.
    """
    compute = (engine or Engine()).start(directory, progress=progress)
    failure: InputError | None = None
    try:
        compute(undone(_once(parts.values()), directory))
    except NotKept:
        raise
    except InputError as error:
        failure = error
    written = []
    for folder, part in parts.items():
        if failure is None or not undone(part.jobs, directory):
            finish(part, directory, compute, folder)
            written.append(folder)
    if failure is not None:
        raise failure
    return written


def finish(part: Part, directory: RunDirectory, compute: Callable[[Sequence[Job]], None], under: str = "") -> None:
    """Computes what is missing or damaged, and writes the part's tables to ``under``/tables where they are not yet."""
    missing = undone(part.jobs, directory)
    for _ in range(MENDINGS):
        compute(missing)
        made_of, missing = check(part, directory)
        if not missing:
            if not kept(part, directory, under, made_of):
                keep(part, gather(part, directory), directory, under, made_of)
            return
    where = [directory.folder.where(f"units/{file}") for file in missing[0].files]
    raise InputError(str(directory.path), [f"computed {MENDINGS} times, and still damaged or gone: {', '.join(where)}"])


def status(parts: Mapping[str, Part], directory: RunDirectory) -> Iterator[tuple[str, str, int, int]]:
    """Per folder of results and step: how many jobs are done, and how many there are. Nothing is opened but names."""
    there = directory.finished()
    for folder, part in parts.items():
        counted: dict[str, list[bool]] = {}
        for job in part.jobs:
            counted.setdefault(" and ".join(job.steps), []).append(there.issuperset(job.files))
        yield from ((folder, step, sum(done), len(done)) for step, done in counted.items())


def _once(parts: Iterable[Part]) -> list[Job]:
    """The parts' jobs, each once: two families may share a model."""
    jobs: dict[str, Job] = {}
    for part in parts:
        for job in part.jobs:
            jobs.setdefault(job.files[0], job)
    return list(jobs.values())
