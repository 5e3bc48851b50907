"""What scoring, tracing and locating cost, as ratios to plain transformers forwards in the same process.

    python experiments/bench.py                # prints the table, writes runs/bench/bench.csv

Paths are taken in turn, and the median of the repeats is told. The model has random weights.
"""

from __future__ import annotations

import copy
import csv
import statistics
import time
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from isp_mech.causal.locate import locate
from isp_mech.models import Model, wrap_model
from isp_mech.scoring import cases_of, class_logprobs
from isp_mech.tasks import Pair, PairSet, compose
from isp_mech.tracing.trace import trace

THREADS = 1
REPEATS = 5
PAIRS = 4
TOKENS = 128
SHAPE = {"hidden_size": 512, "num_hidden_layers": 6, "num_attention_heads": 8, "intermediate_size": 2048}  # pythia-70m
OUT = Path("runs/bench/bench.csv")


def byte_model() -> Model:
    """A Pythia-70m-shaped model with random weights; a token is a byte, so that lengths are known."""
    tokenizer = Tokenizer(
        models.BPE(vocab={c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    torch.manual_seed(0)
    config = transformers.GPTNeoXConfig(vocab_size=50304, **SHAPE)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    return wrap_model(transformers.GPTNeoXForCausalLM(config), fast, name="70m shape")


def byte_pairs() -> PairSet:
    """Conflict prompts of ``TOKENS`` bytes; the first eight of them are the definition."""
    made = []
    for i in range(PAIRS):
        rest = [(f"{i:03d}" + "q" * (TOKENS - 11), "question")]
        made.append(Pair(f"p{i}", compose(rest), compose([("x is 4. ", "definition"), *rest]), "4", "3", "definition"))
    return PairSet("bytes", tuple(made))


def main() -> None:
    torch.set_num_threads(THREADS)
    model, pairs = byte_model(), byte_pairs()
    plain = transformers.GPTNeoXForCausalLM(copy.deepcopy(model.hf.config))  # a shared one shares the attention
    plain.load_state_dict(model.hf.state_dict())
    plain.set_attn_implementation("sdpa")
    plain.eval()
    cases = [c for c in cases_of(pairs) if c.side == "conflict"]
    ids = torch.tensor([model.tokenizer(c.prompt).input_ids for c in cases])
    both = PairSet(pairs.name, pairs.pairs[:2])

    def forward(rows: torch.Tensor):
        with torch.no_grad():
            return plain(rows, logits_to_keep=1).logits

    def bridge():
        with torch.no_grad():
            return model.bridge.run_with_cache(ids)

    # name, what is run, how many prompts of TOKENS tokens it looks at
    paths = [
        ("plain forward, last logits", lambda: forward(ids), PAIRS),
        ("score", lambda: class_logprobs(model, cases), PAIRS),
        ("trace, both sides", lambda: trace(pairs, model), 2 * PAIRS),
        ("TransformerLens run_with_cache", bridge, PAIRS),
        ("locate: all 48 heads and 6 MLPs", lambda: locate(both, model), 2),
    ]
    times: dict[str, list[float]] = {name: [] for name, _, _ in paths}
    for repeat in range(REPEATS + 1):
        for name, run, _ in paths:
            began = time.perf_counter()
            run()
            if repeat:  # the first is a warm-up
                times[name].append(time.perf_counter() - began)
    unit = statistics.median(times[paths[0][0]]) / PAIRS
    OUT.parent.mkdir(parents=True, exist_ok=True)
    with OUT.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "seconds a prompt", "plain forwards a prompt"])
        for name, _, prompts in paths:
            each = statistics.median(times[name]) / prompts
            writer.writerow([name, f"{each:.4f}", f"{each / unit:.2f}"])
            print(f"{name:34} {each * 1000:8.1f} ms a prompt  {each / unit:6.2f} x")


if __name__ == "__main__":
    main()
