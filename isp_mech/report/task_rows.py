"""One task's rows over all tables, with a label for each size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from isp_mech.figures.style import size_labels, sizes_of
from isp_mech.figures.verification import judged_rows
from isp_mech.report.wording import listed, nats
from isp_mech.sites import Site
from isp_mech.tables import Table


@dataclass(frozen=True)
class Story:
    """The rows of one task, table by table (``None`` where there is no such table), and its sizes by label."""

    task: str
    frames: Mapping[str, pd.DataFrame]
    curve_table: Table | None
    labels: Mapping[str, str]
    verified: tuple[pd.DataFrame, pd.DataFrame] | None

    def rows(self, name: str, **where: str) -> pd.DataFrame:
        """The rows of table ``name`` with these values, sizes from small to large; an empty frame where none."""
        frame = self.frames.get(name, pd.DataFrame())
        for column, value in where.items():
            frame = frame[frame[column] == value] if len(frame) else frame
        return frame

    def label(self, row: Any) -> str:
        return self.labels[str(row["model"])]


def story(tables: Mapping[str, Table], task: str) -> Story:
    """The rows of one task over all tables."""
    frames = {}
    for table in tables.values():
        rows = table.frame[table.frame["task"] == task]
        if len(rows):
            frames[table.name] = rows.sort_values(["n_params", "model"], kind="stable")
    sizes = sizes_of(pd.concat([f[["model", "n_params"]].drop_duplicates() for f in frames.values()]))
    by_name = {table.name: table for table in tables.values()}
    curve = Table("curve", frames["curve"], by_name["curve"].run) if "curve" in frames else None
    verified = judged_rows(by_name["verification"], task) if "verification" in frames else None
    labels = dict(zip((model for model, _ in sizes), size_labels(sizes), strict=True))
    return Story(task, frames, curve, labels, verified)


def site_name(row: Any) -> str:
    """``a5.h3`` or ``m5``."""
    layer = int(row["layer"])
    return str(Site(layer, "head", int(row["head"])) if row["kind"] == "head" else Site(layer, "mlp"))


def named(rows: pd.DataFrame, most: int = 3) -> str:
    """The first ``most`` sites with their effects, as a list in words."""
    return listed([f"{site_name(row)} ({nats(row['effect'])})" for _, row in rows.head(most).iterrows()])
