"""Prompts that run once, and copies of their last tokens that run over them, each with a change of its own.

The copies of a prompt begin at the decision position, or at another token, and end with its completions. What prompts
begin with alike runs once for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import takewhile

import numpy as np
import torch
from torch import Tensor

from isp_mech.inference.batches import BatchPlan, make_batch
from isp_mech.inference.finite import check_finite
from isp_mech.inference.margin import ContrastPrompt, LogprobTerms, lengths_of, make_terms, margin_of
from isp_mech.inference.prefix_tree import PrefixTree, build_trees
from isp_mech.models import ActivationEdit, ActivationRecord, Batch, Model, PrefixCache, RecordSpec


@dataclass(frozen=True)
class PromptPaths:
    """Where a prompt stands in a batch: its row, and the nodes of the prompt with the answer, and with the lure."""

    row: int
    answer: tuple[int, ...]
    lure: tuple[int, ...]


@dataclass(frozen=True)
class WholePrompts:
    """Prompts with their completions in one batch: in trees that they share, or, for a model that does not accept
    custom masks, a row each. They are put there when first asked for: of prompts that were run, never."""

    model: Model
    prompts: Sequence[ContrastPrompt]

    @property
    def batch(self) -> Batch:
        return self._placed[0]

    @property
    def paths(self) -> Sequence[PromptPaths]:
        return self._placed[1]

    @cached_property
    def _placed(self) -> tuple[Batch, list[PromptPaths]]:
        trees: list[PrefixTree] = []
        paths = []
        for some in [self.prompts] if self.model.uses_prefix_caches else [[prompt] for prompt in self.prompts]:
            lengths = lengths_of(self.model, some)
            made, places = build_trees([prompt.completions for prompt in some], lengths=lengths)
            for at in places:
                lure = at[1].path if len(at) > 1 else ()
                paths.append(PromptPaths(len(trees) + at[0].tree, at[0].path, lure))
            trees += made
        return make_batch(trees), paths

    def terms(self) -> LogprobTerms:
        """The margins' terms, at the tokens of the batch itself."""
        placed = [(at.row, at.answer, prompt, at.lure) for prompt, at in zip(self.prompts, self.paths, strict=True)]
        return make_terms(placed, self.model.device)


def decision_tokens(prompts: Sequence[ContrastPrompt]) -> list[int]:
    """The decision position of each prompt: the last token that its completions have in common."""
    return [prompt.shared - 1 for prompt in prompts]


def run_prompts(
    prompts: Sequence[ContrastPrompt],
    run: Callable[[list[int], WholePrompts], None],
    plan: BatchPlan,
    doing: str,
    *,
    firsts: Sequence[int] | None = None,
) -> None:
    """Calls ``run`` with the numbers of some prompts and those prompts in a batch, until all were run.

    The prompts of a batch have copies of equally many tokens, so that none are padded: copies begin at the
    decision position, or at the token ``firsts`` of each prompt.
    """
    sizes = _node_counts(plan.model, prompts)
    firsts = firsts if firsts is not None else decision_tokens(prompts)
    lengths = lengths_of(plan.model, prompts)
    alike: dict[tuple[int | None, int], list[int]] = {}
    for i, (first, size) in enumerate(zip(firsts, sizes, strict=True)):
        alike.setdefault((lengths[i], size - first), []).append(i)
    order = [i for group in alike.values() for i in sorted(group, key=lambda i: prompts[i].answer.tokens)]

    def take(left: Sequence[int]) -> tuple[int, int]:
        own = lengths[left[0]], sizes[left[0]] - firsts[left[0]]
        some = left[: plan.rows or plan.keeping]
        group = list(takewhile(lambda i: (lengths[i], sizes[i] - firsts[i]) == own, some))
        longest = np.maximum.accumulate([sizes[i] for i in group])
        n = len(group)
        if plan.rows is None:
            n = max(1, int((longest * np.arange(1, n + 1) <= plan.keeping).sum()))
        return n, int(longest[n - 1])

    plan.run(
        order,
        lambda rows: run(list(rows), WholePrompts(plan.model, [prompts[i] for i in rows])),
        take=take,
        doing=doing,
    )


def _node_counts(model: Model, prompts: Sequence[ContrastPrompt]) -> list[int]:
    """How many nodes each prompt with its completions has."""
    sizes = []
    for prompt in prompts:
        lengths = [len(tokens.tokens) - 1 for tokens in prompt.completions]
        common = min(prompt.shared, *lengths) if len(lengths) > 1 else 0
        sizes.append(sum(lengths) - common)
    return sizes


@dataclass(frozen=True)
class PromptCopies:
    """Prompts that were run once, and one copy of each one's last tokens, which further copies are made from.

    ``terms`` are those of one copy; ``margins`` (prompt,) those of the prompts as they are, nats. ``written`` is what
    heads and MLPs write at the copy's tokens (prompt, t, ..).
    """

    model: Model
    prefix: PrefixCache
    copy: Batch
    terms: LogprobTerms
    margins: np.ndarray
    written: ActivationRecord

    @property
    def n_bytes(self) -> int:
        """Memory that the prefix takes."""
        kept = (*self.prefix.keys, *self.prefix.values, *self.prefix.resid, *self.written.heads, *self.written.mlp)
        return sum(x.numel() * x.element_size() for x in kept)

    @property
    def n(self) -> int:
        """How many prompts."""
        return len(self.copy.ids)

    @property
    def t(self) -> int:
        """Tokens of one copy."""
        return self.copy.ids.shape[1]

    def at_once(self, plan: BatchPlan) -> int:
        """How many copies one forward takes."""
        return plan.copies(self.n, self.t, self.prefix.visible_prefix.shape[1])

    def attempt(self, plan: BatchPlan, run: Callable[[int], None]) -> None:
        """Calls ``run`` with how many copies one forward takes, and again, with fewer, where memory ran out."""
        while not plan.attempt(partial(run, at_once := self.at_once(plan)), at_once, self.n * self.t):
            pass

    def run(
        self,
        copies: int,
        edits: Sequence[ActivationEdit],
        *,
        first_layer: int = 0,
        prefix: PrefixCache | None = None,
        gradients: bool = False,
    ) -> Tensor:
        """(copy, prompt): the margins of ``copies`` copies with ``edits``, from ``first_layer`` on."""
        batch = replace(self.copy, ids=self.copy.ids.repeat(1, copies), depth=self.copy.depth.repeat(1, copies))
        terms = self.terms.copied(copies, self.t)
        states = self.model.forward(
            batch, prefix=prefix or self.prefix, edits=edits, first_layer=first_layer, gradients=gradients
        ).hidden
        with torch.set_grad_enabled(gradients):
            margins = margin_of(self.model, states[terms.rows, terms.nodes], terms, gradients=gradients)
            return margins.view(copies, self.n)


def run_once(whole: WholePrompts, firsts: Sequence[int] | None = None) -> PromptCopies:
    """Runs the prompts as they are and keeps what copies run over.

    The copies of all prompts have equally many tokens: the decision position, or all from ``firsts`` on, and then
    the completions' tokens.
    """
    model, batch = whole.model, whole.batch
    first = list(firsts) if firsts is not None else decision_tokens(whole.prompts)
    index = torch.tensor(
        [
            [path.answer[at], *sorted({*path.answer[at + 1 :], *path.lure[at + 1 :]})]
            for at, path in zip(first, whole.paths, strict=True)
        ]
    )
    (n, t), rows = index.shape, torch.tensor([path.row for path in whole.paths])
    row = rows[:, None].expand(-1, t)
    spec = RecordSpec(row.flatten().to(model.device), index.flatten().to(model.device), keys=True)
    forward = model.forward(batch, record=spec)
    visible = index[:, :, None] >= index[:, None, :]  # in a chain
    if batch.visible is not None:
        visible &= batch.visible[rows[:, None, None], index[:, :, None], index[:, None, :]]
    recorded = forward.record
    resid, heads, mlp = (
        [x.unflatten(0, (n, t)) for x in kept] for kept in (recorded.resid, recorded.heads, recorded.mlp)
    )
    before = [path.answer[:at] for at, path in zip(first, whole.paths, strict=True)]
    prefix = PrefixCache.along(rows, before, recorded, batch, visible[:, None], resid)
    place = [{node: i for i, node in enumerate(mine)} for mine in index.tolist()]
    placed = [
        (r, [place[r].get(i, 0) for i in path.answer], prompt, [place[r].get(i, 0) for i in path.lure])
        for r, (prompt, path) in enumerate(zip(whole.prompts, whole.paths, strict=True))
    ]
    terms = make_terms(placed, model.device)
    own, at_nodes = (x.to(model.device)[terms.rows, terms.nodes] for x in (row, index))
    margins = margin_of(model, forward.hidden[own, at_nodes], terms).cpu().numpy()
    check_finite(margins, [prompt.owner for prompt in whole.prompts], model.name)
    copy = Batch(batch.ids[row, index], batch.depth[row, index], length=batch.length)
    written = ActivationRecord(heads=heads, mlp=mlp)
    return PromptCopies(model, prefix, copy, terms, margins, written)


@dataclass
class RunCache:
    """Prompts that were run, by their numbers among those of one ``changed_margins`` after the other and by the tokens
    at which their copies begin, kept for the next changes while ``budget`` bytes hold them."""

    budget: int
    kept: dict[tuple[tuple[int, ...], tuple[int, ...]], PromptCopies] = field(default_factory=dict)

    def run_once(self, rows: Sequence[int], whole: WholePrompts, firsts: Sequence[int]) -> PromptCopies:
        """What ``run_once`` gives, run only if it is not kept."""
        key = tuple(rows), tuple(firsts)
        if key in self.kept:
            return self.kept[key]
        made = run_once(whole, firsts)
        if made.n_bytes <= self.budget:
            self.budget -= made.n_bytes
            self.kept[key] = made
        return made
