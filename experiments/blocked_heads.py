"""Which heads carry what blocking attention to a role does, and how few of them do as much as all.

python experiments/blocked_heads.py quote-repetition quote_output lure --family ladder --size ladder-4m --n 300
python experiments/blocked_heads.py memo-trap instruction lure --family smollm2.gguf --n 100

Heads are ranked on the pairs of one seed; the strongest, and as many drawn at random, are blocked together on the pairs
of another. Writes runs/blocked/TASK-MODEL: head_roles.parquet, role_stability.parquet, together.csv, and the map.
"""

import argparse
from functools import reduce
from operator import add
from pathlib import Path
from time import process_time

import numpy as np
import pandas as pd

import isp_mech as im
from isp_mech.causal import Intervention, block, block_heads, intervene
from isp_mech.models import members

OUT = Path("runs/blocked")
RANKING, JUDGING = 0, 1  # seeds of the pairs
HOW_MANY = (1, 2, 3, 5, 10, 20, 40)  # heads blocked together
DRAWS, DRAWN = 5, 10  # random sets, and heads in each


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("task")
    asked.add_argument("role")
    asked.add_argument("pushes", choices=("lure", "answer"), help="heads that push there are blocked together")
    asked.add_argument("--family", default="ladder")
    asked.add_argument("--size")
    asked.add_argument("--n", type=int, default=300)
    given = asked.parse_args()
    model = next(iter(members(im.family(given.family, sizes=[given.size] if given.size else None))))
    ranking, judging = (im.contrast(given.task, n=given.n, seed=seed) for seed in (RANKING, JUDGING))
    out = OUT / f"{given.task}-{model.name}"
    out.mkdir(parents=True, exist_ok=True)

    began = process_time()
    im.score(ranking, model)
    scored = process_time() - began
    found = block_heads(ranking, model)
    print(f"{(process_time() - began - scored) / scored:.1f} x scoring (processor time)")
    for table in (found.head_roles, found.role_stability):
        table.save(out / f"{table.name}.parquet")
        print(table.frame.iloc[: 12 if table is found.role_stability else 0].to_string())
    together = blocked_together(found.head_roles.frame, given.role, given.pushes, judging, model)
    together.to_csv(out / "together.csv", index=False)
    print(together.to_string(index=False, float_format="{:.3g}".format))
    im.figures.save(im.figures.head_role_map(found), out / "map", found.head_roles)


def blocked_together(rows: pd.DataFrame, role: str, pushes: str, pairs, model) -> pd.DataFrame:
    """Accuracy and margin with all heads kept from the role, with the strongest few, and with heads drawn at random."""
    rows = rows[rows["role"] == role].sort_values("effect", ascending=pushes == "lure")
    rng = np.random.default_rng(0)
    sets = {f"strongest {k}": rows.head(k) for k in HOW_MANY if k < len(rows)}
    sets |= {f"random {DRAWN}, draw {i}": rows.iloc[rng.permutation(len(rows))[:DRAWN]] for i in range(DRAWS)}
    asked = {"none": Intervention(), "all": block(role)} | {name: _blocks(some, role) for name, some in sets.items()}
    made = intervene(list(asked.values()), pairs, model, sides=("conflict", "plain")).frame
    names = [name for _ in ("conflict", "plain") for name in asked]
    return made.assign(heads=names)[["heads", "side", "accuracy", "margin", "effect", "effect_lo", "effect_hi"]]


def _blocks(some: pd.DataFrame, role: str) -> Intervention:
    return reduce(add, (block(role, layers=[row.layer], heads=[row.head]) for row in some.itertuples()))


if __name__ == "__main__":
    main()
