"""Traces: lens, attention by role and direct effects, kept by the very forward that scores.

All three are defined on the margin between answer and lure (``margins.py``), so completions of several
tokens count in full. Per pair only vectors at the decision position and at the completions' own tokens
are kept, and of attention one row per head, summed over roles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from isp_mech.errors import InputError
from isp_mech.inference.batches import BatchPlan, BatchSize, each_model
from isp_mech.inference.contrast_prompts import (
    PlacedPrompts,
    batch_terms,
    completion_terms,
    head_of,
    noted,
    place_prompts,
    residual_stream,
    run_of,
)
from isp_mech.inference.finite import check_finite
from isp_mech.inference.margin import LogprobTerms, margin_of
from isp_mech.inference.tokenization import role_names
from isp_mech.models import ActivationRecord, Batch, ChatSetting, Model, Models, Norm, TokenPlaces
from isp_mech.scaling.summaries import onset
from isp_mech.sites import Tokens, all_sites
from isp_mech.tables import Run, Table, concat, table
from isp_mech.tables.columns import Axis, crossed, site_axis, site_matrix
from isp_mech.tasks import PairSet
from isp_mech.tracing.direct_logit_attribution import PARTS, direct_effects
from isp_mech.tracing.tuned_lens import Lens, lens_of


@dataclass(frozen=True)
class Traces:
    """Tables ``lens``, ``attention``, ``effects`` (direct effects, which sum to the margin per pair and
    side) and ``onset``."""

    lens: Table
    attention: Table
    effects: Table
    onset: Table


def trace(
    pairs: PairSet,
    models: Models,
    *,
    lens: Lens | Sequence[Lens] | None = None,
    tokens: Tokens = "first",
    chat: ChatSetting | None = None,
    batch_size: BatchSize = "auto",
    seed: int = 0,
    progress: bool = False,
) -> Traces:
    """Lens, attention by role, direct effects and override onset of every model, on both sides.

    ``margin`` is log p(answer) - log p(lure) in nats on either side: positive follows the conflict
    prompt, so on the plain side a negative margin is right. It is taken at the first token at which the two
    differ (``tokens`` first: the difference of two logits), or over all of their tokens (all), for which the
    whole vocabulary is needed after every sublayer. The last lens row equals the output's
    margin and the direct effects sum to it; a remainder over 1 % of the margin's size is reported in the
    Run's notes. What is not defined on a model is not in its tables, and its Run says why (OPT-350m's norms stand
    after the sublayers, so that it has no lens); ``InputError`` where nothing is defined on any model. ``lens`` reads
    the stream in place of the plain lens (``train_lens``, ``load_lens``): one for each model; only sublayers that it
    reads, and the last, are in the table. Onset intervals (95 %,
    bootstrap over pairs) come from ``seed``. ``chat`` is as in ``score``.
    """
    traced, refused = [], []
    for plan in each_model(models, batch_size, chat=chat, progress=progress):
        if reason := cannot_trace(plan.model):
            refused.append(reason)
        else:
            traced.append(trace_model(pairs, plan, lens=lens, tokens=tokens, seed=seed).traces)
    if refused and not traced:
        raise InputError("trace", refused)
    found = join_traces(traced)
    return Traces(*(noted(getattr(found, field.name), refused) for field in fields(Traces)))


def cannot_trace(model: Model) -> str:
    """Why nothing can be traced on a model; empty where something can."""
    shape = model.architecture
    if not (shape.no_lens and shape.no_attention):
        return ""
    return f"{model.name}: cannot be traced: {'; '.join(dict.fromkeys((shape.no_lens, shape.no_attention)))}"


def join_traces(parts: Sequence[Traces]) -> Traces:
    """The traces of several models as one."""
    return Traces(*(concat([getattr(part, field.name) for part in parts]) for field in fields(Traces)))


Head = Mapping[str, str | int]
Logprobs = Mapping[tuple[str, str], tuple[float, float]]  # log p(answer) and log p(lure), nats, by pair and side


@dataclass(frozen=True)
class TracedModel:
    """One model's traces, and what its completions' log-probabilities are, where those were asked for."""

    traces: Traces
    logprobs: Logprobs


def trace_model(
    pairs: PairSet,
    plan: BatchPlan,
    *,
    lens: Lens | Sequence[Lens] | None = None,
    tokens: Tokens = "first",
    scored: bool = False,
    seed: int = 0,
) -> TracedModel:
    """One model's traces and, with ``scored``, its log-probabilities from the same forwards."""
    model = plan.model
    if reason := cannot_trace(model):
        raise InputError("trace", [reason])
    tracer = _tracer(model, place_prompts(model, pairs), lens_of(lens, model), tokens, scored)
    plan.run_trees(tracer.placed.trees, tracer.run, "trace")
    seen, placed, lens_kind = tracer.kept, tracer.placed, tracer.lens.kind if tracer.lens else "plain"
    check_finite(seen.margins, [prompt.owner for prompt in placed.prompts], model.name)
    run = run_of(
        model,
        task=pairs.name,
        method="trace: lens, attention by role, direct effect",
        seed=seed,
        settings={"packed": model.uses_prefix_caches, "n_pairs": len(pairs), "lens": lens_kind, "tokens": tokens},
        notes=[*_notes(model, seen), *plan.notes()],
    )
    head = head_of(model, pairs.name)
    shape = model.architecture
    by_depth = table("lens", [], run) if shape.no_lens else _lens_table(head, placed, seen.lens, seen.sublayers, run)
    traces = Traces(
        by_depth,
        _attention_table(head, placed, seen.attention, shape.attention_layers, tracer.roles, run),
        table("effects", [], run) if shape.no_lens or shape.no_sites else _direct_table(head, placed, seen, run),
        onset(by_depth, seed=seed) if len(by_depth) else table("onset", [], run),
    )
    keys, given = zip(placed.pairs, placed.sides, strict=True), tracer.scored
    logprobs = {key: (float(a), float(b)) for key, (a, b) in zip(keys, seen.logprobs, strict=True) if given}
    return TracedModel(traces, logprobs)


@dataclass(frozen=True)
class _Kept:
    """What is kept of every prompt: margins (n,), lens (n, sublayer), attention (n, layer, head, role), direct
    effects of heads (n, layer, head), of MLPs (n, layer) and of the rest (n, part), log-probabilities (n, 2)."""

    sublayers: Sequence[int]
    margins: np.ndarray
    lens: np.ndarray
    attention: np.ndarray
    heads: np.ndarray
    mlps: np.ndarray
    rest: np.ndarray
    logprobs: np.ndarray


@dataclass(frozen=True)
class _Tracer:
    """One model's prompts, the roles that attention is summed over, and what is kept of the forwards."""

    model: Model
    norm: Norm | None
    lens: Lens | None
    placed: PlacedPrompts
    roles: Sequence[str]
    tokens: Tokens
    scored: bool
    kept: _Kept

    def run(self, rows: Sequence[int], batch: Batch) -> None:
        """One forward, and what is kept of its prompts."""
        model, kept = self.model, self.kept
        asked = batch_terms(model, self.placed, rows, batch, self.roles, tokens=self.tokens)
        terms, owners = asked.terms, asked.owners
        n = len(terms.rows)
        alone = completion_terms(self.placed, rows, model.device) if self.scored else terms
        at = [torch.cat(x) for x in ((terms.rows, alone.rows), (terms.nodes, alone.nodes))]
        forward = model.forward(batch, at=TokenPlaces(*at), record=asked.record)
        normed, record = forward.hidden, forward.record
        with torch.no_grad():
            margin = margin_of(model, normed[:n], terms)
            kept.margins[owners] = margin.cpu()
            if self.norm is not None:
                kept.lens[owners] = self._margins_by_depth(self.norm, record, terms).cpu()
            if self.norm is not None and not model.architecture.no_sites:
                direct = direct_effects(model, self.norm, record, normed[:n], terms, margin)
                for into, values in ((kept.heads, direct.heads), (kept.mlps, direct.mlps), (kept.rest, direct.rest)):
                    into[owners] = values.cpu()
            if not model.architecture.no_attention:
                kept.attention[owners] = torch.stack(record.attention, 1).cpu()
            if self.scored:
                kept.logprobs[owners] = margin_of(model, normed[n:], alone).view(-1, 2).cpu()

    def _margins_by_depth(self, norm: Norm, record: ActivationRecord, terms: LogprobTerms) -> Tensor:
        """(owner, sublayer): the margin that the stream would give if it went to the output from there."""
        stream, lens = residual_stream(record), self.lens
        last = len(stream) - 1
        read = [stream[i] if lens is None or i == last else lens(i, stream[i]) for i in self.kept.sublayers]
        every = norm(torch.cat(read))  # one product with the unembedding for all sublayers
        return margin_of(self.model, every, terms.repeated(len(read))).view(len(read), -1).T


def _tracer(model: Model, placed: PlacedPrompts, lens: Lens | None, tokens: Tokens, scored: bool) -> _Tracer:
    shape, n = model.architecture, len(placed.prompts)
    layers, heads = shape.n_layers, shape.n_heads
    if placed.forked and tokens == "all":
        raise InputError(model.name, ["tokens 'all' needs custom attention masks: expected 'first'"])
    roles = role_names([prompt.prompt for prompt in placed.prompts])
    sublayers = (*(range(2 * layers) if lens is None else sorted(lens.sublayers)), 2 * layers)
    weights = (len(shape.attention_layers), heads, len(roles))
    shapes = ((), (len(sublayers),), weights, (layers, heads), (layers,), (len(PARTS),), (2,))
    kept = _Kept(sublayers, *(np.zeros((n, *shape), dtype=np.float32) for shape in shapes))
    norm = None if shape.no_lens else shape.norm()
    return _Tracer(model, norm, lens, placed, roles, tokens, scored and not placed.forked, kept)


def _notes(model: Model, seen: _Kept) -> list[str]:
    notes = []
    size = max(float(np.abs(seen.margins).mean()), 1e-6)
    gap = float(np.abs(seen.lens[:, -1] - seen.margins).max())
    shape = model.architecture
    if shape.no_lens:
        notes.append(f"{model.name}: lens and direct effects are not defined on it: {shape.no_lens}")
    elif gap > 1e-3 * max(1.0, size):
        notes.append(f"{model.name}: the last lens row and the output's margin differ by up to {gap:.2g} nats")
    remainder = np.abs(seen.rest[:, PARTS.index("remainder")]).mean()
    if remainder > 0.01 * size:
        notes.append(f"{model.name}: direct effects leave {remainder / size:.1%} of the margin unexplained")
    if shape.no_sites and not shape.no_lens:
        notes.append(f"{model.name}: direct effects are not defined on it: {shape.no_sites}")
    if shape.no_attention:
        notes.append(f"{model.name}: attention by role is not shown: {shape.no_attention}")
    elif len(shape.attention_layers) < shape.n_layers:
        layers = ", ".join(map(str, shape.attention_layers))
        notes.append(f"{model.name}: of its {shape.n_layers} layers those with attention are {layers}")
    if not model.accepts_trees:
        notes.append(f"{model.name}: its attention does not accept custom masks, so prompts were run one by one")
    return notes


# ---------------------------------------------------------------------------------------------
# Tables
# ---------------------------------------------------------------------------------------------


def depths(n_layers: int) -> np.ndarray:
    """Relative depth of every lens row: 0 at the embedding, (layer + 1/2) / layers after attention,
    (layer + 1) / layers after the MLP."""
    return np.arange(2 * n_layers + 1) / (2 * n_layers)


def _prompt_axis(placed: PlacedPrompts) -> Axis:
    return {"pair": placed.pairs, "side": placed.sides}


def _lens_table(head: Head, placed: PlacedPrompts, lens: np.ndarray, sublayers: Sequence[int], run: Run) -> Table:
    at = np.array(sublayers)
    sublayer = {
        "layer": (at - 1) // 2,
        "sublayer": ["embed" if i == 0 else "attn" if i % 2 else "mlp" for i in sublayers],
        "depth": depths(max(sublayers) // 2)[at].astype(np.float32),
    }
    return table("lens", crossed(head, _prompt_axis(placed), sublayer) | {"margin": lens.ravel()}, run)


def _attention_table(
    head: Head, placed: PlacedPrompts, attention: np.ndarray, layers: Sequence[int], roles: Sequence[str], run: Run
) -> Table:
    axes: list[Axis] = [{"layer": layers}, {"head": range(attention.shape[2])}, {"role": roles}]
    return table("attention", crossed(head, _prompt_axis(placed), *axes) | {"weight": attention.ravel()}, run)


def _direct_table(head: Head, placed: PlacedPrompts, kept: _Kept, run: Run) -> Table:
    sites = site_axis(all_sites(*kept.heads.shape[1:]))
    parts: Axis = {
        "layer": [*sites["layer"], *[-1] * len(PARTS)],
        "kind": [*sites["kind"], *PARTS],
        "head": pd.array([*sites["head"], *[pd.NA] * len(PARTS)], dtype="Int64"),
    }
    values = np.concatenate([site_matrix(kept.heads, kept.mlps), kept.rest], 1).ravel()
    columns = crossed(head, _prompt_axis(placed), parts)
    columns |= {
        "replacement": np.full(len(values), "", dtype=object),
        "effect": np.full(len(values), np.nan, dtype=np.float32),
        "direct_effect": values,
    }
    return table("effects", columns, run)
