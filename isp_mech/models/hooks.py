"""Hooks on the modules of one forward: they record its activations, edit them, and skip its first layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from isp_mech.models.activations import ActivationEdit, ActivationRecord, RecordSpec
from isp_mech.models.architecture import Architecture
from isp_mech.models.batch import Batch
from isp_mech.models.forward_context import ForwardContext


def first_input(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The hidden states that a module is given."""
    return args[0] if args else kwargs["hidden_states"]


def with_first_input(args: Sequence[Any], kwargs: Mapping[str, Any], x: Tensor) -> tuple[Any, Any]:
    return ((x, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": x})


def first_output(out: Any) -> Any:
    """The hidden states that a module gives; some give their attention weights beside them."""
    return out[0] if isinstance(out, tuple | list) else out


def on_output(change: Callable[[Tensor], Tensor], out: Any) -> Any:
    return type(out)((change(out[0]), *out[1:])) if isinstance(out, tuple | list) else change(out)


Kind = Literal["resid", "heads", "attn", "mlp", "final"]


def observing(architecture: Architecture, see: Callable[[Kind, int, Tensor], None]) -> Iterator[RemovableHandle]:
    """Hooks that hand over, layer by layer, the stream before the block, its heads' outputs, what attention and MLP
    write (as the stream gains it), and at last what goes into the final norm."""

    def given(kind: Kind, layer: int) -> Callable[..., None]:
        return lambda module, args, kwargs: see(kind, layer, first_input(args, kwargs))

    def gives(kind: Kind, layer: int, gain: float) -> Callable[..., Any]:
        def gained(x: Tensor) -> Tensor:
            x = x * gain
            see(kind, layer, x)
            return x / gain  # so that a gradient by what the stream gains comes by way of it

        if gain == 1:
            return lambda module, args, out: see(kind, layer, first_output(out))
        return lambda module, args, out: on_output(gained, out)

    for layer, block in enumerate(architecture.blocks):
        # before all other hooks: the last block's input is narrowed by one of them
        yield block.block.register_forward_pre_hook(given("resid", layer), with_kwargs=True, prepend=True)
        if block.attn_out is not None:
            yield block.attn_out.register_forward_pre_hook(given("heads", layer), with_kwargs=True)
        yield block.attn_write.register_forward_hook(gives("attn", layer, block.attn_gain))
        yield block.mlp_write.register_forward_hook(gives("mlp", layer, block.mlp_gain))
    if architecture.ln_final is not None:
        yield architecture.ln_final.register_forward_pre_hook(given("final", architecture.n_layers), with_kwargs=True)


def recording(architecture: Architecture, context: ForwardContext) -> Iterator[RemovableHandle]:
    """Hooks that fill the forward's record."""
    spec, record, selection = context.spec, context.record, context.selection
    if spec is None or not len(spec.rows):
        return

    def at_tokens(x: Tensor) -> Tensor:
        if selection is not None and x.numel() // x.shape[-1] == selection.nodes.numel():
            x = x.view(*selection.nodes.shape, x.shape[-1])
            return x[spec.rows, selection.column[spec.rows, spec.nodes]]
        return _grid(context.batch, x)[spec.rows, spec.nodes]

    def see(kind: Kind, layer: int, x: Tensor) -> None:
        if kind == "final":
            record.final = at_tokens(x)
        else:
            getattr(record, kind).append(at_tokens(x))

    yield from observing(architecture, see)
    if architecture.gives_weights and spec.query_rows is not None:
        for layer, block in enumerate(architecture.blocks):
            for module in block.block.children():
                yield module.register_forward_hook(_reading_weights(layer, spec, record))


def _reading_weights(layer: int, spec: RecordSpec, record: ActivationRecord) -> Callable[..., Any]:
    """Sums by role the weights that a module gives beside its output, and takes them away, so that they are freed."""

    def hook(module: nn.Module, args: Any, out: Any) -> Any:
        some = out[1:] if isinstance(out, tuple | list) else ()
        weights = next((x for x in some if isinstance(x, Tensor) and x.dim() == 4 and x.shape[2] == x.shape[3]), None)
        if weights is None or spec.roles is None or layer in record.attention_layers:
            return None
        rows = weights[spec.query_rows, :, spec.query_nodes].float()
        record.attention.append(torch.einsum("q h k, q k r -> q h r", rows, spec.roles))
        record.attention_layers.append(layer)
        return type(out)((out[0], *(None if x is weights else x for x in some)))

    return hook


def editing(architecture: Architecture, edits: Sequence[ActivationEdit], batch: Batch) -> Iterator[RemovableHandle]:
    """Hooks that make the edits."""
    for layer in sorted({edit.layer for edit in edits}):
        block, here = architecture.blocks[layer], [e for e in edits if e.layer == layer]
        if by_head := [e for e in here if e.heads is not None]:
            yield block.attn_out.register_forward_pre_hook(_edit_heads(by_head, architecture.n_heads, batch))
        if of_mlp := [e for e in here if e.heads is None and not e.stream]:
            yield block.mlp_write.register_forward_hook(_edit_output(of_mlp, batch, block.mlp_gain))
        if of_stream := [e for e in here if e.stream]:
            yield block.block.register_forward_hook(_edit_output(of_stream, batch))


def _grid(batch: Batch, x: Tensor) -> Tensor:
    """(row, pos, d), though OPT runs its MLP on (row * pos, d): a view, so that edits reach it."""
    return x.view(*batch.ids.shape, x.shape[-1])


def _edit_heads(edits: Sequence[ActivationEdit], n_heads: int, batch: Batch) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Any, ...]) -> Any:
        z = args[0].clone()
        heads = rearrange(_grid(batch, z), "row pos (head d_head) -> row pos head d_head", head=n_heads)
        for edit in edits:
            assert edit.heads is not None
            edit.apply(heads, (edit.rows, edit.nodes, edit.heads))
        return (z, *args[1:])

    return hook


def _edit_output(edits: Sequence[ActivationEdit], batch: Batch, gain: float = 1.0) -> Callable[..., Any]:
    """Edits what the stream gains: ``gain`` times what the module gives."""

    def edited(x: Tensor) -> Tensor:
        x = x * gain if gain != 1 else x.clone()
        for edit in edits:
            edit.apply(_grid(batch, x), (edit.rows, edit.nodes))
        return x / gain if gain != 1 else x

    return lambda module, args, out: on_output(edited, out)


@contextmanager
def starting_at(architecture: Architecture, layer: int, hidden: Tensor) -> Iterator[None]:
    """Within it, the blocks before ``layer`` are not run: ``layer`` is given ``hidden``."""

    def passing_on(value: Tensor | None) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            out = first_input(args, kwargs) if value is None else value
            return out if architecture.mask_is_argument else (out, None)  # Bloom's blocks give their weights too

        return forward

    skipped = [block.block for block in architecture.blocks[:layer]]
    before = [vars(block).get("forward") for block in skipped]
    for i, block in enumerate(skipped):
        block.forward = passing_on(hidden if i == layer - 1 else None)
    try:
        yield
    finally:
        for block, forward in zip(skipped, before, strict=True):
            if forward is None:
                del block.forward  # the class's own again
            else:
                block.forward = forward
