"""Neutral text: sentences in which nothing is at stake, on which the cost of a change is measured."""

from __future__ import annotations

import random

from isp_mech.contrasts.quote_repetition import unfamiliar_sentence
from isp_mech.inference.margin import ContrastPrompt, answer_prompts
from isp_mech.models import Model
from isp_mech.tasks import Prompt


def neutral_prompts(model: Model, seed: int, n: int) -> list[ContrastPrompt]:
    """log p of the last word of ``n`` unfamiliar sentences: text that nobody says in a chat."""
    rng = random.Random(f"neutral text {seed}")
    texts = [unfamiliar_sentence(rng).rsplit(" ", 1) for _ in range(n)]
    prompts, words = [Prompt(text) for text, _ in texts], [f" {word}" for _, word in texts]
    return answer_prompts(model.with_chat(False), [f"neutral {i}" for i in range(n)], prompts, words)
