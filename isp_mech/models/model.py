"""A loaded model: its tokens, its forwards, its logits."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from isp_mech.errors import InputError
from isp_mech.models.architecture import Architecture
from isp_mech.models.bridge import capture
from isp_mech.models.forward_types import (
    CONTEXT,
    ActivationEdit,
    ActivationRecord,
    Batch,
    Encoding,
    ForwardContext,
    PrefixCache,
    RecordSpec,
    TokenSelection,
    mask_of,
)
from isp_mech.models.hooks import hooks, narrow_copies, narrow_to, starting_at
from isp_mech.models.parity import expect_equal

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, eq=False)
class Model:
    """A loaded model. ``hf`` is the transformers model itself; every parameter belongs to it alone.
    ``source`` is the folder or hub id it was loaded from, if it was."""

    name: str
    revision: str | None
    n_params: int
    hf: Any
    tokenizer: Any
    architecture: Architecture
    dtype: str
    device: str
    source: str | None = None

    def __repr__(self) -> str:
        shape = f"{self.architecture.n_layers} layers x {self.architecture.n_heads} heads"
        return f"Model({self.name!r}, {shape}, {self.n_params:,} parameters without embeddings, {self.dtype})"

    @property
    def accepts_custom_masks(self) -> bool:
        """Whether the attention accepts custom masks, so that prompts may share a beginning."""
        return self.architecture.accepts_custom_masks

    @property
    def packs(self) -> bool:
        """Deprecated: ``accepts_custom_masks``."""
        warnings.warn("Model.packs is accepts_custom_masks now", DeprecationWarning, stacklevel=2)
        return self.accepts_custom_masks

    @property
    def accepts_trees(self) -> bool:
        """Whether one forward may hold a tree of tokens; true of some models whose attention is their own."""
        return self.architecture.accepts_trees

    @property
    def max_tokens(self) -> int | None:
        """The longest sequence the model was made for, None where its config names none."""
        config = self.hf.config
        found = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
        return int(found) if found else None

    def encode(self, texts: Sequence[str]) -> list[Encoding]:
        """Tokens of each text as the model's own tokenizer makes them, its special tokens included."""
        if not getattr(self.tokenizer, "is_fast", False):
            raise InputError(
                self.name, ["its tokenizer gives no character offsets: a fast tokenizer (tokenizer.json) is needed"]
            )
        found = self.tokenizer(list(texts), return_offsets_mapping=True, return_attention_mask=False)
        return [
            Encoding(tuple(ids), tuple(spans))
            for ids, spans in zip(found["input_ids"], found["offset_mapping"], strict=True)
        ]

    @property
    def reads_alike(self) -> tuple[object, ...]:
        """What tells how this model reads texts: two models in which it is equal make the same tokens of them."""
        kind, backend = type(self.tokenizer), getattr(self.tokenizer, "backend_tokenizer", None)
        told = id(self.tokenizer) if backend is None else backend.to_str()
        special = (*self.tokenizer.all_special_ids, getattr(self.tokenizer, "split_special_tokens", None))
        return kind, told, special, self.max_tokens

    @cached_property
    def bridge(self) -> Any:
        """The model as a TransformerLens ``TransformerBridge``, for hooks by the field's names.

        Made when first asked for, over a second skeleton of modules that shares this model's
        parameters (booting a bridge rewrites the modules it is given); its logits are compared with
        the model's own, and a difference over 1e-3 is a ``RuntimeError``.
        """
        from transformer_lens.model_bridge import TransformerBridge

        shared = {id(t): t for t in (*self.hf.parameters(), *self.hf.buffers())}
        skeleton = copy.deepcopy(self.hf, memo=dict(shared))
        skeleton.set_attn_implementation("eager")
        tokenizer = copy.deepcopy(self.tokenizer)  # which booting changes too
        if not tokenizer.name_or_path:  # made in memory: it is not to be looked for on disk
            tokenizer.init_kwargs |= {"name_or_path": "", "add_bos_token": True}
        bridge = TransformerBridge.boot_transformers(
            self.name, hf_model=skeleton, tokenizer=tokenizer, device=self.device, dtype=DTYPES[self.dtype]
        )
        ids = self._probe_ids()
        with torch.no_grad():
            expect_equal(f"{self.name}: TransformerBridge", bridge(ids), self.hf(ids).logits, self.dtype)
        return bridge

    def capture(
        self, names: str | Sequence[str], prompts: str | Sequence[str], *, limit_gb: float | None = None
    ) -> list[dict[str, Tensor]]:
        """Raw activations of a few prompts, per prompt, by TransformerLens's names: for scripts of your own.

        A name is as ``blocks.3.attn.hook_pattern`` (head, query, key) or ``blocks.*.hook_resid_post``
        (pos, d_model): shapes are TransformerLens's without the axis of the batch. What they would take is
        reckoned before anything is kept: ``InputError`` where it is more than ``limit_gb`` (half of the free
        memory), and for names that this model has not. Slower than tracing, which keeps no activations.
        """
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        return capture(
            self.bridge,
            [encoding.ids for encoding in self.encode(texts)],
            [names] if isinstance(names, str) else list(names),
            name=self.name,
            limit_gb=limit_gb,
        )

    def unembed(self, hidden: Float[Tensor, "n d_model"]) -> Float[Tensor, "n vocab"]:
        """Logits, in float32, of residual vectors that went through the final norm."""
        weight = self.architecture.unembed.weight
        device = weight.device if weight.device.type != "meta" else hidden.device  # offloaded: its hook moves it
        return self._finish(self.architecture.unembed(hidden.to(device, weight.dtype)).float())

    def _finish(self, logits: Tensor) -> Tensor:
        logits, cap = logits * self.architecture.logit_scale, self.architecture.logit_cap
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def forward(
        self, batch: Batch, *, watch: RecordSpec | None = None, edits: Sequence[ActivationEdit] = ()
    ) -> tuple[Float[Tensor, "row pos d_model"], ActivationRecord]:
        """Hidden states after the final norm, and what ``watch`` asked for.

        ``edits`` take effect in their layer's forward, so that everything after them follows.
        """
        return self._run(self._own(batch), watch, edits)

    def read(
        self, batch: Batch, rows: Int[Tensor, " n"], nodes: Int[Tensor, " n"], *, watch: RecordSpec | None = None
    ) -> tuple[Float[Tensor, "n d_model"], ActivationRecord]:
        """Hidden states after the final norm at the ``n`` tokens ``(rows, nodes)``, and what ``watch`` asked for.

        What ``forward`` gives at those tokens; the last layer is computed at them and the watched ones alone.
        """
        batch = self._own(batch)
        all_rows, all_nodes = rows, nodes
        if watch is not None:
            all_rows, all_nodes = torch.cat([rows, watch.rows]), torch.cat([nodes, watch.nodes])
        narrow = (
            narrow_to(batch, all_rows, all_nodes, self.architecture.n_layers - 1) if self.accepts_custom_masks else None
        )
        if narrow is not None and not narrow.is_worth_it:
            narrow = None
        hidden, record = self._run(batch, watch, (), narrow)
        return hidden[rows, nodes], record

    def _own(self, batch: Batch) -> Batch:
        """The batch on the model's device; ``ValueError`` for trees that its attention cannot take."""
        if batch.visible is not None and not self.accepts_trees:
            raise ValueError(f"{self.name} takes chains of tokens only: its attention makes its own mask")
        visible = None if batch.visible is None else batch.visible.to(self.device)
        return Batch(batch.ids.to(self.device), batch.depth.to(self.device), visible)

    def _run(
        self,
        batch: Batch,
        watch: RecordSpec | None,
        edits: Sequence[ActivationEdit],
        narrow: TokenSelection | None = None,
    ) -> tuple[Float[Tensor, "row pos d_model"], ActivationRecord]:
        seen = None
        if watch is not None and watch.query_rows is not None and watch.query_nodes is not None:
            seen = batch.seen_from(watch.query_rows, watch.query_nodes)
        record = ActivationRecord()
        token = CONTEXT.set(ForwardContext(batch, watch, record, seen, narrow=narrow))
        with ExitStack() as stack, torch.no_grad():
            stack.callback(CONTEXT.reset, token)
            for handle in hooks(self.architecture, watch, record, edits, batch, narrow):
                stack.callback(handle.remove)
            finds_mask = self.accepts_custom_masks and not self.architecture.mask_is_argument
            out = self.hf.base_model(
                input_ids=batch.ids,
                attention_mask=None if finds_mask else mask_of(batch, DTYPES[self.dtype]),
                position_ids=batch.depth,
                use_cache=False,
            )
        return out.last_hidden_state, record

    def branch(
        self,
        batch: Batch,
        trunk: PrefixCache,
        *,
        start: int = 0,
        edits: Sequence[ActivationEdit] = (),
        gradients: bool = False,
    ) -> Float[Tensor, "row pos d_model"]:
        """Hidden states after the final norm of copies of each row's last tokens, each with its own edits.

        ``batch`` holds the copies one after the other, the trunk's ``t`` tokens each. The run starts at
        layer ``start``, before which no edit may lie: there all copies are as ``trunk.resid`` has them.
        With ``gradients`` what comes out can be differentiated by the edits' values.
        """
        return self._run_copies(self._own_copies(batch), trunk, start=start, edits=edits, gradients=gradients)

    def read_copies(
        self, batch: Batch, trunk: PrefixCache, rows: Int[Tensor, " n"], nodes: Int[Tensor, " n"]
    ) -> Float[Tensor, "n d_model"]:
        """What ``branch`` gives at the ``n`` tokens ``(rows, nodes)``; the last layer is computed at them alone."""
        batch = self._own_copies(batch)
        narrow = narrow_copies(batch, rows, nodes, self.architecture.n_layers - 1, trunk.own.shape[-1])
        return self._run_copies(batch, trunk, narrow=narrow if narrow.is_worth_it else None)[rows, nodes]

    def _own_copies(self, batch: Batch) -> Batch:
        if not self.accepts_custom_masks:
            raise ValueError(f"{self.name} takes chains of tokens only: its attention makes its own mask")
        return Batch(batch.ids.to(self.device), batch.depth.to(self.device))

    def _run_copies(
        self,
        batch: Batch,
        trunk: PrefixCache,
        *,
        start: int = 0,
        edits: Sequence[ActivationEdit] = (),
        gradients: bool = False,
        narrow: TokenSelection | None = None,
    ) -> Float[Tensor, "row pos d_model"]:
        copies = batch.ids.shape[1] // trunk.own.shape[-1]
        token = CONTEXT.set(ForwardContext(batch, None, ActivationRecord(), None, trunk, narrow))
        with ExitStack() as stack, torch.set_grad_enabled(gradients):
            stack.callback(CONTEXT.reset, token)
            if start:
                stack.enter_context(starting_at(self.architecture, start, trunk.resid[start].repeat(1, copies, 1)))
            for handle in hooks(self.architecture, None, ActivationRecord(), edits, batch):
                stack.callback(handle.remove)
            unused = None  # our attention has its own
            if self.architecture.mask_is_argument:
                unused = torch.zeros(1, 1, 1, 1, dtype=DTYPES[self.dtype], device=self.device)
            out = self.hf.base_model(
                input_ids=batch.ids, attention_mask=unused, position_ids=batch.depth, use_cache=False
            )
        return out.last_hidden_state

    def logits_of(self, hidden: Float[Tensor, "n d_model"], tokens: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """The logit (float32) of one token after each of ``n`` vectors that went through the final norm."""
        unembed = self.architecture.unembed
        raw = (hidden.float() * unembed.weight[tokens].float()).sum(-1)
        if unembed.bias is not None:
            raw = raw + unembed.bias[tokens].float()
        return self._finish(raw)

    def _probe_ids(self) -> Tensor:
        count = int(self.hf.config.vocab_size)
        return (torch.arange(1, 12, device=self.device) * 7919 % count)[None]
