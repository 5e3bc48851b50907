"""Pairs as they are run: both completions of every pair after its prompts, placed in trees."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from isp_mech.inference.margin import (
    ContrastPrompt,
    LogprobTerms,
    at_first_token,
    branches,
    contrast_prompts,
    lengths_of,
    make_terms,
)
from isp_mech.inference.prefix_tree import PrefixTree, TreePath, build_trees
from isp_mech.inference.tokenization import token_roles
from isp_mech.models import ActivationRecord, Batch, Model, RecordSpec
from isp_mech.sites import Tokens
from isp_mech.tables import Run, Setting, Table, make_run
from isp_mech.tasks import PairSet

SIDES = ("conflict", "plain")  # on which a pair's margin is defined


@dataclass(frozen=True)
class PlacedPrompts:
    """Contrast prompts and where each stands: its side, its pair, the paths of its completions in ``trees``.

    ``owners[t]`` are the numbers of the prompts in tree t. For a model that takes chains of tokens alone, completions
    that branch are there up to the first token that differs: then both have the path of the answer, and ``forked`` is
    True.
    """

    prompts: list[ContrastPrompt]
    sides: list[str]
    pairs: list[str]
    paths: list[list[TreePath]]
    trees: list[PrefixTree]
    owners: list[list[int]]
    forked: bool = False


def place_prompts(model: Model, pairs: PairSet, sides: Sequence[str] = SIDES) -> PlacedPrompts:
    """Both completions of every pair after its prompts, as trees. The margin is answer less lure on every side."""
    asked = [(pair, side, getattr(pair, side)) for pair in pairs for side in sides]
    prompts = contrast_prompts(
        model,
        [f"{pair.id} ({side})" for pair, side, _ in asked],
        [prompt for _, _, prompt in asked],
        [pair.answer for pair, _, _ in asked],
        [pair.lure for pair, _, _ in asked],
    )
    return placed_alone(model, prompts, [side for _, side, _ in asked], [pair.id for pair, _, _ in asked])


def placed_alone(
    model: Model, prompts: list[ContrastPrompt], sides: list[str] | None = None, pairs: list[str] | None = None
) -> PlacedPrompts:
    """Prompts as trees, with the sides and pairs they are of, if they are of any."""
    forks = [not model.accepts_trees and branches(prompt) for prompt in prompts]
    trees, paths = build_trees(
        [[p.answer] if fork else p.completions for p, fork in zip(prompts, forks, strict=True)],
        share=model.accepts_trees,
        across=model.shares_trees,
        lengths=lengths_of(model, prompts),
    )
    paths = [at * 2 if fork else at for at, fork in zip(paths, forks, strict=True)]
    owners: list[list[int]] = [[] for _ in trees]
    for i, at in enumerate(paths):
        owners[at[0].tree].append(i)
    return PlacedPrompts(prompts, sides or [], pairs or [], paths, trees, owners, any(forks))


@dataclass(frozen=True)
class BatchTerms:
    """The prompts in one batch: their numbers in the terms' order, their terms, and what is recorded for them."""

    owners: list[int]
    terms: LogprobTerms
    record: RecordSpec


def batch_terms(
    model: Model,
    placed: PlacedPrompts,
    rows: Sequence[int],
    batch: Batch,
    roles: Sequence[str] | None = None,
    *,
    tokens: Tokens = "all",
) -> BatchTerms:
    """Terms of the prompts in the trees ``rows``, of all of their completions' tokens or of the first that differs;
    recorded are their predicting tokens and, with the names of ``roles``, attention from the decision position."""
    owners, at, queries = [], [], []
    for row, t in enumerate(rows):
        for i in placed.owners[t]:
            answer, lure = placed.paths[i]
            prompt = at_first_token(placed.prompts[i]) if tokens == "first" else placed.prompts[i]
            owners.append(i)
            at.append((row, answer.path, prompt, lure.path))
            queries.append((row, answer.path[prompt.shared - 1]))
    terms = make_terms(at, model.device)
    if roles is None:
        return BatchTerms(owners, terms, RecordSpec(terms.rows, terms.nodes))
    of_role = np.zeros((len(owners), batch.ids.shape[1], len(roles)), dtype=np.float32)
    for q, (_, path, prompt, _) in enumerate(at):
        of_token = token_roles(prompt.encoding, prompt.prompt, roles)
        of_role[q, list(path), of_token[: len(path)]] = 1
    query = torch.tensor(queries, device=model.device)
    seen_by_role = torch.from_numpy(of_role).to(model.device)
    return BatchTerms(owners, terms, RecordSpec(terms.rows, terms.nodes, query[:, 0], query[:, 1], seen_by_role))


def completion_terms(placed: PlacedPrompts, rows: Sequence[int], device: str) -> LogprobTerms:
    """Terms of each completion by itself, for the prompts in the trees ``rows``: owner 2 i is the answer of
    the i-th prompt, owner 2 i + 1 its lure, and an owner's "margin" is its log-probability."""
    at = []
    for row, t in enumerate(rows):
        for i in placed.owners[t]:
            prompt = placed.prompts[i]
            for tokens, path in zip(prompt.completions, placed.paths[i], strict=True):
                at.append((row, path.path, replace(prompt, answer=tokens, lure=None, shared=tokens.start), ()))
    return make_terms(at, device)


def noted(made: Table, notes: Sequence[str]) -> Table:
    """The table with further notes in its Run."""
    return replace(made, run=replace(made.run, notes=(*made.run.notes, *notes)))


def residual_stream(record: ActivationRecord) -> list[Tensor]:
    """The residual stream (n, d_model) after the embedding and after every attention and MLP."""
    assert record.final is not None
    stream = [record.resid[0]]
    for layer, before in enumerate(record.resid):
        after = record.resid[layer + 1] if layer + 1 < len(record.resid) else record.final
        stream += [before + record.attn[layer], after]
    return stream


def head_of(model: Model, task: str) -> dict[str, str | int]:
    """The columns that every row of a measured table begins with."""
    return {"model": model.name, "n_params": model.n_params, "task": task}


def run_of(
    model: Model,
    *,
    task: str,
    method: str,
    seed: int | None,
    settings: Mapping[str, Setting],
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
        settings={**settings, **({"chat": model.chat.described} if model.chat else {})},
        notes=(*model.notes, *(model.chat.notes if model.chat else ()), *notes),
    )
