"""A plan carried out: what is missing is computed, what is damaged is computed again, tables are read over units."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from isp_mech.errors import InputError, NotKept
from isp_mech.inference.progress import Progress
from isp_mech.runs.jobs import Job, Part
from isp_mech.runs.merge import check, merge, undone
from isp_mech.runs.run_directory import RunDirectory
from isp_mech.runs.scheduler import Workers, run_jobs
from isp_mech.runs.task_folders import check_folders

RETRIES = 3  # times that damaged units are computed again before the directory is given up
IN_THIS_PROCESS = Workers()


def run_parts(
    parts: Mapping[str, Part],
    directory: RunDirectory,
    *,
    workers: Workers = IN_THIS_PROCESS,
    progress: Progress = False,
) -> None:
    """Computes what is missing of the parts, and writes the tables of each to the folder of the run directory that
    ``parts`` maps to it. What is done already is not done again.

    A job that fails does not keep the others from being done, nor their tables from being written: those of what is
    done, whose Runs name what is not. Then it is an ``InputError`` that tells of all of them.
    """
    ran = run_what_can(parts, directory, workers=workers, progress=progress)
    if ran.failure is not None:
        raise ran.failure


@dataclass(frozen=True)
class Ran:
    """What came of parts: the names of the tables that are there, by folder, and what failed."""

    tables: Mapping[str, tuple[str, ...]]
    failure: InputError | None


def run_what_can(
    parts: Mapping[str, Part],
    directory: RunDirectory,
    *,
    workers: Workers = IN_THIS_PROCESS,
    progress: Progress = False,
) -> Ran:
    """As ``run_parts``, but what failed is given back, for who goes on with the tables that are there."""
    check_folders(parts, directory)
    tables: dict[str, tuple[str, ...]] = {}
    failure: InputError | None = None
    try:
        run_jobs(undone(_once(parts.values()), directory), directory, workers, progress=progress)
    except NotKept:
        raise
    except InputError as error:
        failure = error
    for folder, part in parts.items():
        missing = undone(part.jobs, directory)
        if missing and failure is not None:
            tables[folder] = merge(part, directory, folder, check(part, directory)[0], lacking=missing)
            continue
        for _ in range(RETRIES):
            run_jobs(missing, directory, workers, progress=progress)
            made_of, missing = check(part, directory)
            if not missing:
                tables[folder] = merge(part, directory, folder, made_of)
                break
        else:
            where = ", ".join(directory.folder.where(f"units/{file}") for file in missing[0].files)
            lines = [f"computed {RETRIES} times, and still damaged or gone: {where}"]
            raise InputError(str(directory.path), lines)
    return Ran(tables, failure)


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
