"""Scores against a second implementation of both rules: plain transformers, a text at a time, nothing shared.

    python experiments/scoring_agreement.py             # 2,000 distinct items on four architectures
    python experiments/scoring_agreement.py 500 7       # so many items, another seed

The second implementation and the small models with random weights are those of the tests. Printed: the largest
difference in any completion's log-probability (nats), and on how many items the best completion is another one
although the two best are more than 1e-3 nats apart.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import numpy as np
import torch

from isp_mech.models import wrap_model
from isp_mech.scoring import class_logprobs
from isp_mech.scoring.completion_logprobs import Case

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from prize_evaluator import logprob, prize_targets, strict_targets  # noqa: E402
from small_models import TEXT, byte_tokenizer, make_hf  # noqa: E402

ARCHITECTURES = ("neox", "gpt2", "llama", "gemma2")
RULES = {"strict": strict_targets, "prize": prize_targets}
WORDS = [*TEXT.split(), *"Repeat my sentences back to me Input Output not the café 日本 naïve 3.14 -7".split()]
CLOSE = 1e-3  # nats: two completions nearer than this may change places


def draw_cases(n: int, seed: int) -> list[Case]:
    """``n`` different prompts, half of them after one of four long beginnings, with two to five completions."""
    draw = random.Random(f"agreement {seed}")
    shots = [" ".join(draw.choices(WORDS, k=draw.randint(10, 30))) for _ in range(4)]
    prompts: dict[str, tuple[str, ...]] = {}
    while len(prompts) < n:
        prompt = " ".join(draw.choices(WORDS, k=draw.randint(1, 14))) + draw.choice(["", "", " A:", " fir", "é", "\n"])
        prompt = f"{draw.choice(shots)}\n\n{prompt}" if draw.random() < 0.5 else prompt
        ends = {
            draw.choice((" ", " ", "")) + " ".join(draw.choices(WORDS, k=draw.choice((1, 1, 2, 3)))) for _ in "12345"
        }
        prompts[prompt] = tuple(sorted(ends)[: draw.randint(2, 5)])
    return [
        Case(str(i), "item", prompt, classes, 0, 0)
        for i, (prompt, classes) in enumerate(prompts.items())
        if len(classes) > 1
    ]


def compare(architecture: str, rule: str, cases: list[Case], n: int) -> tuple[int, float, int]:
    """Of the first ``n`` cases that the rule scores: how many, the largest difference in nats, and on how many
    the best completion is another one."""
    tokenizer = byte_tokenizer(start_token=architecture == "llama")
    plain = make_hf(architecture, length=512)
    model = wrap_model(make_hf(architecture, length=512), tokenizer, name=architecture)
    kept, expected = [], []
    for case in cases:
        if len(kept) == n:
            break
        targets = [RULES[rule](tokenizer, case.prompt, text) for text in case.classes]
        if all(target is not None for target in targets):  # the strict rule has none where a token straddles
            kept.append(case)
            expected.append(np.array([logprob(plain, *target) for target in targets if target is not None]))
    found = class_logprobs(model, kept, rule=rule).logprobs
    worst = max(float(np.abs(a - b).max()) for a, b in zip(found, expected, strict=True))
    clear = [(a, b) for a, b in zip(found, expected, strict=True) if np.ptp(np.sort(b)[-2:]) > CLOSE]
    return len(kept), worst, sum(int(np.argmax(a) != np.argmax(b)) for a, b in clear)


def main() -> None:
    n, seed = [int(word) for word in sys.argv[1:]] + [2000, 0][len(sys.argv) - 1 :]
    torch.set_num_threads(2)
    cases = draw_cases(n + n // 20 + 5, seed)
    for architecture in ARCHITECTURES:
        for rule in RULES:
            items, worst, other = compare(architecture, rule, cases, n)
            print(f"{architecture:8} {rule:7} {items:5} items  {worst:.1e} nats  {other} with another best", flush=True)


if __name__ == "__main__":
    main()
