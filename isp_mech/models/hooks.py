"""One forward over a batch of token trees: how it keeps, changes and computes what the words say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import MethodType
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Int
from torch import Tensor

from isp_mech.models.architecture import Architecture
from isp_mech.models.forward_types import CONTEXT, ActivationEdit, ActivationRecord, Batch, RecordSpec, TokenSelection


def hooks(
    architecture: Architecture,
    spec: RecordSpec | None,
    record: ActivationRecord,
    edits: Sequence[ActivationEdit],
    batch: Batch,
    selection: TokenSelection | None = None,
) -> Iterator[Any]:
    """Registers, on the modules of one forward, what watches and what edits; yields the handles."""
    shape = tuple(batch.ids.shape)
    if spec is not None and spec.keys and not len(spec.rows):
        spec = None  # attention keeps the keys, and nothing else is wanted

    def grid(x: Tensor) -> Tensor:  # OPT runs its MLP on (row * pos, d); a view, so that edits reach it
        return x.view(*shape, x.shape[-1])

    def keep(into: list[Tensor], few: bool = False):
        return lambda x: into.append(watched(x, few))

    def watched(x: Tensor, few: bool) -> Tensor:
        assert spec is not None
        if few and selection is not None:
            x = x.view(*selection.nodes.shape, x.shape[-1])
            return x[spec.rows, selection.column[spec.rows, spec.nodes]]
        return grid(x)[spec.rows, spec.nodes]

    def look_before(put):
        return lambda module, args, kwargs: put(args[0] if args else kwargs["hidden_states"])

    def look_after(put):
        return lambda module, args, out: put(out[0] if isinstance(out, tuple) else out)

    for layer, block in enumerate(architecture.blocks):
        head_edits = [e for e in edits if e.layer == layer and e.heads is not None]
        mlp_edits = [e for e in edits if e.layer == layer and e.heads is None and not e.stream]
        stream_edits = [e for e in edits if e.layer == layer and e.stream]
        if head_edits:
            yield block.attn_out.register_forward_pre_hook(_edit_heads(head_edits, architecture, grid))
        if mlp_edits:
            yield block.mlp_write.register_forward_hook(_edit_output(mlp_edits, grid))
        if stream_edits:
            yield block.block.register_forward_hook(_edit_output(stream_edits, grid))
        if spec is None:
            continue
        few = (
            layer == architecture.n_layers - 1
        )  # where only some tokens are computed, those come out of the last layer
        yield block.block.register_forward_pre_hook(look_before(keep(record.resid)), with_kwargs=True)
        yield block.attn_out.register_forward_pre_hook(look_before(keep(record.heads, few)), with_kwargs=True)
        yield block.attn_write.register_forward_hook(look_after(keep(record.attn, few)))
        yield block.mlp_write.register_forward_hook(look_after(keep(record.mlp, few)))
    if spec is not None and architecture.ln_final is not None:

        def keep_final(module, args):
            record.final = watched(args[0], few=False)

        yield architecture.ln_final.register_forward_pre_hook(keep_final)


@contextmanager
def starting_at(architecture: Architecture, layer: int, hidden: Tensor) -> Iterator[None]:
    """Within it, the blocks before ``layer`` are not run: ``layer`` is given ``hidden``."""

    def handing_over(value: Tensor | None) -> Callable[..., Any]:
        return lambda *args, **kwargs: _handed_over(architecture.mask_is_argument, value, args, kwargs)

    skipped = [block.block for block in architecture.blocks[:layer]]
    before = [vars(block).get("forward") for block in skipped]
    for i, block in enumerate(skipped):
        block.forward = handing_over(hidden if i == layer - 1 else None)
    try:
        yield
    finally:
        for block, forward in zip(skipped, before, strict=True):
            if forward is None:
                del block.forward  # the class's own again
            else:
                block.forward = forward


def _handed_over(mask_is_argument: bool, hidden: Tensor | None, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """A block's output without its run: ``hidden``, or what it was given."""
    if hidden is None:
        hidden = args[0] if args else kwargs["hidden_states"]
    return hidden if mask_is_argument else (hidden, None)  # Bloom's blocks give their weights too


def _edit_heads(edits: Sequence[ActivationEdit], architecture: Architecture, grid):
    def hook(module, args):
        z = args[0].clone()
        heads = rearrange(grid(z), "row pos (head d_head) -> row pos head d_head", head=architecture.n_heads)
        for edit in edits:
            assert edit.heads is not None
            edit.change(heads, (edit.rows, edit.nodes, edit.heads))
        return (z, *args[1:])

    return hook


def _edit_output(edits: Sequence[ActivationEdit], grid):
    def hook(module, args, out):
        changed = (out[0] if isinstance(out, tuple) else out).clone()
        for edit in edits:
            edit.change(grid(changed), (edit.rows, edit.nodes))
        return (changed, *out[1:]) if isinstance(out, tuple) else changed

    return hook


class KeysKnown(Exception):
    """No error: it ends a block's forward that has given what it was run for."""


def narrow_to(batch: Batch, rows: Int[Tensor, " n"], nodes: Int[Tensor, " n"], layer: int) -> TokenSelection:
    """The tokens ``(rows, nodes)``, each once, as equally many for each row of the batch."""
    wanted = torch.zeros(batch.ids.shape, dtype=torch.bool, device=batch.ids.device)
    wanted[rows, nodes] = True
    column = (wanted.cumsum(1) - 1).clamp(min=0)
    order = torch.sort((~wanted).to(torch.uint8), dim=1, stable=True).indices  # the wanted first, in their order
    order = order[:, : int(wanted.sum(1).max())]
    return TokenSelection(torch.where(wanted.gather(1, order), order, order[:, :1]), column, layer)


def narrow_copies(
    batch: Batch, rows: Int[Tensor, " n"], nodes: Int[Tensor, " n"], layer: int, t: int
) -> TokenSelection:
    """As ``narrow_to``, of copies of ``t`` tokens: equally many tokens of each copy, one copy's after the other's."""
    n, copies = len(batch.ids), batch.ids.shape[1] // t
    alone = Batch(batch.ids.view(n * copies, t), batch.depth.view(n * copies, t))
    each = narrow_to(alone, rows * copies + nodes // t, nodes % t, layer)
    first = torch.arange(copies, device=batch.ids.device)[:, None]
    chosen = each.nodes.view(n, copies, -1) + t * first
    column = each.column.view(n, copies, t) + chosen.shape[-1] * first
    return TokenSelection(chosen.flatten(1), column.flatten(1), layer)


def narrow_on_demand(block: Any, mask_is_argument: bool) -> None:
    """Makes a model's last block, in a forward that says so, give its output at few tokens alone, and zeros elsewhere.

    It runs twice then: for all tokens as far as its keys and values, and for those few over them, if there are any.
    """
    own = vars(block).get("forward")
    if getattr(own, "narrows", False):
        return

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        whole = own or partial(type(self).forward, self)
        context = CONTEXT.get()
        if context is None or context.selection is None:
            return whole(*args, **kwargs)
        try:
            whole(*args, **kwargs)
        except KeysKnown:
            if not context.selection.nodes.shape[1]:
                return _handed_over(mask_is_argument, None, args, kwargs)
            few = partial(_at_few, context.selection)
            out = whole(*map(few, args), **{name: few(value) for name, value in kwargs.items()})
            return _everywhere(context.selection, out)
        raise RuntimeError(f"{type(self).__name__} ran without our attention")

    forward.narrows = True  # type: ignore[attr-defined]
    block.forward = MethodType(forward, block)


def _at_few(selection: TokenSelection, x: Any) -> Any:
    """What a block is given, (row, pos) or (row, pos, d), at the few tokens; anything else as it is."""
    pos = selection.column.shape[1]
    if isinstance(x, tuple):
        return tuple(_at_few(selection, part) for part in x)
    if not isinstance(x, Tensor) or x.dim() not in (2, 3) or x.shape[1] != pos or pos == 1:
        return x
    x = x.expand(len(selection.nodes), *x.shape[1:])
    return x.gather(1, selection.nodes if x.dim() == 2 else selection.nodes[..., None].expand(-1, -1, x.shape[2]))


def _everywhere(selection: TokenSelection, x: Any) -> Any:
    """What a block gives at the few tokens, with zeros at the others."""
    if isinstance(x, tuple):
        return tuple(_everywhere(selection, part) for part in x)
    if not isinstance(x, Tensor):
        return x
    nodes = selection.nodes[..., None].expand(-1, -1, x.shape[2])
    return x.new_zeros(len(x), selection.column.shape[1], x.shape[2]).scatter_(1, nodes, x)
