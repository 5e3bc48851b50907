"""What it costs to search a change that restores, and to judge it: in times of scoring the same pairs.

    python experiments/bench_restoring.py                       # ladder-4m, 300 pairs of quote-repetition, all kinds
    python experiments/bench_restoring.py --task redefine-math

Processor seconds of one thread. Scoring and restoring are measured in turn, and the medians of the repeats are told,
with the share of each kind (its search and its judgement) and of what is run for all of them.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import time
from collections import Counter
from itertools import cycle

import torch

import isp_mech as im
from isp_mech.sites import SEARCHED

SIZE, N_PAIRS, SEED, REPEATS = "ladder-4m", 300, 0, 3
BOUND = 40  # times scoring, at most


def seconds(run) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began


def by_kind(run) -> Counter[str]:
    """Seconds by kind: what lies between the beginning of a half's searches, or one judgement, and the next one."""
    module = importlib.import_module("isp_mech.causal.restoration")
    search, judge, kinds, spent = module.Search, module.judge, cycle(SEARCHED), Counter[str]()
    last = time.process_time()

    def then(name: str, made):
        nonlocal last
        now = time.process_time()
        spent[name] += now - last
        last = now
        return made

    module.Search = lambda *args: then("for all", search(*args))
    module.judge = lambda *args, **settings: then(next(kinds), judge(*args, **settings))
    try:
        run()
    finally:
        module.Search, module.judge = search, judge
    then("for all", None)
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="quote-repetition")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = im.load_model(im.family("ladder", sizes=[SIZE]).members[0].path_or_id)
    pairs = im.contrast(args.task, n=N_PAIRS, seed=SEED)
    im.score(pairs.take(range(20)), model)  # a warm-up
    scoring, restoring = [], []
    for _ in range(args.repeats):
        scoring.append(seconds(lambda: im.score(pairs, model)))
        restoring.append(by_kind(lambda: im.causal.restoration(pairs, model, seed=SEED)))
    one, all_kinds = statistics.median(scoring), statistics.median(spent.total() for spent in restoring)
    print(f"{SIZE}, {args.task}, {N_PAIRS} pairs: scoring {one:.2f} s, restoring {all_kinds:.1f} s")
    print(f"restoring is {all_kinds / one:.1f} x scoring (at most {BOUND})")
    for name in ("for all", *SEARCHED):
        mine = statistics.median(spent[name] for spent in restoring)
        print(f"  {name:9} {mine:6.1f} s  {mine / one:5.1f} x  {100 * mine / all_kinds:3.0f} %")


if __name__ == "__main__":
    main()
