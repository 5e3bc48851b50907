"""What a reader must keep in mind: doubtful scores, unstable rankings, and what the numbers do not prove."""

from __future__ import annotations

import re
from collections.abc import Mapping

from isp_mech.report.task_rows import Story
from isp_mech.report.wording import counted, models
from isp_mech.tables import Table

LOW_COVERAGE = 1e-3
_OF_THE_CURVE = re.compile(r": (mean coverage under|ties, )")


def cautions(told: Story, tables: Mapping[str, Table]) -> list[str]:
    """Sentences on low coverage, ties and the agreement of rankings for one task, then the notes of its Runs."""
    notes = dict.fromkeys(note for table in tables.values() for note in table.run.notes)
    if len(told.rows("curve")):  # these are told from the curve itself, for all sizes at once
        notes = {note: None for note in notes if not _OF_THE_CURVE.search(note)}
    return [*_doubtful(told), *_stability(told), *notes]


def _doubtful(told: Story) -> list[str]:
    rows = told.rows("curve")
    if not len(rows):
        return []
    low = _names(told, rows[rows["coverage"] < LOW_COVERAGE]["model"])
    tied = rows[rows["ties"].fillna(0) > 0]
    out = []
    if low:
        whose = "its" if len(low) == 1 else "their"
        out.append(
            f"In {models(low)} all classes together get less than a thousandth of the probability on some side; "
            f"{whose} choice between them says little."
        )
    if len(tied):
        out.append(
            f"{counted(int(tied['ties'].sum()), 'item is', 'items are')} tied in "
            f"{models(_names(told, tied['model']))}; "
            "a tie counts for the class that comes first."
        )
    return out


def _names(told: Story, found) -> list[str]:
    return [label for model, label in told.labels.items() if model in set(found)]


def _stability(told: Story) -> list[str]:
    rows = told.rows("stability")
    rows = rows[rows["spearman"].notna()] if len(rows) else rows
    if not len(rows):
        return []
    out = []
    halves = rows["replacement_a"].str.startswith("half") & rows["replacement_b"].str.startswith("half")
    for some, between in ((rows[halves], "the two halves of the pairs"), (rows[~halves], "kinds of replacement")):
        if len(some):
            lowest, highest = float(some["spearman"].min()), float(some["spearman"].max())
            span = _rank(lowest) if f"{lowest:.2f}" == f"{highest:.2f}" else f"{_rank(lowest)} to {_rank(highest)}"
            out.append(
                f"The ranking of sites agrees between {between} with a Spearman correlation of {span}"
                + (", which is weak: read the order of single sites with care." if lowest < 0.5 else ".")
            )
    return out


def _rank(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def limits(tables: Mapping[str, Table]) -> list[str]:
    """What these numbers are not evidence of; for the embedded ladder, that its models are model organisms."""
    names = {table.name for table in tables.values()}
    ladder = sorted(
        {m for table in tables.values() for m in table.frame["model"].unique() if str(m).startswith("ladder")}
    )
    out = []
    if ladder:
        out.append(
            "The models of the ladder are model organisms: small models trained on a made corpus whose statistics were "
            "chosen so that the phenomenon appears. They show that such a cause suffices and that this method finds "
            "its place. They are not evidence that large language models fail for the same reason."
        )
    if "curve" in names:
        out.append(
            "A curve over the sizes of one family, trained with one seed, does not say what another family, "
            "another seed or a larger model would do."
        )
    if "lens" in names:
        out.append(
            "The lens reads early layers through the final norm and unembedding, for which they were not made; "
            "early margins are biased."
        )
    if "attention" in names:
        out.append("Attention says where a head reads, not what it does with what it reads.")
    if names & {"sites", "verification"}:
        out.append(
            "The effect of a site depends on what replaces it, and later sites may make up for one that is removed; "
            "a site without an effect is not thereby without a part in it."
        )
    return out
