"""Activation patching: the margin with something changed at the decision position, or at a role's tokens.

A change replaces what sites write, multiplies it or adds to it, turns the residual stream, or weights attention to
tokens (``changes.py``). Exact, and packed: the prompts run once, and each change, or several together, is a copy of a
prompt's last tokens that runs over its keys and values, from the first layer in which something is changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby

import numpy as np
import torch

from isp_mech.causal.changes import (
    Add,
    Block,
    Change,
    Patch,
    Project,
    Replay,
    Reweight,
    Scale,
    Together,
    Tokens,
    as_tuples,
    changes_attention,
    check_changes,
    check_sites,
    first_layer,
    for_prompts,
)
from isp_mech.causal.copy_edits import CopyTokens, score_biases, site_edits
from isp_mech.causal.prompt_copies import PromptCopies, RunCache, WholePrompts, decision_tokens, run_prompts
from isp_mech.causal.replacements import SiteOutputs
from isp_mech.inference.batches import BatchPlan
from isp_mech.inference.finite import check_finite
from isp_mech.inference.margin import ContrastPrompt, branches, margin_of
from isp_mech.models import ActivationRecord, Batch, Model, RecordSpec
from isp_mech.sites import Site

__all__ = [
    "Add",
    "Block",
    "Change",
    "Patch",
    "Project",
    "Replay",
    "Reweight",
    "Scale",
    "changed_margins",
    "check_sites",
    "patched_margins",
]


def changed_margins(
    prompts: Sequence[ContrastPrompt],
    changes: Sequence[Together],
    plan: BatchPlan,
    *,
    tokens: Tokens | None = None,
    cache: RunCache | None = None,
    doing: str = "replace",
) -> np.ndarray:
    """(prompt, change): the margin of every prompt with each change, or with each tuple of several together.

    Sites are changed at the tokens that a change names, or at the prompt's ``tokens``, or at the decision position;
    attention is changed from the decision position and the completions' tokens. A change of nothing gives the margin
    as it is. With a ``cache``, which belongs to these prompts, those that it has are not run again.
    """
    together, model = as_tuples(changes), plan.model
    check_changes(together, prompts, model)
    decisions = decision_tokens(prompts)
    default = tokens if tokens is not None else [[i] for i in decisions]
    firsts = _first_tokens(together, default, decisions)
    chains = _as_chains(prompts, model)
    out, runs = np.zeros((len(chains), len(changes))), cache or RunCache(0)
    as_copies = model.uses_prefix_caches or changes_attention(together)

    def run(rows: list[int], whole: WholePrompts) -> None:
        own = [chains[i].owner for i in rows]
        here, first = for_prompts(together, own, model.device), [firsts[i] for i in own]
        mine, at = [default[i] for i in own], [decisions[i] for i in own]
        if as_copies:
            once = runs.run_once(rows, whole, first)
            out[rows] = _as_copies(once, here, CopyTokens(first, at, mine, once.t), plan)
        else:
            out[rows] = _each_alone(whole, here, CopyTokens([0] * len(rows), at, mine, whole.batch.ids.shape[1]), plan)

    run_prompts([chain.prompt for chain in chains], run, plan, doing, firsts=[firsts[chain.owner] for chain in chains])
    margins = np.zeros((len(prompts), len(changes)))
    np.add.at(margins, [chain.owner for chain in chains], out * [[chain.sign] for chain in chains])
    check_finite(margins, [prompt.owner for prompt in prompts], model.name)
    return margins


@dataclass(frozen=True)
class _Chain:
    """What is run of prompt number ``owner``: its margin is the sum of these, each times its sign."""

    prompt: ContrastPrompt
    owner: int
    sign: float


def _as_chains(prompts: Sequence[ContrastPrompt], model: Model) -> list[_Chain]:
    """The prompts; for a model that takes chains of tokens alone, completions that branch each by itself."""
    out = []
    for i, prompt in enumerate(prompts):
        if prompt.lure is not None and not model.accepts_trees and branches(prompt):
            out.append(_Chain(replace(prompt, lure=None), i, 1.0))
            out.append(_Chain(replace(prompt, answer=prompt.lure, lure=None), i, -1.0))
        else:
            out.append(_Chain(prompt, i, 1.0))
    return out


def _first_tokens(together: Sequence[tuple[Change, ...]], default: Tokens, decisions: Sequence[int]) -> list[int]:
    """Of each prompt the first token at which some change is made: there its copies begin."""
    at = [c.at for changes in together for c in changes if not isinstance(c, Block | Reweight) and c.sites]
    named = {id(tokens): tokens for tokens in at if tokens is not None and not isinstance(tokens, str)}
    places = [*named.values(), *([default] if any(tokens is None for tokens in at) else [])]
    return [min([decision, *(i for mine in places for i in mine[n])]) for n, decision in enumerate(decisions)]


def patched_margins(
    prompts: Sequence[ContrastPrompt],
    values: SiteOutputs,
    sets: Sequence[frozenset[Site]],
    plan: BatchPlan,
    *,
    tokens: Tokens | None = None,
    cache: RunCache | None = None,
) -> np.ndarray:
    """(prompt, set): the margin with each set of sites replaced by ``values``. Equal sets run once."""
    place = {these: i for i, these in enumerate(dict.fromkeys(sets))}
    measured = changed_margins(prompts, [Patch(these, values) for these in place], plan, tokens=tokens, cache=cache)
    return measured[:, [place[these] for these in sets]]


def _as_copies(
    once: PromptCopies, together: Sequence[tuple[Change, ...]], where: CopyTokens, plan: BatchPlan
) -> np.ndarray:
    """(prompt, change): margins; changes that begin in one layer are copies in one forward."""
    out = np.tile(once.margins[:, None], (1, len(together)))
    n_layers = plan.model.architecture.n_layers
    begin = [first_layer(changes, n_layers) for changes in together]

    def run(some: Sequence[int], layer: int) -> None:
        out[:, list(some)] = _run_copies(once, [together[i] for i in some], where, layer).T

    for layer, group in groupby(sorted(range(len(together)), key=begin.__getitem__), key=begin.__getitem__):
        left = list(group) if layer < n_layers else []
        while left:
            some = left[: once.at_once(plan)]
            if plan.attempt(partial(run, some, layer), len(some), once.n * once.t):
                left = left[len(some) :]
    return out


def _run_copies(
    once: PromptCopies, together: Sequence[tuple[Change, ...]], where: CopyTokens, layer: int
) -> np.ndarray:
    """(change, prompt): margins, each of them in a copy of its own, from ``layer`` on."""
    device, n_heads, prefix = once.model.device, once.model.architecture.n_heads, once.prefix
    if changes_attention(together):
        pos = prefix.visible_prefix.shape[1]
        prefix = replace(prefix, score_bias=score_biases(together, where, pos, n_heads, device))
    edits = site_edits(together, where, once.written, n_heads, device)
    return once.run(len(together), edits, first_layer=layer, prefix=prefix).cpu().numpy()


def _each_alone(
    whole: WholePrompts, together: Sequence[tuple[Change, ...]], where: CopyTokens, plan: BatchPlan
) -> np.ndarray:
    """(prompt, change): margins by one forward for each change, for models that do not accept custom masks."""
    model, terms, n_layers = plan.model, whole.terms(), plan.model.architecture.n_layers
    out = np.zeros((len(whole.prompts), len(together)))
    replayed = any(isinstance(c, Replay) for changes in together for c in changes)
    own = written_by(model, whole.batch, where.t) if replayed else None
    for i, changes in enumerate(together):
        touched = first_layer(changes, n_layers) < n_layers
        edits = site_edits([changes], where, own, model.architecture.n_heads, model.device) if touched else []
        states = model.forward(whole.batch, edits=edits).hidden
        out[:, i] = margin_of(model, states[terms.rows, terms.nodes], terms).cpu().numpy()
    return out


def written_by(model: Model, batch: Batch, t: int) -> ActivationRecord:
    """What heads and MLPs write unchanged at the first ``t`` tokens of every row (row, t, ..)."""
    n = len(batch.ids)
    rows = torch.arange(n, device=model.device).repeat_interleave(t)
    nodes = torch.arange(t, device=model.device).repeat(n)
    record = model.forward(batch, record=RecordSpec(rows, nodes)).record
    heads, mlp = ([x.unflatten(0, (n, t)) for x in kept] for kept in (record.heads, record.mlp))
    return ActivationRecord(heads=heads, mlp=mlp)
