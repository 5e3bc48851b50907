"""Where completions begin, by hand, for tokenizers of all kinds; and what tokenizers add around a text."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from odd_tokenizers import KINDS, byte_level, marked
from small_models import make_hf, plain_logprobs
from tokenizers import normalizers

from isp_mech.errors import InputError
from isp_mech.inference.tokenization import OTHER, encode_all, role_names, token_roles
from isp_mech.models import wrap_model
from isp_mech.scoring import score
from isp_mech.tasks import Item, Pair, PairSet, Task, compose
from isp_mech.tracing import trace
from isp_mech.tracing.head_types import repeated_random_tokens

BYTES = ("ĠY es Ġ", "Ġ4", "ĊĊ", None)
MARKED = ("▁Y es ▁", "▁4", "\n\n", None)
LETTERS = ("▁Y e s ▁", "▁ 4", "\n \n", "s t")
# what stands after "Q: A:" + " Yes ", "A:\n\n" + " 4", "A:" + "\n\n", "the fir" + "st": the tokens, or None where a
# token of both straddles the boundary
BY_HAND = {
    "marked, lower case": ("▁yes ▁", *MARKED[1:]),
    "marked, stripped": ("▁Y es", "", "", None),
    "unigram": LETTERS,
    "word pieces": ("yes", "4", "", None),
}
ASKED = (("Q: A:", " Yes "), ("A:\n\n", " 4"), ("A:", "\n\n"), ("the fir", "st"))
CASES = [
    (kind, *asked, BY_HAND.get(kind, MARKED if kind.startswith("marked") else BYTES)[i])
    for kind in KINDS
    for i, asked in enumerate(ASKED)
]
_MADE: dict = {}


def model_of(kind: str):
    if kind not in _MADE:
        _MADE[kind] = wrap_model(make_hf("llama"), KINDS[kind](), name="m")
    return _MADE[kind]


@pytest.mark.parametrize(("kind", "prompt", "completion", "tokens"), CASES)
def test_the_completions_tokens_are_those_worked_out_by_hand(kind, prompt, completion, tokens):
    model = model_of(kind)
    if not tokens:
        why = (
            "straddles the end|holds white space of the prompt's end"
            if tokens is None or "\n" in prompt
            else "no token of its own"
        )
        with pytest.raises(InputError, match=why):
            encode_all(model, [prompt], [(completion,)], ["i"])
        return
    query = encode_all(model, [prompt], [(completion,)], ["i"])[0].queries[0]
    spelt = model.tokenizer.convert_ids_to_tokens(list(query.tokens))
    assert " ".join(spelt[query.start :]) == tokens
    plain = model.tokenizer(prompt + completion).input_ids
    assert list(query.tokens) == plain[: len(plain) - len(model.added.after)]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("word pieces", "unigram")])
def test_white_space_of_the_prompts_end_in_the_completions_token_is_refused(kind):
    with pytest.raises(InputError, match="token [0-9] holds white space of the prompt's end"):
        encode_all(model_of(kind), ["Q: A: "], [("4",)], ["i"])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith("bytes")])
def test_a_prompt_may_be_cut_otherwise_before_a_completion_if_a_token_ends_where_it_ends(kind):
    """Two line breaks are one token at a text's end and before a space, and two before a letter."""
    model = model_of(kind)
    one, other = encode_all(model, ["Q:\n\n"], [("Yes", " Yes")], ["i"])[0].queries
    spelt = [model.tokenizer.convert_ids_to_tokens(list(q.tokens)) for q in (one, other)]
    assert [s[q.start - 1 :] for s, q in zip(spelt, (one, other), strict=True)] == [
        ["Ċ", "Y", "es"],
        ["ĊĊ", "ĠY", "es"],
    ]
    pair = Pair("p", compose([("Q:\n\n", "")]), compose([("Not: ", "n"), ("Q:\n\n", "")]), "Yes", " Yes", "n")
    with pytest.raises(InputError, match=r"p \(conflict\): before one completion the prompt has other tokens than bef"):
        trace(PairSet("t", (pair,)), model)
    assert len(score(PairSet("t", (pair,)), model).scores) == 4


def test_an_accent_that_composes_with_the_prompts_last_letter_is_refused():
    """Offsets of the composed letter end where the prompt ends: what it reads says otherwise."""
    model = model_of("marked, composed")
    with pytest.raises(InputError, match="straddles the end of the prompt"):
        encode_all(model, ["cafe"], [("\u0301 4",)], ["i"])
    assert encode_all(model_of("marked"), ["cafe"], [("\u0301 4",)], ["i"])


def test_completions_that_cannot_be_told_apart_are_refused():
    model = model_of("marked, lower case")
    with pytest.raises(InputError, match="item i: completions ' Yes' and ' yes' become the same tokens, expected diff"):
        encode_all(model, ["Q:"], [(" Yes", " yes")], ["i"])
    with pytest.raises(InputError, match="item i, completion ' é': holds <unk>: the tokenizer has no token for some"):
        encode_all(model_of("marked, no bytes"), ["Q:"], [(" é",)], ["i"])


def scores_by_hand(tokenizer, prompt: str, classes: tuple[str, ...], n_before: int, n_after: int) -> list[float]:
    """Log-probabilities with plain transformers, what is added before the prompt once and nothing after the class."""
    hf, out = make_hf("llama"), []
    for text in classes:
        ids = tokenizer(prompt + text).input_ids
        ids = ids[: len(ids) - n_after]
        n = len(tokenizer(text).input_ids) - n_before - n_after
        logp = plain_logprobs(hf, ids)
        out.append(sum(float(logp[i - 1, ids[i]]) for i in range(len(ids) - n, len(ids))))
    return out


@pytest.mark.parametrize("rule", ["strict", "prize"])
@pytest.mark.parametrize(("before", "after"), [(0, 0), (1, 0), (2, 0), (0, 1), (2, 2)])
def test_what_is_added_around_a_text_is_never_a_class(rule, before, after):
    tokenizer = byte_level(trim=True, prefix=False, before=before, after=after)
    model = wrap_model(make_hf("llama"), tokenizer, name="m")
    assert (len(model.added.before), len(model.added.after)) == (before, after)
    item = Item("0", "Q: A:", (" Yes ", " No", " 4"), 0)
    made = score(Task("t", (item,)), model, rule=rule)
    want = scores_by_hand(tokenizer, item.prompt, item.classes, before, after)
    assert made.scores.frame["logprob"].tolist() == pytest.approx(want, abs=1e-4)
    assert len(made.rule_differences) == 0
    assert made.scores.run.settings["start_token"] == (" ".join(["<s>", "<ctx>"][:before]) or "none")


def test_log_odds_are_taken_after_the_prompt_not_after_its_end_token():
    tokenizer = byte_level(trim=False, prefix=False, before=2, after=1)
    model = wrap_model(make_hf("llama"), tokenizer, name="m")
    task = Task("t", (Item("0", "Q: A:", (" 4", " 3"), 0, "A:"),), "logodds")
    four, three = (tokenizer(text).input_ids[2] for text in (" 4", " 3"))
    with torch.no_grad():
        z, other = (
            make_hf("llama")(torch.tensor([tokenizer(text).input_ids[:-1]])).logits[0, -1] for text in ("Q: A:", "A:")
        )
    want = float((z[four] - z[three]) - (other[four] - other[three]))
    for rule in ("strict", "prize"):
        assert score(task, model, rule=rule).values.frame["value"].tolist() == pytest.approx([want], abs=2e-4)


def test_random_sequences_begin_with_every_start_token_and_hold_no_end_token():
    tokenizer = byte_level(trim=True, prefix=False, before=2, after=1)
    asked = repeated_random_tokens(wrap_model(make_hf("llama"), tokenizer, name="m"))
    ids = asked.sequences.numpy()
    assert (
        (ids[:, :2] == [0, 1]).all() and ids.shape[1] == 2 + 2 * asked.half and not np.isin(ids[:, 2:], [0, 1, 2]).any()
    )


def test_a_tokenizer_that_adds_other_tokens_around_other_texts_is_refused():
    tokenizer = byte_level(trim=True, prefix=False)
    plain = tokenizer.__class__.__call__

    class Odd(type(tokenizer)):
        def __call__(self, text, add_special_tokens=True, **more):
            found = plain(self, text, add_special_tokens=add_special_tokens, **more)
            if add_special_tokens and text == "a":
                found["input_ids"] = [0, *found["input_ids"]]
            return found

    tokenizer.__class__ = Odd
    with pytest.raises(InputError, match="m: its tokenizer adds other tokens around one text than around another"):
        encode_all(wrap_model(make_hf("llama"), tokenizer, name="m"), ["Q:"], [(" 4",)], ["i"])


def test_white_space_that_offsets_leave_out_has_its_role():
    """A token of white space alone, whose trimmed offsets are empty, belongs to the role that it stands in."""
    prompt = compose([("Q:", "question"), ("   ", "gap"), (" A:", "")])
    names = role_names([prompt])
    by_trim = []
    for trim in (False, True):
        model = wrap_model(make_hf("llama"), byte_level(trim=trim, prefix=False), name="m")
        encoding = model.encode([prompt.text])[0]
        by_trim.append([names[i] for i in token_roles(encoding, prompt, names)])
    assert by_trim[0] == by_trim[1] == ["question", "question", "gap", "gap", "gap", OTHER, OTHER]


def test_normalizers_are_no_reason_to_refuse():
    for normalizer in (normalizers.NFKD(), normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents()])):
        model = wrap_model(make_hf("llama"), marked(normalizer=normalizer), name="m")
        asked = encode_all(model, ["Q É: A:"], [(" é", " 4")], ["i"])[0]
        assert [q.tokens[: q.start] == asked.queries[0].tokens[: q.start] for q in asked.queries] == [True, True]
