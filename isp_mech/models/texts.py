"""From texts to tokens, as the model's own tokenizer makes them; and what a model can take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from isp_mech.errors import InputError
from isp_mech.models.batch import Encoding

# how configs call the longest sequence a model was made for
LIMITS = (
    "max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "max_seq_length", "seq_length",
    "seq_len", "n_ctx", "model_max_length",
)  # fmt: skip
UNLIMITED = 10**9  # a tokenizer without a limit says 10^30


@dataclass(frozen=True)
class AddedTokens:
    """What a tokenizer puts before every text, and after it: start and end tokens, none, one or more."""

    before: tuple[int, ...]
    after: tuple[int, ...]


def added_tokens(tokenizer: PreTrainedTokenizerBase, name: str) -> AddedTokens:
    """What the tokenizer adds around a text. ``InputError`` where it is not the same around every text."""
    _check_fast(tokenizer, name)
    around = {_around(tokenizer, text) for text in ("a", "b c")}
    added = around.pop()
    if added is None or around:
        why = "its tokenizer adds other tokens around one text than around another: expected the same"
        raise InputError(name, [why])
    return added


def _around(tokenizer: PreTrainedTokenizerBase, text: str) -> AddedTokens | None:
    bare = tuple(tokenizer(text, add_special_tokens=False).input_ids)
    whole = tuple(tokenizer(text).input_ids)
    at = next((i for i in range(len(whole) - len(bare) + 1) if whole[i : i + len(bare)] == bare), None)
    return None if at is None else AddedTokens(whole[:at], whole[at + len(bare) :])


def encode_texts(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], added: AddedTokens | None, name: str
) -> list[Encoding]:
    """Tokens of each text behind the start tokens in ``added``, or, without, behind none; what is added after a
    text is left out: a completion or a sampled number would stand behind it.

    ``InputError`` where the tokenizer gives no character offsets.
    """
    _check_fast(tokenizer, name)
    if not texts:
        return []
    found = tokenizer(
        list(texts), add_special_tokens=added is not None, return_offsets_mapping=True, return_attention_mask=False
    )
    before, after = (added.before, added.after) if added is not None else ((), ())
    out = []
    for text, ids, spans in zip(texts, map(tuple, found["input_ids"]), found["offset_mapping"], strict=True):
        end = len(ids) - len(after)
        if ids[: len(before)] != before or ids[end:] != after:
            expected = f"expected {before} before and {after} after it"
            raise InputError(name, [f"its tokenizer adds other tokens around {text[:40]!r}: {expected}"])
        body = _with_spaces(text, spans[len(before) : end])
        out.append(Encoding(ids[:end], (*((0, 0),) * len(before), *body)))
    return out


def _check_fast(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(
            name, ["its tokenizer gives no character offsets: a fast tokenizer (tokenizer.json) is needed"]
        )


def _with_spaces(text: str, spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The spans; a token of white space alone, which trimmed offsets leave with none, has the space before its end."""
    if not any(start == end for start, end in spans):
        return list(spans)
    out, last = [], 0
    for start, end in spans:
        if start == end > last and text[last:end].isspace():
            start = last
        out.append((start, end))
        last = max(last, end)
    return out


def end_tokens(hf: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The tokens with which a model ends what it says."""
    told: list[object] = []
    for source in (getattr(hf, "generation_config", None), hf.config, tokenizer):
        ends = getattr(source, "eos_token_id", None)
        told += ends if isinstance(ends, list | tuple) else [ends]
    return frozenset(token for token in told if isinstance(token, int))


def token_limit(config: Any, tokenizer: PreTrainedTokenizerBase, embeddings: Sequence[Any]) -> int | None:
    """The longest sequence that a model was made for: as its config says, under whatever name, and no more than its
    learned positions; else what its tokenizer says; None where nobody does.

    ``embeddings`` are those of tokens and positions.
    """
    inner = config.get_text_config() if hasattr(config, "get_text_config") else config
    found = [int(n) for n in (getattr(inner, limit, None) for limit in LIMITS) if _is_limit(n)]
    for positions in embeddings[1:]:
        if isinstance(positions, nn.Embedding):  # some leave their first rows for padding
            found.append(positions.num_embeddings - int(getattr(positions, "offset", 0)))
    by_tokenizer = getattr(tokenizer, "model_max_length", None)
    if not found and _is_limit(by_tokenizer):
        found = [int(by_tokenizer)]
    return min(found, default=None)


def _is_limit(n: object) -> TypeGuard[int | float]:
    return isinstance(n, int | float) and not isinstance(n, bool) and 0 < n < UNLIMITED
