"""Tokenizers of the kinds there are, each trained on a few words: byte-level ones with and without trimmed offsets and
a space put first, sentencepiece-like ones, such as normalise, and such as add tokens before and after a text."""

from __future__ import annotations

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

TEXT = ["Q: A: 4 3 Yes No New York New. the first naïve café x \n\n a man"] * 4
BYTES = [f"<0x{i:02X}>" for i in range(256)]


def _wrapped(tokenizer: Tokenizer, **special: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def byte_level(*, trim: bool, prefix: bool, before: int = 0, after: int = 0) -> PreTrainedTokenizerFast:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "<ctx>", "</s>"]
    made.train_from_iterator(
        TEXT,
        trainers.BpeTrainer(vocab_size=290, initial_alphabet=alphabet, special_tokens=special, show_progress=False),
    )
    around = " ".join([*special[:before], "$A", *["</s>"] * after])
    made.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=trim, add_prefix_space=prefix),
            processors.TemplateProcessing(single=around, special_tokens=[(t, i) for i, t in enumerate(special)]),
        ]
    )
    return _wrapped(made, eos_token="</s>", bos_token="<s>")


def marked(
    *, scheme: str = "first", normalizer: normalizers.Normalizer | None = None, fallback: bool = True, after: int = 0
) -> PreTrainedTokenizerFast:
    """White space as a mark at the start of words, bytes for what is no token; a start token, and end tokens."""
    special = ["<unk>", "<s>", "</s>", *(BYTES if fallback else [])]
    made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=fallback, fuse_unk=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    if normalizer is not None:
        made.normalizer = normalizer
    words = [text.replace("é", "").replace("ï", "") for text in TEXT]
    made.train_from_iterator(
        words, trainers.BpeTrainer(vocab_size=len(special) + 55, special_tokens=special, show_progress=False)
    )
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    around = " ".join(["<s>", "$A", *["</s>"] * after])
    made.post_processor = processors.TemplateProcessing(single=around, special_tokens=[("<s>", 1), ("</s>", 2)])
    return _wrapped(made, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def unigram() -> PreTrainedTokenizerFast:
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    made.decoder = decoders.Metaspace(prepend_scheme="always")
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    made.train_from_iterator(
        TEXT,
        trainers.UnigramTrainer(
            vocab_size=120, special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False
        ),
    )
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return _wrapped(made, unk_token="<unk>", eos_token="</s>")


def word_pieces() -> PreTrainedTokenizerFast:
    """Lower case, no accents, white space left out."""
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    special = ["[UNK]", "[CLS]", "[SEP]"]
    made.train_from_iterator(
        TEXT, trainers.WordPieceTrainer(vocab_size=120, special_tokens=special, show_progress=False)
    )
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return _wrapped(made, unk_token="[UNK]")


KINDS = {
    "bytes": lambda: byte_level(trim=False, prefix=False),
    "bytes, trimmed": lambda: byte_level(trim=True, prefix=False),
    "bytes, space first": lambda: byte_level(trim=False, prefix=True),
    "bytes, space first, trimmed": lambda: byte_level(trim=True, prefix=True),
    "bytes, two start tokens": lambda: byte_level(trim=True, prefix=False, before=2),
    "bytes, two start tokens and an end token": lambda: byte_level(trim=True, prefix=False, before=2, after=1),
    "marked": lambda: marked(),
    "marked always": lambda: marked(scheme="always"),
    "marked never": lambda: marked(scheme="never"),
    "marked, end token": lambda: marked(after=1),
    "marked, no bytes": lambda: marked(fallback=False),
    "marked, lower case": lambda: marked(normalizer=normalizers.Lowercase()),
    "marked, composed": lambda: marked(normalizer=normalizers.NFC()),
    "marked, stripped": lambda: marked(normalizer=normalizers.Strip()),
    "unigram": unigram,
    "word pieces": word_pieces,
}
