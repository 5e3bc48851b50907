"""What is run and watched: both completions of every pair after its prompts, as trees."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from isp_mech.errors import InputError
from isp_mech.inference.margin import ContrastPrompt, LogprobTerms, contrast_prompts, make_terms
from isp_mech.inference.prefix_tree import PrefixTree, TreePath, build_trees
from isp_mech.inference.tokenization import token_roles
from isp_mech.models import ActivationRecord, Batch, Model, RecordSpec
from isp_mech.tables import Run, make_run
from isp_mech.tasks import PairSet

SIDES = ("conflict", "plain")


@dataclass(frozen=True)
class Prepared:
    """The forks of pairs and sides, planted in trees: ``owners[t]`` are the forks of tree t."""

    forks: list[ContrastPrompt]
    sides: list[str]
    pairs: list[str]
    places: list[list[TreePath]]
    trees: list[PrefixTree]
    owners: list[list[int]]


def prepare(model: Model, pairs: PairSet, sides: Sequence[str] = SIDES) -> Prepared:
    """Both completions of every pair after its prompts, as trees. The margin is answer less lure on every side."""
    asked = [(pair, side, getattr(pair, side)) for pair in pairs for side in sides]
    made = contrast_prompts(
        model,
        [f"{pair.id} ({side})" for pair, side, _ in asked],
        [prompt for _, _, prompt in asked],
        [pair.answer for pair, _, _ in asked],
        [pair.lure for pair, _, _ in asked],
    )
    trees, places = build_trees(
        [[q for q in (f.answer, f.lure) if q is not None] for f in made], share=model.accepts_trees
    )
    apart = [f.owner for f, at in zip(made, places, strict=True) if len({place.tree for place in at}) > 1]
    if apart:  # chains, for a model that takes no mask, hold completions of one token
        raise InputError(
            model.name, [f"{o}: completions of several tokens need an attention that takes a mask" for o in apart]
        )
    owners: list[list[int]] = [[] for _ in trees]
    for i, at in enumerate(places):
        owners[at[0].tree].append(i)
    return Prepared(made, [s for _, s, _ in asked], [p.id for p, _, _ in asked], places, trees, owners)


@dataclass(frozen=True)
class Look:
    """What to keep of one batch: ``owners`` are the numbers of the forks in it, in the terms' order."""

    owners: list[int]
    terms: LogprobTerms
    watch: RecordSpec


def watch_batch(
    model: Model, prepared: Prepared, rows: Sequence[int], batch: Batch, names: Sequence[str] | None = None
) -> Look:
    """LogprobTerms of the forks in the trees ``rows``, and a watch over their predicting tokens and, with the
    roles' ``names``, over attention from the decision position."""
    owners, placed, queries = [], [], []
    for row, t in enumerate(rows):
        for i in prepared.owners[t]:
            answer, lure = prepared.places[i]
            fork = prepared.forks[i]
            owners.append(i)
            placed.append((row, answer.path, fork, lure.path))
            queries.append((row, answer.path[fork.shared - 1]))
    terms = make_terms(placed, model.device)
    if names is None:
        return Look(owners, terms, RecordSpec(terms.rows, terms.nodes))
    roles = np.zeros((len(owners), batch.ids.shape[1], len(names)), dtype=np.float32)
    for q, (_, path, fork, _) in enumerate(placed):
        of_token = token_roles(fork.encoding, fork.prompt, names)
        roles[q, list(path), of_token[: len(path)]] = 1
    at = torch.tensor(queries, device=model.device)
    return Look(
        owners, terms, RecordSpec(terms.rows, terms.nodes, at[:, 0], at[:, 1], torch.from_numpy(roles).to(model.device))
    )


def residuals(record: ActivationRecord) -> list[Tensor]:
    """The residual stream (n, d_model) after the embedding and after every attention and MLP."""
    assert record.final is not None
    stream = [record.resid[0]]
    for layer, before in enumerate(record.resid):
        after = record.resid[layer + 1] if layer + 1 < len(record.resid) else record.final
        stream += [before + record.attn[layer], after]
    return stream


def alone_terms(prepared: Prepared, rows: Sequence[int], device: str) -> LogprobTerms:
    """LogprobTerms of each completion by itself, for the forks in the trees ``rows``: owner 2 i is the answer of
    the i-th fork, owner 2 i + 1 its lure, and an owner's "margin" is its log-probability."""
    placed = []
    for row, t in enumerate(rows):
        for i in prepared.owners[t]:
            fork = prepared.forks[i]
            for query, place in zip((fork.answer, fork.lure), prepared.places[i], strict=True):
                assert query is not None
                placed.append((row, place.path, replace(fork, answer=query, lure=None, shared=query.start), ()))
    return make_terms(placed, device)


def run_of(
    model: Model,
    *,
    task: str,
    method: str,
    seed: int | None,
    settings: Mapping[str, Any],
    notes: Iterable[str] = (),
) -> Run:
    """The Run of what was measured on one model."""
    return make_run(
        model=model.name,
        revision=model.revision,
        task=task,
        method=method,
        seed=seed,
        dtype=model.dtype,
        device=model.device,
        settings=settings,
        notes=notes,
    )
