"""Models: load, encode, run, look, edit. The one room that imports transformers and transformer_lens.

A ``Model`` keeps a plain transformers model whose attention goes through SDPA. TransformerLens's
architecture adapters, which need no weights, say which of its modules is what (``Architecture``). A
forward takes a ``Batch`` of token trees, keeps what a ``RecordSpec`` names and changes what ``ActivationEdit``
name; nothing of size positions x positions or positions x vocabulary is kept.
"""

from isp_mech.models.activations import ActivationEdit, ActivationRecord, Forward, RecordSpec
from isp_mech.models.architecture import Architecture, Norm, norm_of
from isp_mech.models.batch import Batch, Encoding, TokenPlaces
from isp_mech.models.bridge import read_jacobians
from isp_mech.models.chat import Chat, ChatSetting, PromptText
from isp_mech.models.check import Ability, ModelCheck, check_model
from isp_mech.models.fast_paths import fast_paths
from isp_mech.models.gradient_capture import GradientCapture, capture_gradients
from isp_mech.models.loading import (
    Models,
    check_device,
    in_float32,
    is_settled,
    load_model,
    load_size,
    members,
    plan_tokens,
    wrap_model,
)
from isp_mech.models.memory import free_bytes, is_out_of_memory, let_go
from isp_mech.models.model import Model
from isp_mech.models.prefix_cache import PrefixCache, ScoreBias

__all__ = [
    "Ability",
    "Architecture",
    "Batch",
    "Chat",
    "ChatSetting",
    "PromptText",
    "ActivationEdit",
    "Encoding",
    "Forward",
    "Model",
    "ModelCheck",
    "Models",
    "Norm",
    "ActivationRecord",
    "PrefixCache",
    "RecordSpec",
    "ScoreBias",
    "TokenPlaces",
    "GradientCapture",
    "check_device",
    "check_model",
    "in_float32",
    "free_bytes",
    "is_out_of_memory",
    "is_settled",
    "let_go",
    "load_model",
    "load_size",
    "members",
    "norm_of",
    "plan_tokens",
    "read_jacobians",
    "capture_gradients",
    "fast_paths",
    "wrap_model",
]
