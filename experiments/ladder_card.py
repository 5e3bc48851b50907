"""The ladder's numbers: accuracy of every size on new pairs, and what must hold of the family and of its seeds.

    python experiments/ladder_card.py          # prints the card's tables, writes runs/ladder-card/*.parquet

Other seeds are looked for in runs/ladder/seed-N (isp-mech ladder train --seed N --sizes ...).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

import isp_mech as im
from isp_mech.ladder.corpus import Recipe
from isp_mech.ladder.evaluation import TASKS
from isp_mech.ladder.train import default_folder
from isp_mech.stats import bootstrap_interval, spearman

N, SEED = 300, 2026
OUT = Path("runs/ladder-card")
FAMILIES = {
    **{f"seed {seed}": default_folder(Recipe(seed=seed)) for seed in (0, 1, 2, 3)},
    "null": default_folder(Recipe(null=True)),
}


def main() -> None:
    pairs = {task: im.contrast(task, n=N, seed=SEED) for task in TASKS}
    for label, folder in FAMILIES.items():
        models = [path.parent for path in folder.glob("*/model.safetensors")]
        if not models:
            print(f"\n## {label}: nothing in {folder}")
            continue
        found = {task: im.score(of, im.family(models), progress=True) for task, of in pairs.items()}
        curve = im.concat([scores.curve for scores in found.values()])
        name = label.replace(" ", "-")
        curve.save(OUT / f"{name}.parquet")
        im.figures.save(im.figures.scaling_curve(curve, values=("accuracy",)), OUT / name, curve)
        print(f"\n## {label}\n")
        print(accuracy_table(curve.frame))
        print()
        for task, scores in found.items():
            print(falls(task, scores.items.frame))


def accuracy_table(curve: pd.DataFrame) -> str:
    """Markdown: a row per task and side, a column per size, accuracy in percent with its interval."""
    sizes = curve[["model", "n_params"]].drop_duplicates().sort_values("n_params")["model"]
    lines = ["| task, side | " + " | ".join(sizes) + " |", "|---" * (len(sizes) + 1) + "|"]
    for (task, side), rows in curve.groupby(["task", "side"], sort=False):
        at = rows.set_index("model")
        cells = [
            f"{100 * at.accuracy[m]:.0f} ({100 * at.accuracy_lo[m]:.0f} to {100 * at.accuracy_hi[m]:.0f})"
            for m in sizes
        ]
        lines.append(f"| {task}, {side} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def correct_by_size(items: pd.DataFrame, side: str) -> tuple[list[str], np.ndarray]:
    """Sizes, smallest first, and whether each is right on each pair: (pairs, sizes), 0 or 1."""
    order = items[["model", "n_params"]].drop_duplicates().sort_values("n_params")["model"].tolist()
    wide = items[items["side"] == side].pivot(index="item", columns="model", values="correct")
    return order, wide[order].to_numpy(float)


def falls(task: str, items: pd.DataFrame) -> str:
    """How conflict accuracy goes from the best size on, and the paired difference of largest and best smaller."""
    order, conflict = correct_by_size(items, "conflict")
    plain = correct_by_size(items, "plain")[1].mean(0)
    means = conflict.mean(0)
    best = int(np.argmax(means[:-1]))
    low, high = bootstrap_interval(conflict[:, -1] - conflict[:, best], seed=SEED)
    first_low, first_high = bootstrap_interval(conflict[:, -1] - conflict[:, 0], seed=SEED)
    return (
        f"{task}: best {order[best]} {means[best]:.2f}, largest {means[-1]:.2f}, "
        f"difference {means[-1] - means[best]:.2f} ({low:.2f} to {high:.2f}); Spearman with size from the best on "
        f"{spearman(np.arange(best, len(order)), means[best:]):.2f}, of plain accuracy "
        f"{spearman(np.arange(len(order)), plain):.2f}; largest - smallest {first_low:.2f} to {first_high:.2f}"
    )


if __name__ == "__main__":
    main()
