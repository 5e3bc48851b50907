"""The prize's files on trained models: the same numbers as its evaluator's, and how many items turn into pairs.

    python experiments/prize_files.py FILE ... [--models MODEL ...] [--first 40]

FILE is a file of the prize, MODEL a folder or a GGUF file. Told are, of each file, whether it is the released one and
how many items become pairs; and of each model and file, on the first items, the largest gaps of loss and total
log-probability to the tests' second implementation of the evaluator's rule: plain transformers, one text at a time.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import isp_mech as im
from isp_mech.models.gguf import convert_gguf
from isp_mech.tasks.released_files import release_of
from isp_mech.weight_files import is_gguf

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from prize_evaluator import logprob, prize_targets  # noqa: E402


def turned(path: Path, task: im.Task) -> str:
    """Which file this is, and how many of its items are pairs; the first reasons for those that are not."""
    release = release_of(path, task)
    try:
        found = im.pairs_from_task(task)
    except im.InputError as error:
        return f"{path.name}: {release.sentence if release else 'not known'}; no pairs: {error}"
    reasons = "; ".join(f"{item}: {why}" for item, why in list(found.left_out.items())[:3])
    share = len(found.pairs) / len(task)
    what = f"{path.name}: {release.sentence if release else 'not known'}"
    return f"{what}; {share:.1%} of the items are pairs" + (f"; left out: {reasons}" if reasons else "")


def gaps(few: im.Task, model: im.Model, plain: Any, tokenizer: Any) -> str:
    rows = im.score(few, model, rule="prize").items.frame.set_index("item")
    off = []
    for item in few:
        each = np.array([logprob(plain, *prize_targets(tokenizer, item.prompt, text)) for text in item.classes])
        total = float(np.logaddexp.reduce(each))
        row = rows.loc[item.id]
        off.append((abs(row["loss"] - (total - each[item.answer])), abs(row["total_logprob"] - total)))
    loss, total = np.max(off, axis=0)
    return f"loss {loss:.1e}, total log-probability {total:.1e} nats, of {len(few)} items"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--models", type=Path, nargs="+", default=[])
    parser.add_argument("--first", type=int, default=40)
    args = parser.parse_args()
    tasks = {path: im.read_task(path) for path in args.files}
    for path, task in tasks.items():
        print(turned(path, task))
    for where in args.models:
        folder = convert_gguf(where).folder if is_gguf(where) else where
        tokenizer = AutoTokenizer.from_pretrained(folder)
        plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        model = im.load_model(where)
        for path, task in tasks.items():
            few = task.take(range(min(args.first, len(task))))
            print(f"{where.stem}, {path.name}: {gaps(few, model, plain, tokenizer)}", flush=True)


if __name__ == "__main__":
    main()
