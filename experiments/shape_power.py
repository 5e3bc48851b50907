"""How often curves of known shape get each name, by sizes, items and amplitude: the table in docs/scaling.md.

python experiments/shape_power.py         # writes runs/shape-power/named.tsv and table.md
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from isp_mech.scaling import NAMES, power

SIZES, ITEMS, AMPLITUDES = range(3, 9), (100, 300, 1000), (0.1, 0.2, 0.3)
SHAPES = ("inverse", "positive", "U", "inverted U", "U, turn at 0.3", "inverted U, turn at 0.7", "flat")
ITEM_CORRELATION = {"accuracies alone": None, "outcomes, independent": 0.0, "outcomes, items correlated": 0.7}
BETWEEN_MODELS = (0.0, 0.02, 0.05, 0.1)  # standard deviation of models' own true accuracies around the curve
ALLOWED_FOR = "between-model sd known"
DRAWS, SEED = 4000, 0
OUT = Path("runs/shape-power")


def curve(shape: str, k: int, amplitude: float) -> np.ndarray:
    """Accuracies around 0.5 that reach over ``amplitude``; a turn stands in the middle unless the name says where."""
    t = np.linspace(0, 1, k)
    turn = float(shape.split()[-1]) if "turn" in shape else 0.5
    valley = np.where(t < turn, 1 - t / turn, (t - turn) / (1 - turn))
    kind = shape.split(",")[0]
    up = {"inverse": 1 - t, "positive": t, "U": valley, "inverted U": 1 - valley, "flat": np.full(k, 0.5)}[kind]
    return 0.5 + amplitude * (up - 0.5)


def named() -> pd.DataFrame:
    rows = []
    for k in SIZES:
        x = 10 ** np.linspace(5, 8, k)
        cases = [(s, a, n, way, 0.0) for s in SHAPES for a in AMPLITUDES for n in ITEMS for way in ITEM_CORRELATION
                 if (s != "flat" or a == AMPLITUDES[-1]) and (n == 300 or way == "accuracies alone")]  # fmt: skip
        cases += [("flat", AMPLITUDES[-1], 300, "accuracies alone", sd) for sd in BETWEEN_MODELS[1:]]
        cases += [("flat", AMPLITUDES[-1], 300, ALLOWED_FOR, sd) for sd in BETWEEN_MODELS[1:]]
        for shape, amplitude, n, way, sd in cases:
            truth = curve(shape, k, amplitude)
            shares = power(
                x,
                truth,
                n,
                item_correlation=ITEM_CORRELATION.get(way),
                true_between_model_sd=sd,
                between_model_sd=sd if way == ALLOWED_FOR else 0.0,
                draws=DRAWS,
                seed=SEED,
            )
            case = {"shape": shape, "sizes": k, "items": n, "amplitude": amplitude, "known": way, "between models": sd}
            rows.append(case | {"right": shares[shape.split(",")[0]]} | shares)
    return pd.DataFrame(rows)


def tables(rows: pd.DataFrame) -> str:
    """Markdown: right names, wrong names of flat curves, and what differences between models do."""
    still = rows[(rows["between models"] == 0) & (rows["shape"] != "flat")]
    kinds = {"inverse": "trend", "positive": "trend", "U": "turn", "inverted U": "turn"}
    kind = still["shape"].map(kinds).fillna("turn, off the middle")
    right = still.assign(kind=kind).pivot_table(
        index=["kind", "amplitude", "items"], columns="sizes", values="right", aggfunc="min")  # fmt: skip
    flat = rows[rows["shape"] == "flat"].assign(wrong=lambda r: 1 - r["flat"] - r["undecided"])
    flat["allowed for"] = np.where(flat["known"] == ALLOWED_FOR, "yes", "no")
    wrong = flat.pivot_table(
        index=["between models", "allowed for", "items"], columns="sizes", values="wrong", aggfunc="max"
    )
    return "\n\n".join(
        f"{title}\n\n{_markdown(frame)}" for title, frame in (
            ("Named rightly, the least over both directions and all that may be known:", right),
            ("Flat, but given another name than flat or undecided, the most over all that may be known:", wrong),
        )
    )  # fmt: skip


def _markdown(frame: pd.DataFrame) -> str:
    head = [*frame.index.names, *(f"{k} sizes" for k in frame.columns)]
    lines = [head, ["---"] * len(head)]
    for key, row in frame.iterrows():
        lines.append([*(str(part) for part in key), *(f"{100 * v:.1f} %" for v in row)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    rows = named()
    OUT.mkdir(parents=True, exist_ok=True)
    rows.to_csv(OUT / "named.tsv", sep="\t", index=False)
    text = tables(rows)
    (OUT / "table.md").write_text(text + "\n", encoding="utf-8")
    print(text)
    three = rows[rows["sizes"] == 3]
    print(f"\nthree sizes, called U or inverted U: {three[list(NAMES[2:4])].to_numpy().max():.4f}")


if __name__ == "__main__":
    main()
