"""Where transformers' tokenizer of a GGUF file would make other tokens than the file's own rules: mended, or named.

The file names a rule by which text is split before merging (``tokenizer.ggml.pre``); the rules are those of llama.cpp.
"""

from __future__ import annotations

from typing import Any

from tokenizers import Regex, pre_tokenizers
from transformers import PreTrainedTokenizerBase

from isp_mech.weight_files import GGUFHeader

# rules that split as GPT-2 does, which is what transformers falls back on
_LIKE_GPT2 = ("gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "roberta-bpe", "jina-v1-en")
# each digit alone first, then as GPT-2 does
_DIGITS_FIRST = ("starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b")
# rules by which every text begins with the start token where the file does not say
_BEGIN_WITH_START = ("llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral", "midm-2.0", "lfm2", "tekken")
# rules by which a word that is a token is not taken apart
_WHOLE_WORDS = (*_BEGIN_WITH_START, "falcon-h1", "jina-v5-nano")
_QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3_SPLIT = _QWEN2_SPLIT.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
_SPLITS = {"stablelm2": _QWEN2_SPLIT, "hunyuan": _QWEN2_SPLIT, "glm4": _LLAMA3_SPLIT, "chatglm-bpe": _LLAMA3_SPLIT}
_OF_GPT2 = ("gpt2", "gptneox", "mpt", "olmo", "phi2")  # architectures whose files split so when they name no rule


def mend_tokenizer(tokenizer: PreTrainedTokenizerBase, header: GGUFHeader) -> list[str]:
    """What keeps the tokenizer from making the file's tokens, after what can be mended is."""
    kind = header.fields.get("tokenizer.ggml.model")
    if kind == "gpt2":
        return _mend_byte_level(tokenizer, header)
    if kind == "llama":
        return _mend_prefix_space(tokenizer, header)
    return []


def _mend_byte_level(tokenizer: Any, header: GGUFHeader) -> list[str]:
    rule = str(header.fields.get("tokenizer.ggml.pre", "default"))
    backend = tokenizer.backend_tokenizer
    own = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if rule in _DIGITS_FIRST:
        backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), own])
    elif rule in _SPLITS:
        split = pre_tokenizers.Split(Regex(_SPLITS[rule]), behavior="isolated")
        bytes_alone = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_alone])
    elif rule in _LIKE_GPT2 or (rule == "default" and header.architecture in _OF_GPT2):
        pass
    elif isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel):  # transformers does not know the rule either
        return [f"tokenizer.ggml.pre = {rule!r}: how it splits text is not known to transformers"]
    if rule in _WHOLE_WORDS:
        backend.model.ignore_merges = True
    if rule in _BEGIN_WITH_START and "tokenizer.ggml.add_bos_token" not in header.fields:
        tokenizer.add_bos_token = True
    return []


def _mend_prefix_space(tokenizer: Any, header: GGUFHeader) -> list[str]:
    """Sentencepiece: a space before every text, unless the file says otherwise."""
    wanted = bool(header.fields.get("tokenizer.ggml.add_space_prefix", True))
    if _adds_space(tokenizer) == wanted:
        return []
    backend = tokenizer.backend_tokenizer
    if isinstance(backend.pre_tokenizer, pre_tokenizers.Metaspace):
        scheme = "first" if wanted else "never"
        backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme, split=False)
    if _adds_space(tokenizer) == wanted:
        return []
    return [f"tokenizer.ggml.add_space_prefix = {wanted}: transformers' tokenizer does otherwise"]


def _adds_space(tokenizer: Any) -> bool:
    ids = tokenizer("a", add_special_tokens=False).input_ids
    return bool(tokenizer.convert_ids_to_tokens(ids)[0].startswith("▁"))
