"""Log-probabilities of completions in a forward that is changed: by an intervention, or by whatever gives margins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from isp_mech.inference.batches import BatchPlan
from isp_mech.inference.logprobs import completion_logprobs, groups_for
from isp_mech.inference.margin import ContrastPrompt
from isp_mech.inference.prefix_tree import CompletionTokens
from isp_mech.inference.tokenization import Asked
from isp_mech.scoring.completion_logprobs import Case, ClassLogprobs, Reader
from isp_mech.tasks import PairSet, Prompt, Task


class ChangedForward(Protocol):
    """What changes a forward, such as an intervention. It prints as what it does."""

    def logprobs(self, prompts: Sequence[ContrastPrompt], plan: BatchPlan) -> np.ndarray: ...


def changed_logprobs(reader: Reader, source: PairSet | Task, plan: BatchPlan, changed: ChangedForward) -> ClassLogprobs:
    """What ``logprobs_of`` gives, in a forward that is changed; differences between the rules are left out.

    The decision position is the last token that all completions of a prompt have in common (the prompt's last one where
    there is one completion); what stands before it is as in the unchanged forward.
    """
    tokens = reader.read(plan.model)
    prompts, common = [], []
    for case, asked in zip(reader.cases, tokens.asked, strict=True):
        for one in _after_common(case, asked, _prompt(case, source)):
            prompts.append(one)
            common.append(_common_part(one))
    values = changed.logprobs(prompts, plan)
    before = [i for i, one in enumerate(common) if one is not None]
    if before:
        values[before] += _unchanged([one for one in common if one is not None], plan)
    sizes = [len(asked.queries) for asked in tokens.asked]
    by_case = np.split(values, np.cumsum(sizes)[:-1])
    targets = [[query.targets for query in asked.queries] for asked in tokens.asked]
    return ClassLogprobs(list(by_case), targets, [], plan)


def _prompt(case: Case, source: PairSet | Task) -> Prompt:
    """The case's prompt with its roles, which pairs alone have."""
    if isinstance(source, Task):
        return Prompt(case.prompt)
    pair = next(pair for pair in source if pair.id == case.item)
    return next(side.prompt for side in pair.sides() if side.side == case.side)


def _after_common(case: Case, asked: Asked, prompt: Prompt) -> list[ContrastPrompt]:
    """Each completion by itself, from the first token that is not common to all of them."""
    of_each = [query.tokens for query in asked.queries]
    first = of_each[0]
    alike = len(first) if len(of_each) > 1 else asked.queries[0].start
    for other in of_each[1:]:
        both = enumerate(zip(first[:alike], other, strict=False))
        alike = next((i for i, (a, b) in both if a != b), min(alike, len(other)))
    shared = min(alike, *(len(one) - 1 for one in of_each))
    encoding = asked.encodings[0]
    return [ContrastPrompt(case.name, prompt, encoding, query, None, shared) for query in asked.queries]


def _common_part(prompt: ContrastPrompt) -> ContrastPrompt | None:
    """The completion's tokens before the decision, if there are any: no change reaches them."""
    answer = prompt.answer
    if answer.start >= prompt.shared:
        return None
    return replace(prompt, answer=CompletionTokens(answer.tokens[: prompt.shared], answer.start), shared=answer.start)


def _unchanged(prompts: Sequence[ContrastPrompt], plan: BatchPlan) -> np.ndarray:
    return completion_logprobs(groups_for(plan.model, [[prompt.answer] for prompt in prompts]), plan)
