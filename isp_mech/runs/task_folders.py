"""Folders of tasks: each task has one of its own by default, and the tables of two are never in one."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

from isp_mech.errors import InputError
from isp_mech.runs.jobs import Part
from isp_mech.runs.run_directory import RunDirectory
from isp_mech.runs.storage import Folder
from isp_mech.tasks import PairSet, Task

MOST = 80  # characters of a folder's name


def plain_name(raw: str, otherwise: str = "task") -> str:
    """``raw`` made fit for a folder's name: letters, digits, ``-_.``; it cannot lead anywhere.

    >>> plain_name("neqa:twin"), plain_name("../../etc/x y"), plain_name("..")
    ('neqa-twin', 'etc-x-y', 'task')
    """
    safe = re.sub(r"[^A-Za-z0-9_.]+", "-", raw).strip(".-")
    if len(safe) > MOST:
        safe = f"{safe[:MOST]}-{_digits(raw)}"
    return safe or otherwise


def folder_name(raw: str) -> str:
    """The name of a task's or a family's folder: two have one only if they have one name. What is lost of it is made
    up for by digits of its checksum.

    >>> folder_name("neqa-v2"), folder_name("neqa:twin"), folder_name("neqa v2"), folder_name("否定")
    ('neqa-v2', 'neqa-twin', 'neqa-v2-e90dcbb3', 'task-03824032')
    """
    name = plain_name(raw)
    return name if name in (raw, raw.replace(":", "-", 1)) else f"{name}-{_digits(raw)}"


def default_folder(subject: PairSet | Task) -> Path:
    """``reports/<task>``, the name made fit for a folder; where there is another task's, digits tell them apart."""
    folder = Path("reports") / folder_name(subject.name)
    if {*tasks_in(RunDirectory(folder).folder).values()} - {subject.name}:
        return folder.with_name(f"{folder.name}-{_digits(subject.name)}")
    return folder


def check_folders(parts: Mapping[str, Part], directory: RunDirectory) -> None:
    """``InputError`` that names every folder in which the tables of another task are.

    Among this task's own a table of another one that is about to be written is taken for damage, and mended.
    """
    problems = []
    for under, part in parts.items():
        task_of = tasks_in(directory.folder, under)
        own = part.subject.name in task_of.values()
        others = {task for name, task in task_of.items() if not (own and name in part.tables)} - {part.subject.name}
        if others:
            found = f"found tables of the task {', '.join(map(repr, sorted(others)))}"
            problems.append(f"{under or 'tables'}: {found}, expected another folder for {part.subject.name!r}")
    if problems:
        raise InputError(str(directory.path), problems)


def tasks_in(folder: Folder, under: str = "") -> dict[str, str]:
    """The tables in the folder by name, and the task of each; what cannot be read is no table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables, found = f"{under}/tables" if under else "tables", {}
    for name in folder.names(tables):
        if name.endswith(".parquet") and not name.startswith("."):
            try:
                with folder.system.open(f"{folder.root}/{tables}/{name}", "rb") as file:
                    run = json.loads((pq.read_metadata(file).metadata or {})[b"isp_mech.run"])
                found[name.removesuffix(".parquet")] = str(run["task"])
            except (pa.ArrowException, OSError, ValueError, KeyError, TypeError):
                continue
    return found


def _digits(raw: str) -> str:
    return hashlib.sha256(raw.encode()).hexdigest()[:8]
