"""Finished units read and joined: shards to a model's tables, models to a family's. No torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from isp_mech.contrasts.pair_files import pairs_text
from isp_mech.errors import InputError
from isp_mech.runs.jobs import SUMMARIES, TABLES, Job, Part
from isp_mech.runs.run_directory import RunDirectory
from isp_mech.scaling import summaries
from isp_mech.scaling.restoring import join_restoration
from isp_mech.tables import Table, checksum_of_bytes, concat
from isp_mech.tasks import PairSet


def undone(jobs: Iterable[Job], directory: RunDirectory) -> list[Job]:
    """The jobs some of whose units are not there, in their order; no unit is opened."""
    there = directory.finished()
    return [job for job in jobs if not there.issuperset(job.files)]


def check(part: Part, directory: RunDirectory) -> tuple[str, list[Job]]:
    """What the part's units hold, as one checksum, and the jobs whose units are missing or damaged."""
    whole, harmed = hashlib.sha256(), []
    for job in part.jobs:
        sums = [directory.checksum(name, key) for name, key in job.units.items()]
        if None in sums:
            harmed.append(job)
        whole.update(json.dumps([job.files, sums]).encode())
    return whole.hexdigest(), harmed


def merge(
    part: Part, directory: RunDirectory, under: str, made_of: str, *, lacking: Sequence[Job] = ()
) -> tuple[str, ...]:
    """The names of the part's tables that are there afterwards.

    Writes the part's tables, each with ``made_of``, the checksum of its units, to ``under``/tables, and the pairs.

    Where they are there, whole, and made of these units, nothing is read over them nor written again. Jobs that are
    ``lacking`` were not done: the tables are those of the others, and their Runs name these.
    """
    pairs = pairs_text(part.subject).encode() if isinstance(part.subject, PairSet) else None
    prefix = f"{under}/" if under else ""
    files = {name: f"{prefix}tables/{name}.parquet" for name in part.tables}
    if all(_is_whole(directory, path, made_of) for path in files.values()) and (
        pairs is None or directory.folder.read(f"{prefix}pairs.jsonl") == pairs
    ):
        return tuple(files)
    tables = tables_of(part, directory, lacking=lacking)
    for name, table in tables.items():
        directory.folder.write(files[name], table.to_bytes(key=made_of))
    if pairs is not None:
        directory.folder.write(f"{prefix}pairs.jsonl", pairs)
    return tuple(tables)


def _is_whole(directory: RunDirectory, path: str, made_of: str) -> bool:
    try:
        data = directory.folder.read(path)
        return data is not None and bool(checksum_of_bytes(data, path, key=made_of))
    except InputError:
        return False


def tables_of(part: Part, directory: RunDirectory, *, lacking: Sequence[Job] = ()) -> dict[str, Table]:
    """The part's tables by name, read over its units, which are there and whole but for those of ``lacking`` jobs."""
    units: dict[str, dict[str, list[Table]]] = {}
    absent: set[tuple[str, str]] = set()  # a model and a table of which it lacks some rows
    for job in part.jobs:
        for name, key in job.units.items():
            table = directory.read(name, key)
            if table is None and job in lacking:
                absent.add((job.size.name, name))
                continue
            if table is None:
                raise InputError(directory.folder.where("units"), [f"{job.name}: {name} went while it was read"])
            units.setdefault(job.size.name, {}).setdefault(name, []).append(table)
    whole = {
        model: {name: tables for name, tables in of_model.items() if (model, name) not in absent}
        for model, of_model in units.items()
    }
    models = [_one_model(part, tables) for tables in whole.values()]
    notes = tuple(dict.fromkeys(f"{job.name}: not done" for job in lacking))
    joined: dict[str, Table] = {}
    for step in part.steps:
        stamp = {
            "content": part.content,
            "weights": ", ".join(dict.fromkeys(job.weights for job in part.jobs)),
            "command": part.command(step, part.family.members),
        }
        for name in (name for name in TABLES[step] if name in part.tables):
            having = [model[name] for model in models if name in model]
            if not having and not (name == "story" and {"sites", "effects"} <= joined.keys()):
                continue  # no model has it
            table = _story(joined, part) if name == "story" else _join(name, having)
            run = replace(table.run, settings={**table.run.settings, **stamp}, notes=(*table.run.notes, *notes))
            joined[name] = replace(table, run=run)
    return joined


def _one_model(part: Part, units: Mapping[str, Sequence[Table]]) -> dict[str, Table]:
    """A model's tables: its shards' rows together, and the summaries of them where there are shards."""
    tables = {name: concat(pieces) for name, pieces in units.items()}
    seed, likely = part.settings.seed, bool(part.subject.equally_likely)
    made = {
        "curve": lambda: summaries.curve(tables["items"], tables["scores"], equally_likely=likely, seed=seed),
        "shares": lambda: summaries.shares(tables["items"], seed=seed),
        "onset": lambda: summaries.onset(tables["lens"], seed=seed),
        "value_curve": lambda: summaries.value_curve(tables["values"], seed=seed),
    }
    needed = {"curve": {"items", "scores"}, "shares": {"items"}, "onset": {"lens"}, "value_curve": {"values"}}
    asked = (name for name in SUMMARIES if name in part.tables and name not in tables)
    return tables | {name: made[name]() for name in asked if needed[name] <= tables.keys()}


def _join(name: str, models: Sequence[Table]) -> Table:
    """The models' tables as one: false discoveries are controlled over all models' sites together (and over all
    interventions), and the gap that a verification closes is measured to the family's best."""
    joins = {
        "sites": summaries.join_sites,
        "head_roles": summaries.join_sites,
        "verification": summaries.join_verification,
        "restoration": join_restoration,
    }
    return joins.get(name, concat)(models)


def _story(joined: Mapping[str, Table], part: Part) -> Table:
    beside = {name: joined.get(name) for name in ("curve", "shares", "onset")}
    return summaries.story(joined["sites"], joined["effects"], seed=part.settings.seed, **beside)
