"""The prize's tasks on trained models: what each does with the pairs, as a table and a figure.

    python experiments/real_models.py MODEL ... [--tasks TASK ...] [--n 200] [--out reports/real-models] [--docs docs]

MODEL is a folder, a GGUF file or a hub id. Each model's shares on each task are kept under --out as they are measured:
a stopped run goes on where it was. With --docs the table goes into docs/tasks.md, the figure into docs/images.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from pages import numbers, put

import isp_mech as im
from isp_mech.figures import panels, style

SEED = 2026
NOT_THE_PRIZES = ("heavier-object", "linear-expressions")
SHARES = ("follows", "overridden", "contrary", "lost")
MARKS = numbers("real_models.py")


def measure(where: str, tasks: Sequence[str], n: int, out: Path) -> None:
    """A file of shares for each task that has none yet; the model is loaded for the first of them."""
    model = None
    for task in tasks:
        path = out / f"{Path(where).stem}-{task}-{n}.parquet"
        if path.exists():
            continue
        model = model or im.load_model(where)
        pairs = im.contrast(task, n=n, seed=SEED)
        scores = im.score(pairs, model)
        accuracy = scores.curve.frame.pivot(index="model", columns="side", values="accuracy").add_prefix("right_")
        made = scores.shares.frame.merge(accuracy, left_on="model", right_index=True).assign(n=len(pairs))
        whole = path.with_suffix(".part")
        made.to_parquet(whole)
        os.replace(whole, path)
        print(f"{Path(where).stem} {task}: " + ", ".join(f"{s} {made[s].iloc[0]:.2f}" for s in SHARES), flush=True)


def collected(out: Path) -> pd.DataFrame:
    """Every row that was measured; of a model and task the one with the most pairs."""
    rows = pd.concat(pd.read_parquet(path) for path in sorted(out.glob("*.parquet")))
    rows = rows.sort_values("n").drop_duplicates(["model", "task"], keep="last")
    rows = rows[~rows["task"].isin(NOT_THE_PRIZES)]
    return rows.sort_values(["n_params", "task"], ignore_index=True)


def markdown(rows: pd.DataFrame) -> list[str]:
    """A line a task, a column a model: overridden (95 % interval), and conflict and plain prompts right, in %."""
    models = rows["model"].drop_duplicates().tolist()
    head = [f"{m} ({size_label(rows, m)})" for m in models]
    lines = ["| task | " + " | ".join(head) + " |", "|---" * (1 + len(models)) + "|"]
    for task, of_task in rows.groupby("task"):
        by_model = of_task.set_index("model")
        cells = [cell(by_model.loc[m]) if m in by_model.index else "not measured" for m in models]
        lines.append(f"| {task} | " + " | ".join(cells) + " |")
    return lines


def size_label(rows: pd.DataFrame, model: str) -> str:
    return style.size_label(int(rows.loc[rows["model"] == model, "n_params"].iloc[0]))


def cell(row: pd.Series) -> str:
    low, high = 100 * row["overridden_lo"], 100 * row["overridden_hi"]
    rest = " / ".join(f"{100 * row[share]:.0f}" for share in ("follows", "contrary", "lost"))
    return f"**{100 * row['overridden']:.0f}** ({low:.0f} to {high:.0f}); {rest}"


def figure_of(rows: pd.DataFrame):
    """A panel for each task, a stacked bar for each model, from the smallest to the largest."""
    tasks, models = sorted(rows["task"].unique()), rows["model"].drop_duplicates().tolist()
    figure, axes = plt.subplots(3, 4, figsize=(7.2, 5.2), sharey=True, layout="constrained")
    for ax, task in zip(axes.flat, tasks, strict=False):
        by_model = rows[rows["task"] == task].set_index("model").reindex(models)
        heights = {share: by_model[share].fillna(0).to_numpy(float) for share in style.SHARE_COLOURS}
        panels.stacked_bars(ax, heights, style.SHARE_COLOURS, width=0.84)
        ax.set_title(task, fontsize=8)
        ax.set_xticks(np.arange(len(models)), [size_label(rows, m) for m in models], fontsize=7)
        ax.tick_params(axis="y", labelsize=7)
    for ax in axes.flat[len(tasks) :]:
        ax.set_axis_off()
    for ax in axes[:, 0]:
        ax.set_ylabel("share of pairs", fontsize=8)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8, frameon=False)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--tasks", nargs="+", default=[t for t in im.contrast_names() if t not in NOT_THE_PRIZES])
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("reports/real-models"))
    parser.add_argument("--docs", type=Path)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for where in args.models:
        measure(where, args.tasks, args.n, args.out)
    rows = collected(args.out)
    print("\n".join(lines := markdown(rows)))
    if args.docs:
        figure_of(rows).savefig(args.docs / "images" / "real-models.svg")
        put(args.docs / "tasks.md", MARKS, ["", *lines, ""])


if __name__ == "__main__":
    main()
