"""What locating and restoring find in planted models, where the sites are known, and in models with nothing in them.

python experiments/planted_models.py          # runs/planted/planted.csv, nulls.csv
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

import isp_mech as im
from isp_mech.ladder.planted_models import PLANTED, held_against, null_model, plant_model, planted_pairs
from isp_mech.sites import all_sites

OUT = Path("runs/planted")
N_PAIRS, SEED = 100, 0
NULLS = [(layers, seed) for layers in (2, 3, 4) for seed in (0, 1)]  # random weights
NULL_TASKS = ("quote-repetition", "redefine-math", "neqa", "hindsight-neglect")


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as folder:
        planted = pd.DataFrame([_planted(plant, Path(folder) / plant.name) for plant in PLANTED])
        nulls = _nulls(Path(folder))
    for name, frame in (("planted", planted), ("nulls", nulls)):
        frame.to_csv(OUT / f"{name}.csv", index=False)
        print(frame.to_string(index=False, float_format="{:.3g}".format), end="\n\n")


def _planted(plant, folder: Path) -> dict:
    model = im.load_model(str(plant_model(plant, folder)))
    pairs = planted_pairs(N_PAIRS, seed=SEED, ends_with_word=plant.ends_with_word)
    right = im.score(pairs, model).curve.frame.set_index("side")["accuracy"]
    sites = im.locate(pairs, model).sites.frame
    names = [str(site) for site in all_sites(model.architecture.n_layers, model.architecture.n_heads)]
    found = held_against(plant, names, sites["effect"], sites["significant"])
    restored = im.causal.restoration(pairs, model, kinds=["scale"])
    scaled = [{str(site) for part in made.parts for site in part.sites} for made in restored.interventions.values()]
    return {
        "model": plant.name,
        "follows": " ".join(sorted(plant.sites - plant.override)),
        "overrides": " ".join(sorted(plant.override)),
        "conflict": right["conflict"],
        "plain": right["plain"],
        "first": found.first,
        "rank": found.rank,
        "recall": found.recall,
        "false alarms": found.false_alarms,
        "ROC area": found.roc_auc,
        "scaled to restore": " or ".join(" ".join(sorted(some)) or "none" for some in scaled),
        "not planted": max(len(some - plant.sites) for some in scaled),
        "halves restored": int(restored.table.frame["restoring"].sum()),
    }


def _nulls(folder: Path) -> pd.DataFrame:
    models = [im.load_model(str(null_model(folder / f"null-{n}-{s}", layers=n, seed=s))) for n, s in NULLS]
    sets = [planted_pairs(N_PAIRS, seed=SEED), *(im.contrast(task, n=N_PAIRS, seed=SEED) for task in NULL_TASKS)]
    rows = []
    for pairs in sets:
        sites = im.locate(pairs, models).sites.frame
        restoring = im.causal.restoration(pairs, models).table.frame["restoring"] if pairs is sets[0] else pd.Series()
        row = {"pairs": pairs.name, "sites": len(sites), "significant": int(sites["significant"].sum())}
        rows.append(row | {"changes": len(restoring), "restoring": int(restoring.sum())})
    total = {"pairs": "all", **pd.DataFrame(rows).drop(columns="pairs").sum()}
    frame = pd.DataFrame([*rows, total])
    return frame.assign(share=frame["significant"] / frame["sites"])


if __name__ == "__main__":
    main()
