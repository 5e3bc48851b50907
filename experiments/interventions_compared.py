"""All kinds of interventions x sizes x tasks: what restores prompt-following, at what cost, beside published figures.

python experiments/interventions_compared.py                                # the ladder, four tasks
python experiments/interventions_compared.py FOLDER [FOLDER ...]            # any models, memo-trap's pairs
"""

import sys
from pathlib import Path

import pandas as pd

import isp_mech as im

OUT = Path("runs/interventions")
TASKS = ("quote-repetition", "redefine-math", "neqa", "hindsight-neglect")
N_PAIRS, SEED = 300, 0
SHOWN = ["model", "task", "kind", "split", "conflict_before", "conflict_after", "gain", "plain_before", "plain_after",
         "neutral_before", "neutral_after", "neutral_kl", "restored", "broken", "p", "q", "restoring",
         "needs"]  # fmt: skip
PUBLISHED = pd.DataFrame(  # after choosing on what is evaluated, or on a few examples, without random changes
    [
        ("scale", "Yu et al. 2023, arXiv 2310.15910", "the answer in context, one head scaled", "to 88 %"),
        ("replay", "JuICE, arXiv 2503.10996", "proverb endings, Gemma 2B", "26 to 75 %"),
        ("reweight", "PASTA, arXiv 2311.02262", "instructions", "+22 points"),
        ("scale", "PH3, arXiv 2402.18154", "heads pruned (alpha 0)", "up to +44 points"),
    ],
    columns=["kind", "source", "setting", "figure"],
)


def main(folders: list[str]) -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    models = folders or im.family("ladder")
    parts = []
    for task in ("memo-trap",) if folders else TASKS:
        restored = im.causal.restoration(im.contrast(task, n=N_PAIRS, seed=SEED), models, seed=SEED, progress=True)
        restored.table.save(OUT / f"{task}.parquet")
        for number, (text, made) in enumerate(restored.interventions.items()):
            made.save(OUT / f"{task}-{number}.json")
            print(f"{task}-{number}.json: {text}")
        parts.append(restored.table.frame[SHOWN])
        print(parts[-1].round(3).to_string(index=False), end="\n\n")
    pd.concat(parts).to_csv(OUT / "compared.csv", index=False)
    print(PUBLISHED.to_string(index=False))


if __name__ == "__main__":
    main(sys.argv[1:])
