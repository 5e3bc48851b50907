"""The margin of a prompt between two completions, at the level of tokens.

``margin`` = log p(answer) - log p(lure), nats, summed over each completion's tokens, teacher-forced.
The tokens that both completions begin with cancel; what follows them is decided at the **decision
position**, the last token the two have in common (the prompt's last token, unless the completions
begin alike). Lens, attention, direct and total effects are all taken there and at the tokens after.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from isp_mech.errors import InputError
from isp_mech.inference.prefix_tree import CompletionTokens
from isp_mech.inference.tokenization import encode_all
from isp_mech.models import Encoding, Model
from isp_mech.tasks import Prompt

MAX_LOGITS = 1 << 24  # logits in memory at once


@dataclass(frozen=True)
class ContrastPrompt:
    """One prompt, its two completions, and how many tokens they have in common, prompt included.

    Without a lure the "margin" is log p(answer) alone.
    """

    owner: str
    prompt: Prompt
    encoding: Encoding
    answer: CompletionTokens
    lure: CompletionTokens | None
    shared: int

    @property
    def completions(self) -> list[CompletionTokens]:
        """The answer and, where there is one, the lure."""
        return [self.answer] if self.lure is None else [self.answer, self.lure]


def contrast_prompts(
    model: Model, owners: Sequence[str], prompts: Sequence[Prompt], answers: Sequence[str], lures: Sequence[str]
) -> list[ContrastPrompt]:
    """The token-level margin of every prompt; strict rule, errors as in ``encode_all``."""
    asked = encode_all(model, [p.text for p in prompts], list(zip(answers, lures, strict=True)), owners)
    out, problems = [], []
    for owner, prompt, a in zip(owners, prompts, asked, strict=True):
        answer, lure = a.queries
        shared = next(
            (i for i, (x, y) in enumerate(zip(answer.tokens, lure.tokens, strict=False)) if x != y),
            min(len(answer.tokens), len(lure.tokens)),
        )
        if shared < max(answer.start, lure.start):
            problems.append(f"{owner}: before one completion the prompt has other tokens than before the other")
        out.append(ContrastPrompt(owner, prompt, a.encodings[0], answer, lure, shared))
    if problems:
        raise InputError(model.name, problems)
    return out


def at_first_token(prompt: ContrastPrompt) -> ContrastPrompt:
    """The prompt with its completions cut after the first token at which they differ.

    Its margin is the difference of two logits: the whole vocabulary is needed nowhere. Where one completion begins
    with all of the other there is no such token, and the prompt stays as it is.
    """
    lure, cut = prompt.lure, prompt.shared + 1
    if lure is None or min(len(prompt.answer.tokens), len(lure.tokens)) < cut:
        return prompt
    answer, lure = (
        CompletionTokens(tokens.tokens[:cut], min(tokens.start, prompt.shared)) for tokens in (prompt.answer, lure)
    )
    return replace(prompt, answer=answer, lure=lure)


def lengths_of(model: Model, prompts: Sequence[ContrastPrompt]) -> list[int | None]:
    """What ``Batch.length`` is for each of the prompts. ``InputError`` names those whose two completions have not the
    same: what comes before them would be another thing in the one than in the other."""
    rule = model.architecture.length_rule
    if rule is None:
        return [None] * len(prompts)
    both = [[len(tokens.tokens) for tokens in prompt.completions] for prompt in prompts]
    problems = [
        f"{prompt.owner}: {min(n)} and {max(n)} tokens with its completions, and the model's positions depend on the "
        f"length beyond {rule.limit}: expected completions with which it does not differ"
        for prompt, n in zip(prompts, both, strict=True)
        if len(set(map(rule.length, n))) > 1
    ]
    if problems:
        raise InputError(model.name, problems)
    return [rule.length(n[0]) for n in both]


def branches(prompt: ContrastPrompt) -> bool:
    """Whether the completions need two sequences of tokens: what either has before its last token goes on after the
    first that differs."""
    return prompt.lure is not None and min(len(c.tokens) - 1 for c in prompt.completions) > prompt.shared


@dataclass(frozen=True)
class LogprobTerms:
    """The margin of ``n_owners`` prompts as a signed sum of log-probabilities.

    ``rows, nodes`` (n,) are the distinct tokens that predict something; term k is ``sign[k]`` times
    the log-probability of ``token[k]`` after token ``at[k]`` of those, and counts for ``owner[k]``.
    ``node_owner`` (n,) is the owner of each predicting token.
    """

    rows: Int[Tensor, " n"]
    nodes: Int[Tensor, " n"]
    node_owner: Int[Tensor, " n"]
    at: Int[Tensor, " k"]
    token: Int[Tensor, " k"]
    sign: Float[Tensor, " k"]
    owner: Int[Tensor, " k"]
    n_owners: int

    @property
    def weight(self) -> Float[Tensor, " n"]:
        """Sum of signs at each predicting token: zero where the softmax's constant cancels."""
        return torch.zeros(len(self.rows), device=self.sign.device).index_add_(0, self.at, self.sign)

    def copied(self, copies: int, stride: int) -> LogprobTerms:
        """The same terms for every one of ``copies`` copies of each row's nodes, ``stride`` nodes apart.

        Owner ``c * n_owners + o`` is the owner o of copy c.
        """
        at = torch.arange(copies, device=self.rows.device)

        def shifted(x: Tensor, by: int) -> Tensor:
            return (x[None] + by * at[:, None]).flatten()

        return LogprobTerms(
            rows=self.rows.repeat(copies),
            nodes=shifted(self.nodes, stride),
            node_owner=shifted(self.node_owner, self.n_owners),
            at=shifted(self.at, len(self.rows)),
            token=self.token.repeat(copies),
            sign=self.sign.repeat(copies),
            owner=shifted(self.owner, self.n_owners),
            n_owners=copies * self.n_owners,
        )

    def repeated(self, times: int) -> LogprobTerms:
        """The same terms for each of several readings of the predicting tokens, one after the other."""
        return self.copied(times, 0)

    def sum_by_owner(self, values: Float[Tensor, " n *rest"]) -> Float[Tensor, owner * rest]:
        """Values at the predicting tokens, added up for each owner."""
        out = torch.zeros(self.n_owners, *values.shape[1:], dtype=values.dtype, device=values.device)
        return out.index_add_(0, self.node_owner, values)


def answer_prompts(
    model: Model, owners: Sequence[str], prompts: Sequence[Prompt], answers: Sequence[str]
) -> list[ContrastPrompt]:
    """Prompts without a lure: log p(answer) after each."""
    asked = encode_all(model, [p.text for p in prompts], [(a,) for a in answers], owners)
    return [
        ContrastPrompt(owner, prompt, a.encodings[0], a.queries[0], None, a.queries[0].start)
        for owner, prompt, a in zip(owners, prompts, asked, strict=True)
    ]


Placed = tuple[int, Sequence[int], ContrastPrompt, Sequence[int]]


def make_terms(placed: Sequence[Placed], device: str = "cpu") -> LogprobTerms:
    """The terms of the prompts at ``(row, path of the answer, prompt, path of the lure)``, in that order."""
    nodes: dict[tuple[int, int, int], int] = {}
    at: list[int] = []
    token: list[int] = []
    sign: list[float] = []
    owner: list[int] = []
    for n, (row, answer_path, prompt, lure_path) in enumerate(placed):
        for s, query, path in ((1.0, prompt.answer, answer_path), (-1.0, prompt.lure, lure_path)):
            if query is None:
                continue
            for depth in range(max(prompt.shared, query.start), len(query.tokens)):
                at.append(nodes.setdefault((row, path[depth - 1], n), len(nodes)))
                token.append(query.tokens[depth])
                sign.append(s)
                owner.append(n)

    def ints(values) -> Tensor:
        return torch.tensor(list(values), dtype=torch.long, device=device)

    return LogprobTerms(
        rows=ints(row for row, _, _ in nodes),
        nodes=ints(node for _, node, _ in nodes),
        node_owner=ints(n for _, _, n in nodes),
        at=ints(at),
        token=ints(token),
        sign=torch.tensor(sign, device=device),
        owner=ints(owner),
        n_owners=len(placed),
    )


def margin_of(
    model: Model, normed: Float[Tensor, "n d_model"], terms: LogprobTerms, *, gradients: bool = False
) -> Float[Tensor, " owner"]:
    """The margins, given the predicting tokens' residual vectors after the final norm.

    Only the completions' columns of the unembedding are used at decision positions, where the
    softmax's constant cancels; the whole vocabulary only at the tokens after them. With ``gradients`` they
    can be differentiated by ``normed``.
    """
    with torch.set_grad_enabled(gradients):
        values = model.logits_of(normed[terms.at], terms.token) * terms.sign
        out = torch.zeros(terms.n_owners, device=values.device).index_add_(0, terms.owner, values)
        loose = terms.weight.abs() > 0.5
        for some in loose.nonzero()[:, 0].split(max(1, MAX_LOGITS // model.architecture.unembed.weight.shape[0])):
            constant = model.unembed(normed[some]).logsumexp(-1) * terms.weight[some]
            out.index_add_(0, terms.node_owner[some], -constant)
    return out
