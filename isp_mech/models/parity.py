"""Whether a model, run our way, gives what the plain transformers model gives; what does not is not done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from isp_mech.errors import InputError
from isp_mech.models.activations import Forward, RecordSpec
from isp_mech.models.architecture import Architecture
from isp_mech.models.batch import Batch, TokenPlaces
from isp_mech.models.equal_logits import expect_equal, limit_of, logit_gap
from isp_mech.models.last_layer import compute_at_selected, input_norm_of
from isp_mech.models.model import Model
from isp_mech.models.prefix_cache import PrefixCache

NO_WEIGHTS = "its attention is its own, and does not hand its weights over"
T = TypeVar("T")
CHANGED = 3  # of the tokens of a probe, the last that its second row has others for


def two_rows(ids: Tensor) -> Tensor:
    """The tokens, and the same with others at the end: what stands before must not differ by it."""
    return torch.cat([ids, torch.cat([ids[:, :-CHANGED], ids[:, :CHANGED]], 1)])


def check_causal(logits: Tensor, name: str, dtype: str) -> None:
    """``InputError`` for a model whose logits for ``two_rows`` depend on later tokens: what it says of a completion
    would not be its probability after the prompt."""
    first, second = logits[:, :-CHANGED]
    if logit_gap(second, first) > limit_of(dtype, 1e-3, 5e-2):
        raise InputError(name, ["its logits depend on later tokens: expected a causal language model"])


def with_what_holds(model: Model, ids: Tensor, plain: Tensor, use_own_attention: Callable[[], None]) -> Model:
    """The model with those ways of running it that give the plain model's numbers.

    ``use_own_attention`` puts transformers' own back in the place of ours. ``RuntimeError`` where even a plain forward
    of ours gives other logits.
    """
    whole = _with(model, runs_whole=True)
    chain = _chain_as_plain(model, ids, plain)
    if chain is None and (chain := _chain_as_plain(whole, ids, plain)) is not None:
        model = whole
    if chain is None:
        use_own_attention()
        model = _with(whole, accepts_custom_masks=False, mask_is_argument=False)
        chain = model.forward(_chain(ids))
        with torch.no_grad():
            ours = model.unembed(chain.hidden[0])[None].to(plain.device)
        expect_equal(f"{model.name}: our forward", ours, plain, model.dtype)
    if model.architecture.no_blocks:
        model = _with(model, accepts_custom_masks=False)
    if model.accepts_trees and not _branches_come_out_right(model, ids, chain):
        model = _with(model, accepts_trees=False, accepts_custom_masks=False)
    if model.accepts_custom_masks and not _copies_come_out_right(model, ids, chain):
        model = _with(model, accepts_custom_masks=False)
    if not model.architecture.no_attention:
        model = _with_weights(model, ids, chain)
    return _with_selection(model, ids, chain) if model.accepts_custom_masks else model


def _with(model: Model, **changes: Any) -> Model:
    return replace(model, architecture=replace(model.architecture, **changes))


def _chain_as_plain(model: Model, ids: Tensor, plain: Tensor) -> Forward | None:
    """A plain forward of ours, in which keys and weights are recorded; None where its logits are others."""

    def run() -> Forward:
        forward = model.forward(_chain(ids), record=_whole_record(ids, keys=model.architecture.mask_is_argument))
        with torch.no_grad():
            ours = model.unembed(forward.hidden[0])[None].to(plain.device)
        return forward if _is_as(model, ours, plain) else replace(forward, hidden=forward.hidden[:, :0])

    forward = _tried(run)
    return forward if forward is not None and forward.hidden.numel() else None


def _whole_record(ids: Tensor, *, keys: bool) -> RecordSpec:
    """The last token, its weights to all, and every layer's keys."""
    n = ids.shape[1]
    at = torch.zeros(1, dtype=torch.long, device=ids.device), torch.tensor([n - 1], device=ids.device)
    return RecordSpec(*at, *at, torch.ones(1, n, 1, device=ids.device), keys=keys)


def _branches_come_out_right(model: Model, ids: Tensor, chain: Forward) -> bool:
    """Two branches after one beginning, against each as a plain chain: closer than an error could be."""
    n = ids.shape[1]
    cut = n // 2
    tree = torch.cat([ids, ids[:, cut + 1 :]], 1)  # the second branch's first token is left out
    depth = torch.cat([torch.arange(n), torch.arange(cut, n - 1)])[None].to(ids.device)
    visible = torch.ones(1, 2 * n - 1 - cut, 2 * n - 1 - cut, dtype=torch.bool, device=ids.device).tril()
    visible[:, n:, cut:n] = False
    other = torch.cat([ids[:, :cut], ids[:, cut + 1 :]], 1)

    def run() -> bool:
        packed, alone = model.forward(Batch(tree, depth, visible)).hidden, model.forward(_chain(other)).hidden
        return _is_as(model, packed, torch.cat([chain.hidden, alone[:, cut:]], 1))

    return bool(_tried(run))


def _copies_come_out_right(model: Model, ids: Tensor, chain: Forward) -> bool:
    """Two copies of the last tokens over what stands before them, against the plain chain."""
    cut = ids.shape[1] - CHANGED
    within = torch.ones(1, 1, CHANGED, CHANGED, dtype=torch.bool, device=ids.device).tril()
    places = torch.arange(cut, ids.shape[1], device=ids.device).repeat(2)[None]

    def run() -> bool:
        whole = chain if chain.record.keys else model.forward(_chain(ids), record=_whole_record(ids, keys=True))
        prefix = PrefixCache.before([cut], whole.record, _chain(ids), within)
        copies = model.forward(Batch(ids[:, cut:].repeat(1, 2), places), prefix=prefix).hidden
        return _is_as(model, copies, chain.hidden[:, cut:].repeat(1, 2, 1))

    return bool(_tried(run))


def _with_weights(model: Model, ids: Tensor, chain: Forward) -> Model:
    """With the layers of which weights are seen: by our attention, or by what the model's own gives, if asked."""
    if not model.architecture.mask_is_argument and not model.accepts_custom_masks:
        model = _with(model, gives_weights=True)

    def run() -> tuple[int, ...]:
        seen = chain
        if model.architecture.gives_weights:
            seen = model.forward(_chain(ids), record=_whole_record(ids, keys=False))
        sound = _is_as(model, seen.hidden, chain.hidden) and _are_weights(model.architecture, seen.record.attention)
        return tuple(seen.record.attention_layers) if sound else ()

    if layers := _tried(run):
        return _with(model, attention_layers=layers)
    return _with(model, gives_weights=False, no_attention=NO_WEIGHTS)


def _are_weights(shape: Architecture, recorded: list[Tensor]) -> bool:
    """Whether they are by head, and sum to at most one."""
    return all(w.shape == (1, shape.n_heads, 1) and bool((w <= 1 + 1e-2).all()) for w in recorded)


def _with_selection(model: Model, ids: Tensor, chain: Forward) -> Model:
    """With the last layer at few tokens, where that gives the same as all of it."""
    last = model.architecture.blocks[-1]
    norm = input_norm_of(last, lambda: model.forward(_chain(ids))) if last.attn_out is not None else None
    if norm is None:
        return model
    compute_at_selected(last, norm)
    selecting = _with(model, selects_tokens=True)
    rows, nodes = torch.zeros(2, dtype=torch.long), torch.tensor([ids.shape[1] // 2, ids.shape[1] - 1])

    def run() -> bool:
        selected = selecting.forward(_chain(ids), at=TokenPlaces(rows, nodes)).hidden
        return _is_as(model, selected, chain.hidden[rows, nodes])

    return selecting if _tried(run) else model


def _chain(ids: Tensor) -> Batch:
    return Batch(ids, torch.arange(ids.shape[1], device=ids.device)[None])


def _tried(run: Callable[[], T]) -> T | None:
    try:
        return run()
    except Exception:  # whatever a model does that was not made for it
        return None


def _is_as(model: Model, ours: Tensor, plain: Tensor) -> bool:
    """Whether two tensors are the same but for rounding: closer than an error could be."""
    if ours.shape != plain.shape:
        return False
    off = (ours.float() - plain.float()).norm() / plain.float().norm().clamp(min=1e-9)
    return bool(off <= limit_of(model.dtype, 1e-4, 0.1))
