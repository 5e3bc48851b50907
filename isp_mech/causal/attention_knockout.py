"""Interventions at the decision position: outputs scaled, and attention to a role taken away.

``scale_sites`` multiplies what sites write by alpha (Yu et al. 2023, arXiv 2310.15910): 0 takes it away, 1 leaves
it, 2 doubles it. ``knock_out`` lets nothing flow by attention from a role's tokens to the decision position (and to
the completion's tokens after it), in all layers or in one (Geva et al. 2023, arXiv 2304.14767). Both take one
forward of the prompt and one of a few tokens for each intervention.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from isp_mech.causal.activation_patching import check_sets, prompts_to_copy, run_once, terms_of_batch
from isp_mech.causal.replacements import role_tokens
from isp_mech.errors import InputError
from isp_mech.inference.batches import check_batch_size
from isp_mech.inference.contrast_prompts import SIDES, prepare, run_of
from isp_mech.inference.margin import ContrastPrompt, margin_of
from isp_mech.inference.tokenization import OTHER, role_names
from isp_mech.models import ActivationEdit, Batch, Model, Models, members
from isp_mech.sites import Site
from isp_mech.stats import benjamini_hochberg, bootstrap_interval, sign_flip_p
from isp_mech.tables import Table, concat, table
from isp_mech.tasks import PairSet

ALPHAS = (0.0, 0.5, 1.0, 2.0)


def scale_sites(
    sites: Iterable[Site],
    pairs: PairSet,
    models: Models,
    *,
    alphas: Sequence[float] = ALPHAS,
    batch_size: int | str = "auto",
    seed: int = 0,
) -> Table:
    """Table ``interventions``: accuracy and margin on both sides with the sites' outputs multiplied by each alpha.

    The sites (heads and MLPs) are scaled together, each as it comes out in the run in which those before it are
    scaled already. ``InputError`` for no sites, sites a model has not, and an alpha that is no finite number.
    """
    chosen = tuple(sorted(set(sites), key=lambda s: (s.layer, s.kind, s.head or 0)))
    odd = [f"alpha {a!r}: expected a finite number" for a in alphas if not np.isfinite(a)]
    if odd or not chosen or not alphas:
        raise InputError("scale", odd or [f"{len(chosen)} sites, {len(alphas)} alphas: expected one or more of each"])
    check_batch_size(batch_size)
    place, parts = " ".join(map(str, chosen)), []
    for model in members(models):
        check_sets([frozenset(chosen)], model)
        rows = []
        for side in SIDES:
            forks = prepare(model, pairs, (side,)).forks
            before, after = _scaled(model, forks, chosen, alphas, batch_size)
            rows += [
                _row(side, before, after[:, i], seed, intervention="scale", place=place, layers="", alpha=alpha)
                for i, alpha in enumerate(alphas)
            ]
        parts.append(_table(model, pairs, rows, "scale: sites' outputs multiplied", seed))
    return _join(parts)


def knock_out(
    pairs: PairSet,
    models: Models,
    *,
    roles: Sequence[str] | None = None,
    each_layer: bool = False,
    batch_size: int | str = "auto",
    seed: int = 0,
) -> Table:
    """Table ``interventions``: accuracy and margin on the conflict side without attention to each role.

    ``roles`` defaults to those that every conflict prompt has, ``other`` (all tokens of no role) left out. With
    ``each_layer`` attention is also taken away in one layer at a time. ``InputError`` for a role that a prompt has
    not, and for a model whose attention takes no mask of ours.
    """
    check_batch_size(batch_size)
    found = [set(role_names([pair.conflict])) - {OTHER} for pair in pairs]
    of_all = [role for role in role_names([pairs[0].conflict]) if all(role in of_pair for of_pair in found)]
    asked = list(roles) if roles is not None else of_all
    if not asked:
        raise InputError("knockout", ["no role that every conflict prompt has: expected one or more"])
    parts = []
    for model in members(models):
        if not model.accepts_custom_masks:
            raise InputError(model.name, ["knockout needs an attention that takes a mask"])
        forks = prepare(model, pairs, ("conflict",)).forks
        layers = range(model.architecture.n_layers)
        windows = [frozenset(layers), *([frozenset({layer}) for layer in layers] if each_layer else [])]
        rows = []
        before, after = _without_attention(
            model, forks, [role_tokens(forks, role) for role in asked], windows, batch_size
        )
        for r, role in enumerate(asked):
            rows += [
                _row(
                    "conflict",
                    before,
                    after[r, :, i],
                    seed,
                    intervention="knockout",
                    place=role,
                    layers=name,
                    alpha=np.nan,
                )
                for i, name in enumerate(["all", *map(str, layers)][: len(windows)])
            ]
        parts.append(_table(model, pairs, rows, "knockout: no attention from the decision position to a role", seed))
    return _join(parts)


def _scaled(
    model: Model, forks: Sequence[ContrastPrompt], sites: Sequence[Site], alphas: Sequence[float], batch_size: int | str
) -> tuple[np.ndarray, np.ndarray]:
    """(pair,) and (pair, alpha): margins as they are, and with the sites multiplied; the prompts run once."""
    before, after = np.zeros(len(forks)), np.zeros((len(forks), len(alphas)))
    start = min(site.layer for site in sites)
    for rows, batch, nodes in prompts_to_copy(model, forks, batch_size, "scale", False):
        here = [forks[i] for i in rows]
        row = torch.arange(len(here), device=model.device)
        if model.accepts_custom_masks:
            trunk, copy, terms, before[rows] = run_once(model, batch, here, nodes)
            t = copy.ids.shape[1]
            edits = [_scaling(s, a, row, torch.full_like(row, c * t)) for c, a in enumerate(alphas) for s in sites]
            copies = Batch(copy.ids.repeat(1, len(alphas)), copy.depth.repeat(1, len(alphas)))
            hidden = model.forward(copies, prefix=trunk, first_layer=start, edits=edits).hidden
            terms = terms.copied(len(alphas), t)
            margins = margin_of(model, hidden[terms.rows, terms.nodes], terms).view(len(alphas), len(here))
            after[rows] = margins.T.cpu().numpy()
            continue
        at, terms = torch.tensor([fork.shared - 1 for fork in here]), terms_of_batch(model, here, nodes)
        for into, alpha in ((before, 1.0), *((after[:, i], alpha) for i, alpha in enumerate(alphas))):
            edits = [_scaling(site, alpha, row, at.to(row.device)) for site in sites]
            hidden = model.forward(batch, edits=edits).hidden
            into[rows] = margin_of(model, hidden[terms.rows, terms.nodes], terms).cpu().numpy()
    after[:, [alpha == 1 for alpha in alphas]] = before[:, None]  # nothing is changed: not even by rounding
    return before, after


def _scaling(site: Site, alpha: float, rows: torch.Tensor, nodes: torch.Tensor) -> ActivationEdit:
    heads = None if site.head is None else torch.full_like(rows, site.head)
    return ActivationEdit(
        site.layer, rows, nodes, heads, torch.full((len(rows), 1), alpha, device=rows.device), scale=True
    )


def _without_attention(
    model: Model,
    forks: Sequence[ContrastPrompt],
    tokens: Sequence[Sequence[Sequence[int]]],
    windows: Sequence[frozenset[int]],
    batch_size: int | str,
) -> tuple[np.ndarray, np.ndarray]:
    """(pair,) and (role, pair, window): margins as they are, and without attention to a role's tokens (which are
    given by role and pair) in a window's layers. The prompts run once."""
    before, after = np.zeros(len(forks)), np.zeros((len(tokens), len(forks), len(windows)))
    for rows, batch, nodes in prompts_to_copy(model, forks, batch_size, "knockout", False):
        here = [forks[i] for i in rows]
        trunk, copy, terms, before[rows] = run_once(model, batch, here, nodes)
        for r, of_role in enumerate(tokens):
            hidden_tokens = torch.zeros_like(trunk.visible_prefix)
            for row, i in enumerate(rows):
                hidden_tokens[row, [token for token in of_role[i] if token < here[row].shared - 1]] = True
            for w, window in enumerate(windows):
                blind = replace(trunk, blocked=hidden_tokens, blocked_layers=window)
                states = model.forward(copy, prefix=blind, first_layer=min(window)).hidden
                after[r, rows, w] = margin_of(model, states[terms.rows, terms.nodes], terms).cpu().numpy()
    return before, after


def _row(
    side: str,
    before: np.ndarray,
    after: np.ndarray,
    seed: int,
    *,
    intervention: str,
    place: str,
    layers: str,
    alpha: float,
) -> dict[str, Any]:
    """``before`` and ``after`` are margins (answer less lure) on ``side``, where the plain prompt asks for the lure."""
    right = (after > 0) if side == "conflict" else (after < 0)
    values = np.stack([right.astype(float), after, before - after], 1)
    nothing = (np.full(3, np.nan),) * 2
    lo, hi = bootstrap_interval(values, seed=seed) if len(values) > 1 else nothing
    row: dict[str, Any] = {
        "side": side,
        "intervention": intervention,
        "place": place,
        "layers": layers,
        "alpha": alpha,
        "p": float(sign_flip_p(values[:, 2:], seed=seed)[0]) if len(values) > 1 else np.nan,
        "q": np.nan,
        "n": len(after),
    }
    for i, name in enumerate(("accuracy", "margin", "effect")):
        row |= {name: values[:, i].mean(), f"{name}_lo": lo[i], f"{name}_hi": hi[i]}
    return row


def _table(model: Model, pairs: PairSet, rows: Sequence[dict[str, Any]], method: str, seed: int) -> Table:
    run = run_of(
        model,
        task=pairs.name,
        method=method,
        seed=seed,
        settings={"n_pairs": len(pairs)},
    )
    head = {"model": model.name, "n_params": model.n_params, "task": pairs.name}
    return table("interventions", [{**head, **row} for row in rows], run)


def _join(parts: Sequence[Table]) -> Table:
    joined = concat(list(parts))
    return replace(joined, frame=joined.frame.assign(q=benjamini_hochberg(joined.frame["p"].to_numpy())))
