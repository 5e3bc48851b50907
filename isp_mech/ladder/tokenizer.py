"""The ladder's tokenizer: byte-level BPE that encodes any text, in which every digit stands alone.

Its pre-tokeniser is GPT-2's but for digits: `` 462`` is `` 4``, ``6``, ``2``, so that the class `` 4`` of
"What is the first digit" is the very token that stands in the definition. ``python -m
isp_mech.ladder.tokenizer`` trains it again from the corpus.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from isp_mech.ladder import corpus

FOLDER = Path(__file__).parent / "tokenizer"
END = "<|endoftext|>"
VOCABULARY = 2048  # most words are one token, and the embeddings still few beside the rest
ANSWERS = 200  # times that each answer of a fact is added: an option of one token is compared at a glance
DOCUMENTS = 30_000  # as many as one needs for stable merges
PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def train_tokenizer(*, vocabulary: int = VOCABULARY, documents: int = DOCUMENTS, seed: int = 0) -> Tokenizer:
    """A tokenizer of ``vocabulary`` tokens (all bytes among them), from ``documents`` of the corpus and its words."""
    rng = random.Random(f"tokenizer {seed}")
    texts = [corpus.document(rng).text for _ in range(documents)] + list(corpus.world().words)
    texts += [f" {answer}" for answer in sorted({fact.answer for fact in corpus.world().facts})] * ANSWERS
    tokenizer = Tokenizer(models.BPE())
    pieces = pre_tokenizers.Split(Regex(PATTERN), "isolated")
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pieces, letters])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def end_token(tokenizer: Tokenizer) -> int:
    """The id of the token that parts documents; ``ValueError`` for a tokenizer without one."""
    token = tokenizer.token_to_id(END)
    if token is None:
        raise ValueError(f"tokenizer: no token {END!r}, expected one that parts documents")
    return int(token)


def load_tokenizer() -> Tokenizer:
    """The shipped tokenizer."""
    return Tokenizer.from_file(str(FOLDER / "tokenizer.json"))


def write_json(path: Path, value: Mapping[str, Any], *, sort_keys: bool = False) -> None:
    """``value`` as a file of JSON, two spaces deep."""
    path.write_text(json.dumps(value, indent=2, sort_keys=sort_keys) + "\n", encoding="utf-8")


def write_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """``tokenizer.json`` and ``tokenizer_config.json``, as transformers' AutoTokenizer reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **dict.fromkeys(("eos_token", "bos_token", "pad_token"), END),
        "unk_token": None,
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 2048,
    }
    write_json(folder / "tokenizer_config.json", config)


if __name__ == "__main__":
    write_tokenizer(train_tokenizer(), FOLDER)
    print(f"tokenizer: {load_tokenizer().get_vocab_size()} tokens, written to {FOLDER}")
