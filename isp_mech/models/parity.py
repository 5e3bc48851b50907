"""Whether a model, run our way, gives what the plain transformers model gives; what does not is not done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from isp_mech.errors import InputError
from isp_mech.models.activations import RecordSpec
from isp_mech.models.batch import Batch, TokenPlaces
from isp_mech.models.equal_logits import expect_equal, limit_of, logit_gap
from isp_mech.models.last_layer import compute_at_selected, input_norm_of
from isp_mech.models.model import Model
from isp_mech.models.prefix_cache import PrefixCache

NO_WEIGHTS = "its attention is its own, and does not hand its weights over"


def check_causal(hf: Any, ids: Tensor, plain: Tensor, name: str) -> None:
    """``InputError`` for a model whose logits depend on later tokens: what it says of a completion would not be its
    probability after the prompt."""
    cut = ids.shape[1] - 3
    other = torch.cat([ids[:, :cut], ids[:, :3]], 1)
    with torch.no_grad():
        logits = hf(other).logits.to(plain.device)
    if logit_gap(logits[:, :cut], plain[:, :cut]) > limit_of(str(hf.dtype).removeprefix("torch."), 1e-3, 5e-2):
        raise InputError(name, ["its logits depend on later tokens: expected a causal language model"])


def with_what_holds(model: Model, ids: Tensor, plain: Tensor, use_own_attention: Callable[[], None]) -> Model:
    """The model with those ways of running it that give the plain model's numbers.

    ``use_own_attention`` puts transformers' own back in the place of ours. ``RuntimeError`` where even a plain forward
    of ours gives other logits.
    """
    shape = model.architecture
    if shape.mask_is_argument and not _as_plain(model, ids, plain):
        use_own_attention()
        shape = replace(shape, accepts_custom_masks=False, mask_is_argument=False)
        model = replace(model, architecture=shape)
    if not shape.runs_whole and not _as_plain(model, ids, plain):
        shape = replace(shape, runs_whole=True)
        model = replace(model, architecture=shape)
    if shape.no_blocks:
        shape = replace(shape, accepts_custom_masks=False)
    if shape.accepts_trees and not branches_come_out_right(model, ids):
        shape = replace(shape, accepts_trees=False, accepts_custom_masks=False)
    if shape.accepts_custom_masks and not copies_come_out_right(model, ids):
        shape = replace(shape, accepts_custom_masks=False)
    if not shape.no_attention:
        by_output = replace(shape, gives_weights=not shape.mask_is_argument and not shape.accepts_custom_masks)
        layers = _layers_with_weights(replace(model, architecture=by_output), ids)
        shape = replace(by_output, attention_layers=layers) if layers else replace(shape, no_attention=NO_WEIGHTS)
    model = replace(model, architecture=shape)
    check_against_plain(model, ids, plain)
    return _with_selection(model, ids) if shape.accepts_custom_masks else model


def _with_selection(model: Model, ids: Tensor) -> Model:
    """With the last layer at few tokens, where that gives the same."""
    last = model.architecture.blocks[-1]
    norm = input_norm_of(last, lambda: model.forward(_chain(ids))) if last.attn_out is not None else None
    if norm is None:
        return model
    compute_at_selected(last, norm)
    selecting = replace(model, architecture=replace(model.architecture, selects_tokens=True))
    return selecting if selected_tokens_come_out_right(selecting, ids) else model


def branches_come_out_right(model: Model, ids: Tensor) -> bool:
    """Two branches after one beginning, against each as a plain chain: closer than an error could be."""
    n = ids.shape[1]
    cut = n // 2
    tree = torch.cat([ids, ids[:, cut + 1 :]], 1)  # the second branch's first token is left out
    depth = torch.cat([torch.arange(n), torch.arange(cut, n - 1)])[None].to(ids.device)
    visible = torch.ones(1, 2 * n - 1 - cut, 2 * n - 1 - cut, dtype=torch.bool, device=ids.device).tril()
    visible[:, n:, cut:n] = False
    other = torch.cat([ids[:, :cut], ids[:, cut + 1 :]], 1)

    def both() -> tuple[Tensor, Tensor]:
        packed = model.forward(Batch(tree, depth, visible)).hidden
        return packed[:, n:], model.forward(_chain(other)).hidden[:, cut:]

    return _come_out_alike(model, both)


def copies_come_out_right(model: Model, ids: Tensor) -> bool:
    """Two copies of the last tokens over what stands before them, against the plain chain."""
    cut = ids.shape[1] - 3
    nothing = torch.zeros(0, dtype=torch.long, device=ids.device)

    def both() -> tuple[Tensor, Tensor]:
        batch = _chain(ids[:, :cut])
        record = model.forward(batch, record=RecordSpec(nothing, nothing, keys=True)).record
        within = torch.ones(1, 1, 3, 3, dtype=torch.bool, device=ids.device).tril()
        prefix = PrefixCache.before([cut], record, batch, within)
        copies = Batch(ids[:, cut:].repeat(1, 2), torch.arange(cut, cut + 3, device=ids.device).repeat(2)[None])
        plain = model.forward(_chain(ids)).hidden[:, cut:]
        return model.forward(copies, prefix=prefix).hidden, plain.repeat(1, 2, 1)

    return _come_out_alike(model, both)


def selected_tokens_come_out_right(model: Model, ids: Tensor) -> bool:
    """The last layer at two tokens alone, against all."""
    rows, nodes = torch.zeros(2, dtype=torch.long), torch.tensor([ids.shape[1] // 2, ids.shape[1] - 1])

    def both() -> tuple[Tensor, Tensor]:
        selected = model.forward(_chain(ids), at=TokenPlaces(rows, nodes)).hidden
        return selected, model.forward(_chain(ids)).hidden[rows, nodes]

    return _come_out_alike(model, both)


def _layers_with_weights(model: Model, ids: Tensor) -> tuple[int, ...]:
    """The layers of which weights are seen; none, unless in each they are by head and sum to at most one."""
    n, shape = ids.shape[1], model.architecture
    at = torch.zeros(1, dtype=torch.long, device=ids.device), torch.tensor([n - 1], device=ids.device)
    spec = RecordSpec(*at, *at, torch.ones(1, n, 1, device=ids.device))

    def both() -> tuple[Tensor, Tensor]:
        return model.forward(_chain(ids), record=spec).hidden, model.forward(_chain(ids)).hidden

    if not _come_out_alike(model, both):
        return ()
    record = model.forward(_chain(ids), record=spec).record
    sound = [w.shape == (1, shape.n_heads, 1) and bool((w <= 1 + 1e-2).all()) for w in record.attention]
    return tuple(record.attention_layers) if sound and all(sound) else ()


def _chain(ids: Tensor) -> Batch:
    return Batch(ids, torch.arange(ids.shape[1], device=ids.device)[None])


def _come_out_alike(model: Model, both: Callable[[], tuple[Tensor, Tensor]]) -> bool:
    try:
        ours, plain = both()
    except Exception:  # whatever a model does that was not made for it
        return False
    return ours.shape == plain.shape and logit_gap(ours, plain) <= limit_of(model.dtype, 1e-4, 2e-2)


def _as_plain(model: Model, ids: Tensor, plain: Tensor) -> bool:
    """Whether a plain forward of ours gives the plain model's logits."""

    def both() -> tuple[Tensor, Tensor]:
        return model.unembed(model.forward(_chain(ids)).hidden[0])[None].to(plain.device), plain

    with torch.no_grad():
        return _come_out_alike(model, both)


def check_against_plain(model: Model, ids: Tensor, plain: Tensor) -> None:
    """Our forward, packed where the model packs, gives the plain model's logits."""
    length = ids.shape[1]
    depth = torch.arange(length, device=ids.device)[None]
    visible = torch.ones(1, length, length, dtype=torch.bool, device=ids.device).tril() if model.accepts_trees else None
    hidden = model.forward(Batch(ids, depth, visible)).hidden
    with torch.no_grad():
        ours = model.unembed(hidden[0])[None].to(plain.device)
        expect_equal(f"{model.name}: the packed forward", ours, plain, model.dtype)
