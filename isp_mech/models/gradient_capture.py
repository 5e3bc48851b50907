"""What gradients within a layer are taken between: its input, its heads' outputs, and what it writes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from isp_mech.models.architecture import Architecture


@dataclass
class GradientCapture:
    """Of one forward, by layer, the tensors themselves, shaped as the modules have them: ``before`` the residual
    stream that goes in, ``heads`` each head's output before the projection, ``attn`` and ``mlp`` what the sublayers
    write; and ``final``, what goes into the final norm. Layers that are not run are not there."""

    before: dict[int, Tensor] = field(default_factory=dict)
    heads: dict[int, Tensor] = field(default_factory=dict)
    attn: dict[int, Tensor] = field(default_factory=dict)
    mlp: dict[int, Tensor] = field(default_factory=dict)
    final: Tensor | None = None


@contextmanager
def capture_gradients(architecture: Architecture) -> Iterator[GradientCapture]:
    """Within it, a forward that keeps gradients leaves its ``GradientCapture``. Edits of it that add to heads and MLPs
    come after what is left, so that a gradient by it is one by what is edited too."""
    wires = GradientCapture()

    def first(args: tuple, kwargs: dict) -> Tensor:
        return args[0] if args else kwargs["hidden_states"]

    def keep_before(layer: int) -> Any:
        def hook(module, args, kwargs):
            x = first(args, kwargs)
            wires.before[layer] = x if x.requires_grad else x.requires_grad_()

        return hook

    def keep_heads(layer: int) -> Any:
        return lambda module, args, kwargs: wires.heads.update({layer: first(args, kwargs)})

    def keep_output(into: dict[int, Tensor], layer: int) -> Any:
        return lambda module, args, out: into.update({layer: out[0] if isinstance(out, tuple) else out})

    def keep_final(module, args):
        wires.final = args[0]

    with ExitStack() as stack:
        for layer, block in enumerate(architecture.blocks):
            for handle in (
                block.block.register_forward_pre_hook(keep_before(layer), with_kwargs=True),
                block.attn_out.register_forward_pre_hook(keep_heads(layer), with_kwargs=True),
                block.attn_write.register_forward_hook(keep_output(wires.attn, layer)),
                block.mlp_write.register_forward_hook(keep_output(wires.mlp, layer)),
            ):
                stack.callback(handle.remove)
        if architecture.ln_final is not None:
            stack.callback(architecture.ln_final.register_forward_pre_hook(keep_final).remove)
        yield wires
