"""The last layer, computed at those tokens alone that somebody reads.

Its attention needs keys and values of all tokens, the rest of the block only the tokens that are read. So the block is
given the selected tokens; its input norm, or its attention where no norm stands before, is handed all of them instead;
our attention function answers the selected queries; and what comes out of the block is filled up with zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from isp_mech.models.architecture import Block
from isp_mech.models.batch import Batch, TokenPlaces
from isp_mech.models.forward_context import CONTEXT, TokenSelection
from isp_mech.models.hooks import first_input, on_output, with_first_input


def select_tokens(batch: Batch, at: TokenPlaces, copy_length: int | None = None) -> TokenSelection | None:
    """The tokens ``at`` as ``in_rows`` gives them. None where they are over half of all: then attention written out
    would take longer than it spares."""
    selected = in_rows(batch, at, copy_length)
    return None if 2 * selected.nodes.shape[1] > batch.ids.shape[1] else selected


def in_rows(batch: Batch, at: TokenPlaces, copy_length: int | None = None) -> TokenSelection:
    """The tokens ``at``, each once, as equally many for each row of the batch; of rows that are copies of
    ``copy_length`` tokens, equally many of each copy."""
    n, pos = batch.ids.shape
    t = copy_length or pos
    wanted = torch.zeros(batch.ids.shape, dtype=torch.bool, device=batch.ids.device)
    wanted[at.rows, at.nodes] = True
    wanted = wanted.view(-1, t)  # (row copy) t
    m = max(1, int(wanted.sum(1).max()))
    column = (wanted.cumsum(1) - 1).clamp(min=0)
    order = torch.sort((~wanted).to(torch.uint8), dim=1, stable=True).indices[:, :m]  # the wanted first, in their order
    nodes = torch.where(wanted.gather(1, order), order, order[:, :1])
    copy = torch.arange(pos // t, device=nodes.device)[:, None]
    return TokenSelection((nodes.view(n, -1, m) + t * copy).flatten(1), (column.view(n, -1, t) + m * copy).flatten(1))


def attention_of(block: Block) -> nn.Module | None:
    """The part of a block in which its attention's output projection is."""
    return next((part for part in block.block.children() if block.attn_out in set(part.modules())), None)


def input_norm_of(block: Block, run: Callable[[], object]) -> nn.Module | None:
    """The part of a block whose output its attention is given, as ``run``, a forward, shows; the attention itself where
    it is given what the block is given; None where it is neither."""
    attention = attention_of(block)
    if attention is None:
        run()
        return None
    given: list[Tensor] = []
    outputs: list[tuple[nn.Module, Any]] = []

    def keep_input(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given.append(first_input(args, kwargs))

    def keep_output(module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
        outputs.append((module, out))

    with ExitStack() as stack:
        for part in (block.block, attention):
            stack.callback(part.register_forward_pre_hook(keep_input, with_kwargs=True).remove)
        for part in block.block.children():
            stack.callback(part.register_forward_hook(keep_output).remove)
        run()
    whole, attended = given
    if attended is whole:
        return attention
    return next((module for module, out in outputs if out is attended), None)


def compute_at_selected(block: Block, norm: nn.Module) -> None:
    """Makes a model's last block, in forwards with a selection, compute that alone. ``norm``: see ``input_norm_of``."""

    def enter_block(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        context = CONTEXT.get()
        if context is None or context.selection is None:
            return None
        context.selection.hidden = first_input(args, kwargs)
        return with_first_input(args, kwargs, context.selection.narrow(context.selection.hidden))

    def give_all(selected: TokenSelection, x: Tensor) -> Tensor:
        assert selected.hidden is not None
        return selected.hidden

    def give_attended(selected: TokenSelection, x: Tensor) -> Tensor:
        return x if selected.attended is None else selected.attended.flatten(2)

    def give_selected(selected: TokenSelection, x: Tensor) -> Tensor:  # an MLP may share the attention's norm
        return selected.narrow(x) if x.dim() == 3 and x.shape[:2] == selected.column.shape else x

    def leave_block(module: nn.Module, args: tuple[Any, ...], out: Any) -> Any:
        context = CONTEXT.get()
        if context is None or context.selected is None:
            return None
        selected = context.selected
        selected.hidden = selected.attended = None
        return on_output(selected.widen, out)

    block.block.register_forward_pre_hook(enter_block, with_kwargs=True)
    norm.register_forward_pre_hook(_while_selected(give_all), with_kwargs=True)
    block.attn_out.register_forward_pre_hook(_while_selected(give_attended), with_kwargs=True)
    for part in block.block.children():
        if part is not norm and part is not attention_of(block):
            part.register_forward_pre_hook(_while_selected(give_selected), with_kwargs=True)
    block.block.register_forward_hook(leave_block)


def _while_selected(change: Callable[[TokenSelection, Tensor], Tensor]) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        context = CONTEXT.get()
        if context is None or context.selected is None:
            return None
        return with_first_input(args, kwargs, change(context.selected, first_input(args, kwargs)))

    return hook
