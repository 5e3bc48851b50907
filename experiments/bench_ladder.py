"""What the main job's scoring costs on the ladder: six sizes, four tasks, beside plain forwards of the same prompts.

    python experiments/bench_ladder.py             # the ratio on 60 pairs a task, then all of 300 pairs by the clock
    python experiments/bench_ladder.py --pairs 0   # the ratio alone

The unit is one forward of plain transformers for every prompt, in batches of one length, with last logits: enough for
classes of one token, and less than longer ones need. Medians of rounds in turn, all threads, float32.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import torch
from bench_scoring import in_turn
from transformers import AutoModelForCausalLM

import isp_mech as im
from isp_mech.ladder.evaluation import TASKS
from isp_mech.models import Model, members
from isp_mech.scoring import cases_of, class_logprobs
from isp_mech.tasks import PairSet

FEW, SEED, ROWS = 60, 2026, 8


def plain_forwards(plain, prompts: Sequence[Sequence[int]]) -> None:
    """Last logits of each prompt; batches hold prompts of alike length, filled up on the left."""
    ordered = sorted(prompts, key=len)
    for start in range(0, len(ordered), ROWS):
        some = ordered[start : start + ROWS]
        length = max(map(len, some))
        ids = torch.tensor([[0] * (length - len(p)) + list(p) for p in some])
        with torch.no_grad():
            plain(ids, logits_to_keep=1)


def ratio(task: str, pairs: PairSet, models: Sequence[Model], plain: Sequence) -> tuple[float, float]:
    """Median seconds over all sizes: ours, and plain forwards."""
    cases = cases_of(pairs)
    prompts = [e.ids for e in models[0].encode([case.prompt for case in cases])]
    took = in_turn(
        {
            "ours": lambda: [class_logprobs(model, cases) for model in models],
            "plain": lambda: [plain_forwards(model, prompts) for model in plain],
        }
    )
    return took["ours"][1], took["plain"][1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=300, help="pairs a task of the whole job; 0: only the ratio")
    args = parser.parse_args()
    family = im.family("ladder")
    models = list(members(family))
    plain = [AutoModelForCausalLM.from_pretrained(s.path_or_id, dtype=torch.float32).eval() for s in family.members]
    print(f"{len(models)} sizes, {torch.get_num_threads()} threads, {FEW} pairs a task")
    sums = [0.0, 0.0]
    for task in TASKS:
        took = ratio(task, im.contrast(task, n=FEW, seed=SEED), models, plain)
        sums = [a + b for a, b in zip(sums, took, strict=True)]
        print(f"{task:18} ours {took[0]:6.2f} s, plain forwards {took[1]:6.2f} s, ratio {took[0] / took[1]:.2f}")
    print(f"{'together':18} ours {sums[0]:6.2f} s, plain forwards {sums[1]:6.2f} s, ratio {sums[0] / sums[1]:.2f}")
    if not args.pairs:
        return
    began = time.perf_counter()
    for task in TASKS:
        start = time.perf_counter()
        im.score(im.contrast(task, n=args.pairs, seed=SEED), family)
        print(f"{task:18} {args.pairs} pairs: {time.perf_counter() - start:.1f} s")
    print(f"{'together':18} {args.pairs} pairs: {time.perf_counter() - began:.1f} s, pairs and loading included")


if __name__ == "__main__":
    main()
