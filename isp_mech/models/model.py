"""A loaded model: its tokens, its forwards, its logits."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from inspect import signature
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from isp_mech.errors import InputError
from isp_mech.models.activations import ActivationEdit, ActivationRecord, Forward, RecordSpec
from isp_mech.models.architecture import Architecture
from isp_mech.models.batch import Batch, Encoding, TokenPlaces, attention_mask
from isp_mech.models.bridge import capture
from isp_mech.models.chat import Chat, ChatSetting, PromptText, chat_of
from isp_mech.models.equal_logits import expect_equal
from isp_mech.models.fast_paths import fast_paths
from isp_mech.models.forward_context import CONTEXT, ForwardContext
from isp_mech.models.hooks import editing, recording, starting_at
from isp_mech.models.last_layer import in_rows, select_tokens
from isp_mech.models.prefix_cache import PrefixCache
from isp_mech.models.skeleton import second_skeleton
from isp_mech.models.texts import AddedTokens, added_tokens, encode_texts, end_tokens, token_limit

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

Dtype = Literal["float32", "bfloat16", "float16"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, eq=False)
class Model:
    """A loaded model. ``hf`` is the transformers model, in evaluation mode, with our attention.
    ``source`` is the folder, file or hub id it was loaded from, if it was, ``runs_own_code`` whether code that comes
    with it may run; ``notes`` are what a reader of its numbers must know of its weights. ``chat`` frames prompts in its
    chat template, where that was asked for."""

    name: str
    revision: str | None
    n_params: int
    hf: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    architecture: Architecture
    dtype: str
    device: str
    source: str | None = None
    notes: tuple[str, ...] = ()
    chat: Chat | None = None
    runs_own_code: bool = False

    def __repr__(self) -> str:
        shape = f"{self.architecture.n_layers} layers x {self.architecture.n_heads} heads"
        return f"Model({self.name!r}, {shape}, {self.n_params:,} parameters without embeddings, {self.dtype})"

    @property
    def accepts_custom_masks(self) -> bool:
        """Whether the attention accepts custom masks."""
        return self.architecture.accepts_custom_masks

    @property
    def uses_prefix_caches(self) -> bool:
        """Whether prompts that begin alike are run over one prefix: where custom masks are accepted."""
        return self.architecture.accepts_custom_masks and fast_paths()

    @property
    def accepts_trees(self) -> bool:
        """Whether one forward may hold a tree of tokens; true of some models whose attention is their own."""
        return self.architecture.accepts_trees

    @property
    def shares_trees(self) -> bool:
        """Whether prompts that begin alike share a tree: where trees are accepted."""
        return self.architecture.accepts_trees and fast_paths()

    @property
    def packs(self) -> bool:
        """Deprecated: ``accepts_custom_masks``."""
        warnings.warn("Model.packs is accepts_custom_masks now", DeprecationWarning, stacklevel=2)
        return self.accepts_custom_masks

    @cached_property
    def max_tokens(self) -> int | None:
        """The longest sequence the model was made for, None where neither its config nor its tokenizer says."""
        return token_limit(self.hf.config, self.tokenizer, self.architecture.embeddings)

    @cached_property
    def added(self) -> AddedTokens:
        """What the tokenizer adds before every text and after it."""
        return added_tokens(self.tokenizer, self.name)

    def encode(self, texts: Sequence[str]) -> list[Encoding]:
        """Tokens of each text as the model's own tokenizer makes them, behind what it adds before every text. What
        it adds after one is left out."""
        return encode_texts(self.tokenizer, texts, self.added if self.chat is None else None, self.name)

    @property
    def start_tokens(self) -> tuple[int, ...]:
        """What ``encode`` puts before every text: in chat nothing, since the template has its own."""
        return self.added.before if self.chat is None else ()

    def with_chat(self, chat: ChatSetting | None) -> Model:
        """The same model with its prompts in its chat template, with a system text, or without; None leaves it as it
        is. ``InputError`` where it has no template, or one that cannot be used."""
        return self if chat is None else replace(self, chat=chat_of(self.tokenizer, self.name, chat))

    def prompt_text(self, prompt: str) -> PromptText | str:
        """A prompt as the tokenizer is given it: as it is, or in the chat template; or what is wrong with it there."""
        return PromptText(prompt, 0, len(prompt), 0) if self.chat is None else self.chat.prompt_text(prompt)

    def reply_text(self, completion: str) -> str:
        """A completion as the tokenizer is given it after a prompt."""
        return completion if self.chat is None else self.chat.reply_text(completion)

    def read(self, ids: Sequence[int]) -> str:
        """The text that tokens read as, special ones included."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def spelling(self, token: int) -> str:
        """How the tokenizer spells a token."""
        return str(self.tokenizer.convert_ids_to_tokens(token))

    @cached_property
    def end_tokens(self) -> frozenset[int]:
        """The tokens with which the model ends what it says."""
        return end_tokens(self.hf, self.tokenizer)

    @cached_property
    def n_tokens(self) -> int:
        """How many tokens the model knows: has an embedding and a logit of."""
        return min(len(self.hf.get_input_embeddings().weight), len(self.architecture.unembed.weight))

    def length_of(self, n_tokens: int) -> int | None:
        """What ``Batch.length`` is for texts of so many tokens; None where positions do not depend on it."""
        rule = self.architecture.length_rule
        return None if rule is None else rule.length(n_tokens)

    def unfit(self, ids: Sequence[int]) -> str:
        """What keeps the model from taking these tokens: too many, or one that it has no embedding of; else ""."""
        limit, rows = self.max_tokens, self.n_tokens
        if limit is not None and len(ids) > limit:
            return f"{len(ids)} tokens, expected at most the model's {limit}"
        if (last := max(ids, default=0)) >= rows:
            return f"token {last} ({self.spelling(last)!r}), expected one of the model's {rows}: its tokenizer has more"
        return ""

    @property
    def reads_alike(self) -> tuple[object, ...]:
        """What tells how this model reads texts: two models in which it is equal make the same tokens of them."""
        kind, backend = type(self.tokenizer), getattr(self.tokenizer, "backend_tokenizer", None)
        told = id(self.tokenizer) if backend is None else backend.to_str()
        special = (*self.tokenizer.all_special_ids, getattr(self.tokenizer, "split_special_tokens", None))
        return kind, told, special, self.max_tokens, self.chat

    @cached_property
    def bridge(self) -> TransformerBridge:
        """The model as a TransformerLens ``TransformerBridge``, for hooks by the field's names.

        Made when first asked for, over modules of its own that share this model's parameters (booting a
        bridge rewrites the modules it is given); its logits are compared with the model's own, and a
        difference over 1e-3 is a ``RuntimeError``.
        """
        from transformer_lens.model_bridge import TransformerBridge

        skeleton = second_skeleton(self.hf)
        skeleton.set_attn_implementation("eager")
        tokenizer = copy.deepcopy(self.tokenizer)  # which booting changes too
        if not tokenizer.name_or_path:  # made in memory: it is not to be looked for on disk
            tokenizer.init_kwargs |= {"name_or_path": "", "add_bos_token": True}
        bridge = TransformerBridge.boot_transformers(
            self.name, hf_model=skeleton, tokenizer=tokenizer, device=self.device, dtype=DTYPES[self.dtype]
        )
        ids = probe_ids(self.hf, self.device)
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
        framed = [self.prompt_text(prompt) for prompt in ([prompts] if isinstance(prompts, str) else prompts)]
        if problems := [f"prompt {i}: {problem}" for i, problem in enumerate(framed) if isinstance(problem, str)]:
            raise InputError(f"{self.name}: capture", problems)
        return capture(
            self.bridge,
            [encoding.ids for encoding in self.encode([f.text for f in framed if isinstance(f, PromptText)])],
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
        self,
        batch: Batch,
        *,
        prefix: PrefixCache | None = None,
        at: TokenPlaces | None = None,
        record: RecordSpec | None = None,
        edits: Sequence[ActivationEdit] = (),
        first_layer: int = 0,
        gradients: bool = False,
    ) -> Forward:
        """One forward, the only one: hidden states after the final norm, at all tokens or at ``at``, and what
        ``record`` asks for.

        ``edits`` take effect in their layer's forward, so that everything after them follows. With ``at`` the last
        layer is computed at few tokens alone, where that is the faster. With ``prefix`` the batch holds copies of each
        row's last tokens, one after the other, each as many as the prefix cache says: every copy sees the prefix and
        itself. They may start at ``first_layer``, before which no edit may lie: there all copies are as
        ``prefix.resid`` has them. With ``gradients`` the hidden states can be differentiated by the edits' values.
        """
        self._check(batch, prefix, record, first_layer)
        batch, copy_length = batch.to(self.device), None if prefix is None else prefix.visible_within.shape[-1]
        selection = None
        if at is not None and self.architecture.selects_tokens and fast_paths() and not (edits or gradients):
            places = (
                at
                if record is None
                else TokenPlaces(torch.cat([at.rows, record.rows]), torch.cat([at.nodes, record.nodes]))
            )
            selection = select_tokens(batch, places, copy_length)
        asking = None
        if record is not None and record.query_rows is not None and not self.architecture.gives_weights:
            assert record.query_nodes is not None
            asking = in_rows(batch, TokenPlaces(record.query_rows, record.query_nodes))
        context = ForwardContext(batch, record, ActivationRecord(), prefix, selection, asking)
        with ExitStack() as stack, torch.set_grad_enabled(gradients):
            stack.callback(CONTEXT.reset, CONTEXT.set(context))
            if prefix is not None and first_layer:
                hidden = prefix.resid[first_layer].repeat(1, batch.ids.shape[1] // prefix.visible_within.shape[-1], 1)
                stack.enter_context(starting_at(self.architecture, first_layer, hidden))
            for handle in (*editing(self.architecture, edits, batch), *recording(self.architecture, context)):
                stack.callback(handle.remove)
            weights = self.architecture.gives_weights and record is not None and record.query_rows is not None
            out = self._run(batch, self._mask(batch, prefix, written_out=weights), weights=weights)
        return Forward(out if at is None else out[at.rows, at.nodes], context.record)

    def _check(self, batch: Batch, prefix: PrefixCache | None, record: RecordSpec | None, first_layer: int) -> None:
        """``ValueError`` for trees or a prefix that the attention does not accept, and for what goes not together."""
        accepted = self.architecture.accepts_trees if prefix is None else self.accepts_custom_masks
        if not accepted and (prefix is not None or batch.visible is not None):
            raise ValueError(f"{self.name} takes chains of tokens only: its attention makes its own mask")
        if prefix is None and first_layer:
            raise ValueError("first_layer: expected a prefix, which knows what goes into that layer")
        if prefix is not None and record is not None and (record.keys or record.query_rows is not None):
            raise ValueError("over a prefix neither keys nor attention are recorded")

    def _run(self, batch: Batch, mask: Tensor | None, *, weights: bool) -> Tensor:
        """The states that go into the unembedding; with ``weights`` the model's own attention gives its weights."""
        shape = self.architecture
        given = {"input_ids": batch.ids, "attention_mask": mask, "position_ids": batch.depth, "use_cache": False}
        taken = signature((self.hf if shape.runs_whole else shape.decoder).forward).parameters
        given = {key: value for key, value in given.items() if key in taken or "kwargs" in taken}
        given |= {"output_attentions": True} if weights else {}
        if not shape.runs_whole:
            states: Tensor = shape.decoder(**given).last_hidden_state
            return states
        seen: list[Tensor] = []
        handle = shape.unembed.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        try:
            self.hf(**given)
        finally:
            handle.remove()
        return seen[-1]

    def _mask(self, batch: Batch, prefix: PrefixCache | None, *, written_out: bool = False) -> Tensor | None:
        if self.accepts_custom_masks and not self.architecture.mask_is_argument:
            return None  # Bloom's attention finds it in the batch
        if prefix is not None:
            return torch.zeros(1, 1, 1, 1, dtype=DTYPES[self.dtype], device=self.device)  # not used
        if written_out and self.accepts_trees:  # Falcon's own adds a mask of truth values as if they were scores
            batch = replace(batch, visible=batch.all_visible())
        return attention_mask(batch, DTYPES[self.dtype])

    def logits_of(self, hidden: Float[Tensor, "n d_model"], tokens: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """The logit (float32) of one token after each of ``n`` vectors that went through the final norm."""
        unembed = self.architecture.unembed
        raw = (hidden.float() * unembed.weight[tokens].float()).sum(-1)
        if unembed.bias is not None:
            raw = raw + unembed.bias[tokens].float()
        return self._finish(raw)


def probe_ids(hf: PreTrainedModel, device: str) -> Int[Tensor, "1 pos"]:
    """Some tokens of the vocabulary, for comparing logits."""
    return (torch.arange(1, 12, device=device) * 7919 % int(hf.config.get_text_config().vocab_size))[None]
