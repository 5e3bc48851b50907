"""Traces: what a forward shows on the way to its answer, without any change to it."""

from __future__ import annotations

from isp_mech.tracing.head_types import class_shares, head_classes
from isp_mech.tracing.token_attention import token_attention
from isp_mech.tracing.trace import Traces, trace
from isp_mech.tracing.tuned_lens import Lens, load_lens, train_lens

__all__ = ["Lens", "Traces", "class_shares", "head_classes", "load_lens", "token_attention", "trace", "train_lens"]
