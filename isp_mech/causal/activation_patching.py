"""Activation patching: the margin with something changed at the decision position, or at a role's tokens.

A change replaces what sites write (``Patch``), multiplies it (``Scale``), or blocks attention to tokens (``Block``).
Exact, and packed: the prompts run once, and each change is a copy of a prompt's last tokens that runs over its keys
and values, from the first layer in which something is changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from isp_mech.causal.prompt_copies import PromptCopies, RunCache, WholePrompts, decision_tokens, run_prompts
from isp_mech.causal.replacements import SiteOutputs
from isp_mech.errors import InputError
from isp_mech.inference.batches import BatchPlan
from isp_mech.inference.margin import ContrastPrompt, margin_of
from isp_mech.models import ActivationEdit, Model, PrefixCache
from isp_mech.sites import Site, all_sites

Tokens = Sequence[Sequence[int]]  # of each prompt, those at which sites are changed


@dataclass(frozen=True, eq=False)
class Patch:
    """The sites' outputs become ``values``, those of the same prompt. No sites: nothing is changed."""

    sites: frozenset[Site]
    values: SiteOutputs


@dataclass(frozen=True, eq=False)
class Scale:
    """The sites' outputs are multiplied by ``alpha``, each as it comes out with those before it scaled already."""

    sites: frozenset[Site]
    alpha: float


@dataclass(frozen=True, eq=False)
class Block:
    """No attention to each prompt's ``tokens``, which stand before the decision position, in ``layers``."""

    tokens: Tokens
    layers: frozenset[int]


Change = Patch | Scale | Block


def changed_margins(
    prompts: Sequence[ContrastPrompt],
    changes: Sequence[Change],
    plan: BatchPlan,
    *,
    tokens: Tokens | None = None,
    cache: RunCache | None = None,
    doing: str = "replace",
) -> np.ndarray:
    """(prompt, change): the margin of every prompt with each change, at the decision position or at its ``tokens``.

    Sites are changed at these tokens alone; attention is blocked from the decision position and the completions'
    tokens. A change of nothing gives the margin as it is. With a ``cache``, which belongs to these prompts and tokens,
    prompts that it has are not run again.
    """
    _check_changes(changes, plan.model)
    at = tokens if tokens is not None else [[i] for i in decision_tokens(prompts)]
    out, runs = np.zeros((len(prompts), len(changes))), cache or RunCache(0)
    as_copies = plan.model.uses_prefix_caches or any(isinstance(change, Block) for change in changes)

    def run(rows: list[int], whole: WholePrompts) -> None:
        here, mine = [_of_rows(change, rows, plan.model.device) for change in changes], [at[i] for i in rows]
        if as_copies:
            out[rows] = _as_copies(runs.run_once(rows, whole, [min(t) for t in mine]), here, mine, plan)
        else:
            out[rows] = _each_alone(whole, here, mine, plan)

    run_prompts(prompts, run, plan, doing, firsts=[min(mine) for mine in at])
    return out


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


def check_sites(sites: Sequence[Site], model: Model, *, stream: bool = False) -> None:
    """``InputError`` that names every site that is no head or MLP of the model (nor, with ``stream``, its stream)."""
    shape = model.architecture
    known = set(all_sites(shape.n_layers, shape.n_heads, stream=stream))
    unknown = sorted({str(site) for site in sites if site not in known})
    if unknown:
        expected = f"expected a head or MLP of {shape.n_layers} layers x {shape.n_heads} heads"
        raise InputError(model.name, [f"site {site}: {expected}" for site in unknown])


def _check_changes(changes: Sequence[Change], model: Model) -> None:
    for stream in (False, True):
        sites = {
            site
            for change in changes
            if not isinstance(change, Block) and stream == (isinstance(change, Patch) and change.values.has_stream)
            for site in change.sites
        }
        check_sites(sorted(sites, key=str), model, stream=stream)
    if any(isinstance(change, Block) for change in changes) and not model.accepts_custom_masks:
        raise InputError(model.name, ["blocking attention needs an attention that accepts custom masks"])


def _of_rows(change: Change, rows: Sequence[int], device: str) -> Change:
    """The change for some of the prompts."""
    if isinstance(change, Patch):
        return replace(change, values=change.values.of(rows, device)) if change.sites else change
    return change if isinstance(change, Scale) else replace(change, tokens=[change.tokens[i] for i in rows])


def _first_layer(change: Change, n_layers: int) -> int:
    """The first layer that a change touches; ``n_layers`` where it changes nothing."""
    if isinstance(change, Block):
        return min(change.layers, default=n_layers)
    if isinstance(change, Scale) and change.alpha == 1:
        return n_layers
    return min((site.layer for site in change.sites), default=n_layers)


def _as_copies(once: PromptCopies, changes: Sequence[Change], tokens: Tokens, plan: BatchPlan) -> np.ndarray:
    """(prompt, change): margins; changes that begin in one layer are copies in one forward."""
    offsets = [[i - min(mine) for i in mine] for mine in tokens]
    out = np.tile(once.margins[:, None], (1, len(changes)))
    n_layers = plan.model.architecture.n_layers

    def key(i: int) -> tuple[int, int]:  # a block of attention is one forward's, for all of its copies
        return _first_layer(changes[i], n_layers), i if isinstance(changes[i], Block) else -1

    def run(some: Sequence[int], first_layer: int) -> None:
        here = [changes[i] for i in some]
        out[:, list(some)] = _run_copies(once, here, offsets, first_layer).T

    for (first_layer, _), group in groupby(sorted(range(len(changes)), key=key), key=key):
        left = list(group) if first_layer < n_layers else []
        while left:
            some = left[: once.at_once(plan)]
            if plan.attempt(partial(run, some, first_layer), len(some), once.n * once.t):
                left = left[len(some) :]
    return out


def _run_copies(once: PromptCopies, changes: Sequence[Change], offsets: Tokens, first_layer: int) -> np.ndarray:
    """(change, prompt): margins, each change in a copy of its own."""
    prefix = once.prefix
    if isinstance(changes[0], Block):
        prefix = replace(prefix, blocked=_mask(changes[0].tokens, prefix), blocked_layers=changes[0].layers)
    edits = site_edits(changes, offsets, once.t, once.model.device)
    return once.run(len(changes), edits, first_layer=first_layer, prefix=prefix).cpu().numpy()


def _mask(tokens: Tokens, prefix: PrefixCache) -> Bool[Tensor, "row pos"]:
    blocked = torch.zeros_like(prefix.visible_prefix)
    for row, mine in enumerate(tokens):
        blocked[row, list(mine)] = True
    return blocked


def site_edits(changes: Sequence[Change], offsets: Tokens, t: int, device: str) -> list[ActivationEdit]:
    """What changes the sites: in copy c, of ``t`` tokens, at every row's ``offsets``, as ``changes[c]`` says."""
    row = torch.tensor([r for r, mine in enumerate(offsets) for _ in mine], device=device)
    token = torch.tensor([i for mine in offsets for i in mine], device=device)
    places: dict[tuple[int, str, int], list[tuple[int, Site]]] = {}  # copies and sites, by layer, kind and values
    values: dict[int, SiteOutputs] = {}
    for copy, change in enumerate(changes):
        if isinstance(change, Block):
            continue
        source = id(change.values) if isinstance(change, Patch) else -1
        if isinstance(change, Patch):
            values[source] = change.values
        for site in sorted(change.sites, key=str):
            places.setdefault((site.layer, site.kind, source), []).append((copy, site))
    edits = []
    for (layer, kind, source), at in sorted(places.items(), key=lambda one: one[0][:2]):
        copies = torch.tensor([c for c, _ in at], device=device)
        head = torch.tensor([site.head for _, site in at], device=device) if kind == "head" else None
        rows = row.repeat_interleave(len(at))
        nodes = (token[:, None] + t * copies).flatten()
        heads = None if head is None else head.repeat(len(row))
        if source == -1:
            alpha = torch.tensor([[changes[c].alpha] for c, _ in at], device=device)  # type: ignore[union-attr]
            edits.append(ActivationEdit(layer, rows, nodes, heads, alpha.repeat(len(row), 1), scale=True))
        elif head is not None:
            new = values[source].heads[:, layer, head][row].flatten(0, 1)
            edits.append(ActivationEdit(layer, rows, nodes, heads, new))
        else:
            of_kind = values[source].mlps if kind == "mlp" else values[source].stream
            assert of_kind is not None
            edits.append(ActivationEdit(layer, rows, nodes, None, of_kind[rows, layer], stream=kind == "resid"))
    return edits


def _each_alone(whole: WholePrompts, changes: Sequence[Change], tokens: Tokens, plan: BatchPlan) -> np.ndarray:
    """(prompt, change): margins by one forward for each change, for models that do not accept custom masks."""
    model, terms = plan.model, whole.terms()
    out = np.zeros((len(whole.prompts), len(changes)))
    for i, change in enumerate(changes):
        states = model.forward(whole.batch, edits=site_edits([change], tokens, 0, model.device)).hidden
        out[:, i] = margin_of(model, states[terms.rows, terms.nodes], terms).cpu().numpy()
    return out
