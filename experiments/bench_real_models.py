"""A trained model held against plain transformers on memo-trap: the same numbers, at which cost.

    python experiments/bench_real_models.py MODEL [--n 100] [--screen N]

MODEL is a folder or a GGUF file; of the latter, transformers loads what it was converted to. Told are: seconds to load;
the largest gap of margins and total log-probabilities by both rules to one text at a time, and how far transformers in
float32 is from itself in float64; processor seconds of score and trace, and of plain forwards with last logits over the
same prompts and completions, in turn; memory at the peak of scoring above what was held. With --screen, whether
``locate`` finds every site that exact effects of all sites, on N pairs, call significant and larger than a tenth of the
largest.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from measuring import TOLD, peak_memory
from transformers import AutoModelForCausalLM, AutoTokenizer

import isp_mech as im
from isp_mech.models.gguf import convert_gguf
from isp_mech.weight_files import is_gguf

SIDES, RULES, ROUNDS, ROWS = ("conflict", "plain"), ("strict", "prize"), 3, 40


def without_neutral(pairs: im.PairSet) -> im.PairSet:
    return im.PairSet(
        pairs.name, tuple(replace(p, neutral=None, neutral_answer=None, neutral_lure=None) for p in pairs)
    )


def logprobs(model, tokenizer, prompt: str, completion: str) -> dict[str, float]:
    """The completion's log-probability by both rules, from one forward of the whole text."""
    before, ids = tokenizer(prompt).input_ids, tokenizer(prompt + completion).input_ids
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    each = [float(logits[i - 1, ids[i]]) for i in range(1, len(ids))]
    shared = sum(1 for _ in takewhile(lambda two: two[0] == two[1], zip(before, ids, strict=False)))
    n_alone = len(tokenizer(completion, add_special_tokens=False).input_ids)
    return {"strict": sum(each[shared - 1 :]), "prize": sum(each[-n_alone:])}


def plain_rows(model, tokenizer, pairs: im.PairSet) -> dict[tuple[str, str, str], tuple[float, float]]:
    """(margin, total log-probability) by pair, side and rule."""
    found = {}
    for pair in pairs:
        for side in SIDES:
            both = [logprobs(model, tokenizer, getattr(pair, side).text, c) for c in (pair.answer, pair.lure)]
            for rule in RULES:
                answer, lure = (one[rule] for one in both)
                found[pair.id, side, rule] = answer - lure, float(np.logaddexp(answer, lure))
    return found


def gaps(found: dict, want: dict) -> str:
    off = np.abs([np.subtract(found[key], want[key]) for key in want])
    (margin, total), (middle, _) = off.max(0), np.median(off, axis=0)
    return f"margin {margin:.1e} (median {middle:.1e}), total log-probability {total:.1e}, of {len(off)}"


def forwards(model, tokenizer, pairs: im.PairSet) -> None:
    """Plain forwards over prompts and completions, padded on the left, with logits of the last token."""
    texts = [getattr(pair, side).text + c for pair in pairs for side in SIDES for c in (pair.answer, pair.lure)]
    ids = sorted((tokenizer(text).input_ids for text in texts), key=len)
    with torch.no_grad():
        for some in (ids[i : i + ROWS] for i in range(0, len(ids), ROWS)):
            longest = len(some[-1])
            padded = torch.tensor([[0] * (longest - len(row)) + row for row in some])
            mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in some])
            model(padded, attention_mask=mask, logits_to_keep=1)


def processor_seconds(run: Callable[[], object]) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began


def missed(pairs: im.PairSet, model) -> Sequence[str]:
    """Sites that are large and significant by the exact effects of all sites, and not by ``locate`` as it is."""
    every, screened = (
        im.locate(pairs, model, method=method).sites.frame.set_index(["layer", "kind", "head"], drop=False)
        for method in ("exhaustive", "exact")
    )
    large = every[every["significant"] & (every["effect"].abs() > every["effect"].abs().max() / 10)]
    kept = screened.loc[large.index, "significant"] & np.isclose(
        screened.loc[large.index, "effect"].astype(float), large["effect"].astype(float), atol=1e-3
    )
    print(f"{len(large)} sites matter by exact effects of all {len(every)}")
    return [str(index) for index in large.index[~kept.to_numpy(bool)]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--screen", type=int, default=0)
    args = parser.parse_args()
    began = time.perf_counter()
    model = im.load_model(args.model)
    print(f"{model!r}: loaded in {time.perf_counter() - began:.1f} s; {torch.backends.cpu.get_cpu_capability()}")
    pairs = without_neutral(im.contrast("memo-trap", n=args.n, seed=5))
    if TOLD:
        print(
            f"memory at the peak of scoring, above what was held: {peak_memory(lambda: im.score(pairs, model)):.2f} GB"
        )
    folder = convert_gguf(args.model).folder if is_gguf(args.model) else args.model
    tokenizer = AutoTokenizer.from_pretrained(folder)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    want = plain_rows(plain, tokenizer, pairs)
    rows = {rule: im.score(pairs, model, rule=rule).items.frame.itertuples() for rule in RULES}
    ours = {(r.item, r.side, rule): (r.margin, r.total_logprob) for rule in RULES for r in rows[rule]}
    print(f"ours against transformers, one text at a time: {gaps(ours, want)}", flush=True)
    took: dict[str, list[float]] = {"plain": [], "ours": []}
    for _ in range(ROUNDS):
        took["plain"].append(processor_seconds(lambda: forwards(plain, tokenizer, pairs)))
        took["ours"].append(processor_seconds(lambda: im.score(pairs, model, trace=True)))
    middle = {name: statistics.median(times) for name, times in took.items()}
    print(f"score and trace {middle['ours']:.1f} s, plain forwards {middle['plain']:.1f} s: "
          f"{middle['ours'] / middle['plain']:.2f} x", flush=True)  # fmt: skip
    few = im.PairSet(pairs.name, tuple(pairs)[:30])
    exact = plain_rows(plain.double(), tokenizer, few)
    for name, given in (("ours", ours), ("transformers in float32", want)):
        print(f"{name} against transformers in float64: {gaps(given, exact)}", flush=True)
    if args.screen:
        some = im.contrast("memo-trap", n=args.screen, seed=5)
        print("not found:", missed(some, model) or "none")


if __name__ == "__main__":
    main()
