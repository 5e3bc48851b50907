"""What gradients within a layer are taken between: its input, its heads' outputs, and what it writes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from torch import Tensor

from isp_mech.models.architecture import Architecture
from isp_mech.models.hooks import Kind, observing


@dataclass
class GradientCapture:
    """Of one forward, by layer, the tensors themselves, shaped as the modules have them: ``resid`` the residual
    stream that goes in, ``heads`` each head's output before the projection, ``attn`` and ``mlp`` what the sublayers
    write; and ``final``, what goes into the final norm. Layers that are not run are not there."""

    resid: dict[int, Tensor] = field(default_factory=dict)
    heads: dict[int, Tensor] = field(default_factory=dict)
    attn: dict[int, Tensor] = field(default_factory=dict)
    mlp: dict[int, Tensor] = field(default_factory=dict)
    final: Tensor | None = None


@contextmanager
def capture_gradients(architecture: Architecture) -> Iterator[GradientCapture]:
    """Within it, a forward that keeps gradients fills a ``GradientCapture``. Edits of it that add to heads and MLPs
    come after what is captured, so that a gradient by it is one by what is edited too."""
    captured = GradientCapture()

    def see(kind: Kind, layer: int, x: Tensor) -> None:
        if kind == "final":
            captured.final = x
        else:
            getattr(captured, kind)[layer] = x if kind != "resid" or x.requires_grad else x.requires_grad_()

    with ExitStack() as stack:
        for handle in observing(architecture, see):
            stack.callback(handle.remove)
        yield captured
