"""One task's rows over all tables, with a label for each size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pandas as pd

from isp_mech.figures.frames import by_size, site_name, sizes_of
from isp_mech.figures.restored_rows import restored_rows
from isp_mech.figures.style import size_labels
from isp_mech.figures.verification import judged_rows
from isp_mech.report.wording import listed, nats
from isp_mech.tables import Table


@dataclass(frozen=True)
class TaskRows:
    """The rows of one task, table by table, and its sizes by label; ``located``: what replacing its sites
    does; ``restored``: what each kind of change restores."""

    task: str
    frames: Mapping[str, pd.DataFrame]
    curve: Table | None
    labels: Mapping[str, str]
    located: pd.DataFrame | None
    restored: pd.DataFrame | None = None

    def rows(self, name: str, **where: str) -> pd.DataFrame:
        """The rows of table ``name`` with these values, sizes from small to large; an empty frame where none."""
        frame = self.frames.get(name, pd.DataFrame())
        for column, value in where.items():
            frame = frame[frame[column] == value] if len(frame) else frame
        return frame

    def who(self, models: Iterable[str]) -> str:
        """These models by label, from small to large: "the 27k and 100k models"."""
        named = set(models)
        labels = [label for model, label in self.labels.items() if model in named]
        return f"the {listed(labels)} model{'s' if len(labels) > 1 else ''}"


def task_rows(tables: Mapping[str, Table], task: str) -> TaskRows:
    """The rows of one task over all tables."""
    named = {table.name: table for table in tables.values()}
    frames = {name: by_size(table.frame[table.frame["task"] == task]) for name, table in named.items()}
    frames = {name: frame for name, frame in frames.items() if len(frame)}
    sizes = sizes_of(pd.concat([frame[["model", "n_params"]].drop_duplicates() for frame in frames.values()]))
    return TaskRows(
        task,
        frames,
        curve=Table("curve", frames["curve"], named["curve"].run) if "curve" in frames else None,
        labels=dict(zip((model for model, _ in sizes), size_labels(sizes), strict=True)),
        located=judged_rows(named["verification"], task)[0] if "verification" in frames else None,
        restored=restored_rows(named["restoration"], task) if "restoration" in frames else None,
    )


def named_sites(rows: pd.DataFrame, most: int = 3) -> str:
    """The first ``most`` sites with their effects, as a list in words."""
    return listed([f"{site_name(row)} ({nats(row['effect'])})" for _, row in rows.head(most).iterrows()])
