"""Finished units read and joined: shards to a model's tables, models to a family's. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from isp_mech import summaries
from isp_mech.contrasts.files import pairs_text
from isp_mech.fingerprints import content_of
from isp_mech.jobs import SUMMARIES, TABLES, Job, Part, stamp_of
from isp_mech.pairs import PairSet
from isp_mech.runs import RunDirectory
from isp_mech.tables import Table, concat


def undone(jobs: Sequence[Job], directory: RunDirectory) -> list[Job]:
    """The jobs some of whose units are not there, in their order; no unit is opened."""
    there = directory.finished()
    return [job for job in jobs if not there.issuperset(job.files)]


def gather(part: Part, directory: RunDirectory) -> tuple[dict[str, Table], list[Job]]:
    """The part's tables by name, and the jobs whose units are missing or damaged: where there are any, no tables."""
    found: dict[str, dict[str, list[Table]]] = {}
    harmed = []
    for job in part.jobs:
        read = {name: directory.read(name, key) for name, key in job.units.items()}
        if None in read.values():
            harmed.append(job)
        for name, table in read.items():
            if table is not None:
                found.setdefault(job.size.name, {}).setdefault(name, []).append(table)
    if harmed:
        return {}, harmed
    models = [_one_model(part, tables) for tables in found.values()]
    weights, content = ", ".join(dict.fromkeys(job.weights for job in part.jobs)), content_of(part.subject)
    joined = {}
    for step in part.steps:
        stamp = stamp_of(step, part.origin, part.family, part.family.members, part.settings, weights, content)
        for name in (name for name in TABLES[step] if name in part.tables):
            table = _join(name, [model[name] for model in models])
            joined[name] = replace(table, run=replace(table.run, settings={**table.run.settings, **stamp}))
    return joined, []


def keep(part: Part, tables: Mapping[str, Table], directory: RunDirectory, under: str = "") -> None:
    """Writes ``tables`` to ``under``/tables and a part's pairs beside them; what is there already is left alone."""
    files = {f"tables/{name}.parquet": table.to_bytes() for name, table in tables.items()}
    if isinstance(part.subject, PairSet):
        files["pairs.jsonl"] = pairs_text(part.subject).encode()
    for name, data in files.items():
        path = f"{under}/{name}" if under else name
        if directory.folder.read(path) != data:
            directory.folder.write(path, data)


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
