"""All kinds of interventions x sizes x tasks: what restores prompt-following, at what cost, beside published figures.

    python experiments/interventions_compared.py                          # the ladder, four tasks, all kinds, 300 pairs
    python experiments/interventions_compared.py --tasks neqa
    python experiments/interventions_compared.py MODEL ... --tasks memo-trap [--n 60] [--kinds scale block reweight]

MODEL is a folder, a GGUF file or a hub id; without one it is the ladder. Each model's table on each task is kept under
--out as it is made: a stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import isp_mech as im
from isp_mech.sites import SEARCHED, Searched

TASKS = ("quote-repetition", "redefine-math", "neqa", "hindsight-neglect")
SAID = ["model", "kind", "split", "conflict_before", "conflict_after", "plain_after", "neutral_after", "restored", "p",
        "restoring", "intervention"]  # fmt: skip


def measure(size: str, task: str, kinds: Sequence[Searched], n: int, n_random: int, seed: int, out: Path) -> None:
    """The table ``restoration`` of one model and task, if it has no file yet; the chosen changes are in the table."""
    named = "all" if tuple(kinds) == SEARCHED else "-".join(kinds)
    path = out / f"{task}-{Path(size).name.removesuffix('.gguf')}-{n}-{named}.parquet"
    if not path.exists():
        pairs = im.contrast(task, n=n, seed=seed)
        made = im.causal.restoration(pairs, size, kinds=kinds, n_random=n_random, seed=seed)
        made.table.save(path)
        print(made.table.frame[SAID].round(3).to_string(index=False, header=False), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--kinds", nargs="+", choices=SEARCHED, default=SEARCHED)
    parser.add_argument("--n", type=int, default=300)
    parser.add_argument("--n-random", type=int, default=200)
    parser.add_argument("--seed", type=int, default=2026, help="of the pairs and of the search")
    parser.add_argument("--out", type=Path, default=Path("runs/interventions"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for task in args.tasks:
        for size in args.models or [one.path_or_id for one in im.family("ladder").members]:
            measure(size, task, args.kinds, args.n, args.n_random, args.seed, args.out)


if __name__ == "__main__":
    main()
