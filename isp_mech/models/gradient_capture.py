"""What gradients within a layer are taken between: its input, its heads' outputs, and what it writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from isp_mech.models.architecture import Architecture
from isp_mech.models.hooks import first_input, first_output


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
    """Within it, a forward that keeps gradients fills a ``GradientCapture``. Edits of it that add to heads and MLPs
    come after what is captured, so that a gradient by it is one by what is edited too."""
    captured = GradientCapture()

    def keep_before(layer: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x = first_input(args, kwargs)
            captured.before[layer] = x if x.requires_grad else x.requires_grad_()

        return hook

    def keep_heads(layer: int) -> Callable[..., None]:
        return lambda module, args, kwargs: captured.heads.update({layer: first_input(args, kwargs)})

    def keep_output(into: dict[int, Tensor], layer: int) -> Callable[..., None]:
        return lambda module, args, out: into.update({layer: first_output(out)})

    def keep_final(module: nn.Module, args: tuple[Any, ...]) -> None:
        captured.final = args[0]

    with ExitStack() as stack:
        for layer, block in enumerate(architecture.blocks):
            for handle in (
                block.block.register_forward_pre_hook(keep_before(layer), with_kwargs=True),
                block.attn_out.register_forward_pre_hook(keep_heads(layer), with_kwargs=True),
                block.attn_write.register_forward_hook(keep_output(captured.attn, layer)),
                block.mlp_write.register_forward_hook(keep_output(captured.mlp, layer)),
            ):
                stack.callback(handle.remove)
        if architecture.ln_final is not None:
            stack.callback(architecture.ln_final.register_forward_pre_hook(keep_final).remove)
        yield captured
