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

from isp_mech.inference.batches import BatchPlan, BatchSize, each_model
from isp_mech.inference.contrast_prompts import (
    PlacedPrompts,
    batch_terms,
    completion_terms,
    head_of,
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
    Run's notes. ``lens`` reads the stream in place of the plain lens (``train_lens``, ``load_lens``): one
    for each model; only sublayers that it reads, and the last, are in the table. Onset intervals (95 %,
    bootstrap over pairs) come from ``seed``. ``chat`` is as in ``score``.
    """
    plans = each_model(models, batch_size, chat=chat, progress=progress)
    return join_traces([trace_model(pairs, plan, lens=lens, tokens=tokens, seed=seed).traces for plan in plans])


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
    attention = seen.attention if model.accepts_custom_masks else seen.attention[:, :0]
    by_depth = _lens_table(head, placed, seen.lens, seen.sublayers, run)
    traces = Traces(
        by_depth,
        _attention_table(head, placed, attention, tracer.roles, run),
        _direct_table(head, placed, seen, run),
        onset(by_depth, seed=seed),
    )
    keys = zip(placed.pairs, placed.sides, strict=True)
    logprobs = {key: (float(a), float(b)) for key, (a, b) in zip(keys, seen.logprobs, strict=True) if scored}
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
    norm: Norm
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
            kept.lens[owners] = self._margins_by_depth(record, terms).cpu()
            direct = direct_effects(model, self.norm, record, normed[:n], terms, margin)
            for into, values in ((kept.heads, direct.heads), (kept.mlps, direct.mlps), (kept.rest, direct.rest)):
                into[owners] = values.cpu()
            if record.attention:
                kept.attention[owners] = torch.stack(record.attention, 1).cpu()
            if self.scored:
                kept.logprobs[owners] = margin_of(model, normed[n:], alone).view(-1, 2).cpu()

    def _margins_by_depth(self, record: ActivationRecord, terms: LogprobTerms) -> Tensor:
        """(owner, sublayer): the margin that the stream would give if it went to the output from there."""
        stream, lens = residual_stream(record), self.lens
        last = len(stream) - 1
        read = [stream[i] if lens is None or i == last else lens(i, stream[i]) for i in self.kept.sublayers]
        every = self.norm(torch.cat(read))  # one product with the unembedding for all sublayers
        return margin_of(self.model, every, terms.repeated(len(read))).view(len(read), -1).T


def _tracer(model: Model, placed: PlacedPrompts, lens: Lens | None, tokens: Tokens, scored: bool) -> _Tracer:
    layers, heads, n = model.architecture.n_layers, model.architecture.n_heads, len(placed.prompts)
    roles = role_names([prompt.prompt for prompt in placed.prompts])
    sublayers = (*(range(2 * layers) if lens is None else sorted(lens.sublayers)), 2 * layers)
    shapes = ((), (len(sublayers),), (layers, heads, len(roles)), (layers, heads), (layers,), (len(PARTS),), (2,))
    kept = _Kept(sublayers, *(np.zeros((n, *shape), dtype=np.float32) for shape in shapes))
    return _Tracer(model, model.architecture.norm(), lens, placed, roles, tokens, scored, kept)


def _notes(model: Model, seen: _Kept) -> list[str]:
    notes = []
    size = max(float(np.abs(seen.margins).mean()), 1e-6)
    gap = float(np.abs(seen.lens[:, -1] - seen.margins).max())
    if gap > 1e-3 * max(1.0, size):
        notes.append(f"{model.name}: the last lens row and the output's margin differ by up to {gap:.2g} nats")
    remainder = np.abs(seen.rest[:, PARTS.index("remainder")]).mean()
    if remainder > 0.01 * size:
        notes.append(f"{model.name}: direct effects leave {remainder / size:.1%} of the margin unexplained")
    if not model.accepts_custom_masks:
        notes.append(
            f"{model.name}: its attention does not accept custom masks, so prompts were run one by one "
            "and attention by role is not shown"
        )
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


def _attention_table(head: Head, placed: PlacedPrompts, attention: np.ndarray, roles: Sequence[str], run: Run) -> Table:
    _, layers, heads, _ = attention.shape
    axes: list[Axis] = [{"layer": range(layers)}, {"head": range(heads)}, {"role": roles}]
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
