"""What the attention function and the hooks of the forward under way are to know; each thread has its own."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from isp_mech.models.activations import ActivationRecord, RecordSpec
from isp_mech.models.batch import Batch
from isp_mech.models.prefix_cache import PrefixCache


@dataclass(eq=False)
class TokenSelection:
    """The tokens at which the last layer is computed: ``nodes[row, i]``, filled up with repeats.

    ``column[row, node]`` is a token's place in ``nodes``. While the layer runs, ``hidden`` is its input at all tokens,
    and ``attended`` what its heads gave at the selected ones.
    """

    nodes: Int[Tensor, "row m"]
    column: Int[Tensor, "row pos"]
    hidden: Tensor | None = None
    attended: Tensor | None = None

    def __post_init__(self) -> None:
        self._rows = torch.arange(len(self.nodes), device=self.nodes.device)[:, None]

    def narrow(self, x: Tensor) -> Tensor:
        """(row, pos, ..) at the selected tokens: (row, m, ..)."""
        return x[self._rows, self.nodes]

    def widen(self, x: Tensor) -> Tensor:
        """(row, m, ..) put at the selected tokens, with zeros at the others: (row, pos, ..)."""
        out = x.new_zeros(*self.column.shape, *x.shape[2:])
        out[self._rows, self.nodes] = x
        return out


@dataclass(frozen=True)
class ForwardContext:
    """One forward: what it runs, what is asked of it, and what it has recorded so far. ``asking`` are the tokens whose
    attention is recorded."""

    batch: Batch
    spec: RecordSpec | None
    record: ActivationRecord
    prefix: PrefixCache | None = None
    selection: TokenSelection | None = None
    asking: TokenSelection | None = None

    @property
    def length(self) -> int | None:
        """The length of the texts, where positions depend on it: the batch's, or the prefix's."""
        return self.batch.length if self.prefix is None else self.prefix.length

    @property
    def selected(self) -> TokenSelection | None:
        """The selection, while the last layer runs."""
        return None if self.selection is None or self.selection.hidden is None else self.selection


CONTEXT: ContextVar[ForwardContext | None] = ContextVar("isp_mech_forward", default=None)
