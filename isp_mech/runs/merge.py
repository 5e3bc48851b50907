"""Finished units read and joined: shards to a model's tables, models to a family's. No torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

from isp_mech.scaling import summaries
from isp_mech.contrasts.pair_files import pairs_text
from isp_mech.errors import InputError
from isp_mech.runs.fingerprints import content_of
from isp_mech.runs.jobs import SUMMARIES, TABLES, Job, Part, stamp_of
from isp_mech.tasks import PairSet
from isp_mech.runs.run_directory import RunDirectory
from isp_mech.tables import Table, checksum_of_bytes, concat


def undone(jobs: Sequence[Job], directory: RunDirectory) -> list[Job]:
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


def gather(part: Part, directory: RunDirectory) -> dict[str, Table]:
    """The part's tables by name, read over its units, which are there and whole."""
    found: dict[str, dict[str, list[Table]]] = {}
    for job in part.jobs:
        for name, key in job.units.items():
            table = directory.read(name, key)
            if table is None:
                raise InputError(directory.folder.where("units"), [f"{job.name}: {name} went while it was read"])
            found.setdefault(job.size.name, {}).setdefault(name, []).append(table)
    models = [_one_model(part, tables) for tables in found.values()]
    weights, content = ", ".join(dict.fromkeys(job.weights for job in part.jobs)), content_of(part.subject)
    joined: dict[str, Table] = {}
    for step in part.steps:
        stamp = stamp_of(step, part.origin, part.family, part.family.members, part.settings, weights, content)
        for name in (name for name in TABLES[step] if name in part.tables):
            table = _story(joined, part) if name == "story" else _join(name, [model[name] for model in models])
            joined[name] = replace(table, run=replace(table.run, settings={**table.run.settings, **stamp}))
    return joined


def keep(part: Part, tables: Mapping[str, Table], directory: RunDirectory, under: str, made_of: str) -> None:
    """Writes ``tables``, each with the checksum of what it is made of, to ``under``/tables, and the pairs."""
    for name, table in tables.items():
        directory.folder.write(_place(under, f"tables/{name}.parquet"), table.to_bytes(key=made_of))
    if isinstance(part.subject, PairSet):
        directory.folder.write(_place(under, "pairs.jsonl"), pairs_text(part.subject).encode())


def kept(part: Part, directory: RunDirectory, under: str, made_of: str) -> bool:
    """Whether the tables are there, whole, and made of these units: then nothing need be read over them again."""
    for name in part.tables:
        path = _place(under, f"tables/{name}.parquet")
        try:
            data = directory.folder.read(path)
            if data is None or not checksum_of_bytes(data, path, key=made_of):
                return False
        except InputError:
            return False
    pairs = directory.folder.read(_place(under, "pairs.jsonl"))
    return not isinstance(part.subject, PairSet) or pairs == pairs_text(part.subject).encode()


def _place(under: str, name: str) -> str:
    return f"{under}/{name}" if under else name


def _one_model(part: Part, found: Mapping[str, Sequence[Table]]) -> dict[str, Table]:
    """A model's tables: its shards' rows together, and the summaries of them where there are shards."""
    tables = {name: concat(pieces) for name, pieces in found.items()}
    seed, likely = part.settings.seed, bool(part.subject.equally_likely)
    for name in (name for name in SUMMARIES if name in part.tables and name not in tables):
        if name == "curve":
            tables[name] = summaries.curve(tables["items"], tables["scores"], equally_likely=likely, seed=seed)
        elif name == "shares":
            tables[name] = summaries.shares(tables["items"], seed=seed)
        elif name == "onset":
            tables[name] = summaries.onset(tables["lens"], seed=seed)
        else:
            tables[name] = summaries.value_curve(tables["values"], seed=seed)
    return tables


def _join(name: str, parts: Sequence[Table]) -> Table:
    """The models' tables as one: false discoveries are controlled over all models' sites together, and
    the gap that a verification closes is measured to the family's best."""
    if name == "sites":
        return summaries.join_sites(parts)
    return summaries.join_verification(parts) if name == "verification" else concat(parts)


def _story(joined: Mapping[str, Table], part: Part) -> Table:
    beside = {name: joined.get(name) for name in ("curve", "shares", "onset")}
    return summaries.story(joined["sites"], joined["effects"], seed=part.settings.seed, **beside)
