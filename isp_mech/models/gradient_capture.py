"""What gradients within a layer are taken between: its input, its heads' outputs, and what it writes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from torch import Tensor

from isp_mech.models.architecture import Architecture
from isp_mech.models.hooks import observing


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

    def before(layer: int, x: Tensor) -> None:
        captured.before[layer] = x if x.requires_grad else x.requires_grad_()

    def final(x: Tensor) -> None:
        captured.final = x

    with ExitStack() as stack:
        for handle in observing(
            architecture,
            before=before,
            heads=captured.heads.__setitem__,
            attn=captured.attn.__setitem__,
            mlp=captured.mlp.__setitem__,
            final=final,
        ):
            stack.callback(handle.remove)
        yield captured
