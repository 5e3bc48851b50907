"""What a reader must keep in mind: doubtful scores, unstable rankings, and what the numbers do not prove."""

from __future__ import annotations

import re
from collections.abc import Mapping

from isp_mech.figures.scaling_curve import LOW_COVERAGE
from isp_mech.report.task_rows import TaskRows
from isp_mech.report.wording import counted, say
from isp_mech.tables import Table

_OF_THE_CURVE = re.compile(r": (mean coverage under|ties, )")


def cautions(of: TaskRows, tables: Mapping[str, Table]) -> list[str]:
    """Sentences on low coverage, ties and the agreement of rankings for one task, then the notes of its Runs."""
    notes = list(dict.fromkeys(note for table in tables.values() for note in table.run.notes))
    if of.curve is not None:  # its own notes are said from the curve itself, for all sizes at once
        notes = [note for note in notes if not _OF_THE_CURVE.search(note)]
    return [*_doubtful(of), *_stability(of), *notes]


def _doubtful(of: TaskRows) -> list[str]:
    rows = of.rows("curve")
    if not len(rows):
        return []
    low = rows[rows["coverage"] < LOW_COVERAGE]
    tied = rows[rows["ties"].fillna(0) > 0]
    lines = []
    if len(low):
        whose = "its" if low["model"].nunique() == 1 else "their"
        lines.append(say("low coverage", who=of.who(low["model"]), whose=whose))
    if len(tied):
        items = counted(int(tied["ties"].sum()), "item is", "items are")
        lines.append(say("ties", items=items, who=of.who(tied["model"])))
    return lines


def _stability(of: TaskRows) -> list[str]:
    rows = of.rows("stability")
    rows = rows[rows["spearman"].notna()] if len(rows) else rows
    if not len(rows):
        return []
    lines = []
    halves = rows["replacement_a"].str.startswith("half") & rows["replacement_b"].str.startswith("half")
    for some, between in ((rows[halves], "the two halves of the pairs"), (rows[~halves], "kinds of replacement")):
        if len(some):
            lowest = float(some["spearman"].min())
            ends = dict.fromkeys(f"{value:.2f}".replace("-", "−") for value in (lowest, some["spearman"].max()))
            name = "stability weak" if lowest < 0.5 else "stability"
            lines.append(say(name, between=between, span=" to ".join(ends)))
    return lines


def limits(tables: Mapping[str, Table]) -> list[str]:
    """What these numbers are not evidence of; for the embedded ladder, that its models are model organisms."""
    names = {table.name for table in tables.values()}
    shown = {
        "limits ladder": any(table.frame["model"].str.startswith("ladder").any() for table in tables.values()),
        "limits curve": "curve" in names,
        "limits lens": "lens" in names,
        "limits attention": "attention" in names,
        "limits sites": bool(names & {"sites", "verification"}),
    }
    return [say(name) for name, there in shown.items() if there]
