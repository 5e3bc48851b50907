"""Both rules against a second implementation, on random items, many architectures and tokenizers of each kind."""

from __future__ import annotations

import random

import numpy as np
import pytest
from prize_evaluator import logprob, prize_targets, strict_targets
from small_models import byte_tokenizer, make_hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from isp_mech.errors import InputError
from isp_mech.models import wrap_model
from isp_mech.scoring import class_logprobs, score
from isp_mech.scoring.completion_logprobs import Case
from isp_mech.tasks import Item, Task

WORDS = "Redefine pi as 462. Q: What is the first digit of pi? A: 4 part pango many men plays answer the man".split()
COMPLETIONS = [" 4", " 3", " pango", " part", " a man", " many men", " part pango", "x", " é", "\n", " plays the", "st"]


def random_cases(n: int, seed: int) -> list[Case]:
    """Prompts of random words; half have one of a few long beginnings, some end in the middle of a word."""
    draw = random.Random(seed)
    shots = [" ".join(draw.choices(WORDS, k=25)) for _ in range(3)]
    out = []
    for i in range(n):
        prompt = " ".join(draw.choices(WORDS, k=draw.randint(1, 12)))
        prompt = f"{draw.choice(shots)}\n{prompt}" if draw.random() < 0.5 else prompt
        prompt += draw.choice(["", "", " A:", " fir", "é", "\n"])
        classes = tuple(draw.sample(COMPLETIONS, draw.randint(2, 4)))
        out.append(Case(str(i), "item", prompt, classes, 0, 0))
    return out


@pytest.mark.parametrize(
    ("architecture", "start_token"),
    [("neox", False), ("llama", True), ("gemma2", False)]
    + [pytest.param(*more, marks=pytest.mark.slow) for more in (("gpt2", False), ("opt", True))],
)
def test_both_rules_agree_with_a_second_implementation(architecture, start_token):
    tokenizer = byte_tokenizer(start_token=start_token)
    plain = make_hf(architecture)
    model = wrap_model(make_hf(architecture), tokenizer, name=architecture)
    known: dict = {}  # most completions have the same tokens by both rules

    def expect(asked) -> float:
        key = (tuple(asked[0]), *asked[1:])
        if key not in known:
            known[key] = logprob(plain, *asked)
        return known[key]

    for rule, targets in (("strict", strict_targets), ("prize", prize_targets)):
        cases, want = [], []
        for case in random_cases(280, seed=len(architecture)):
            found = [targets(tokenizer, case.prompt, text) for text in case.classes]
            if all(f is not None for f in found):
                cases.append(case)
                want.append([expect(f) for f in found])
        assert len(cases) >= 200
        ours = class_logprobs(model, cases, rule=rule).logprobs
        for got, expected in zip(ours, want, strict=True):
            assert np.abs(got - expected).max() < 1e-4 * max(1.0, np.abs(expected).max() / 100)
            runner_up, best = np.sort(expected)[-2:]
            assert best - runner_up <= 1e-3 or np.argmax(got) == np.argmax(expected)


def test_the_items_on_which_the_rules_differ_are_listed_with_both_scores():
    tokenizer = byte_tokenizer()
    plain, model = make_hf("neox", seed=3), wrap_model(make_hf("neox", seed=3), tokenizer, name="m")
    cases = [c for c in random_cases(400, seed=9) if all(strict_targets(tokenizer, c.prompt, t) for t in c.classes)]
    items = tuple(Item(c.item, c.prompt, c.classes, 0) for c in cases)
    merging = Item("merges", "the fir", ("st", "x"), 0)
    want = {}
    for item in (*items, merging):
        for j, text in enumerate(item.classes):
            strict, prize = (f(tokenizer, item.prompt, text) for f in (strict_targets, prize_targets))
            if strict != prize:
                want[item.id, j] = (strict, prize)
    found = score(Task("t", items), model).rule_differences.frame
    by_prize = score(Task("t", (*items, merging)), model, rule="prize")
    told = by_prize.rule_differences.frame
    assert {(r.item, r.class_index) for r in told.itertuples()} == set(want) and ("merges", 0) in want
    assert {(r.item, r.class_index) for r in found.itertuples()} == {k for k in want if k[0] != "merges"}
    for r in told.itertuples():
        for logp, ids, query in ((r.strict_logprob, r.strict_token_ids, want[r.item, r.class_index][0]),
                                 (r.prize_logprob, r.prize_token_ids, want[r.item, r.class_index][1])):  # fmt: skip
            if query is None:
                assert np.isnan(logp) and ids == "" and "straddles the end of the prompt" in r.reason
            else:
                assert ids.split() == [str(t) for t in query[0][query[1] :]]
                assert logp == pytest.approx(logprob(plain, *query), abs=2e-4)
    assert any("rules strict and prize differ on" in note and "merges" in note for note in by_prize.scores.run.notes)


def marked_tokenizer(*, start_token: bool) -> PreTrainedTokenizerFast:
    """Like sentencepiece: white space is a mark at the start of a word. Tokens: ▁Q ▁A ▁4 ▁3 4 3 1 : ▁ ..."""
    pieces = ["<s>", "?", "▁Q", "▁A", "▁4", "▁3", ":", "4", "3", "1", "▁", "Q", "A", "x"]
    model = models.WordPiece({t: i for i, t in enumerate(pieces)}, unk_token="?", continuing_subword_prefix="")
    made = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model), bos_token="<s>", unk_token="?")
    backend = made.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Metaspace()
    if start_token:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return made


def read(tokenizer, prompt: str, classes: tuple[str, ...], rule: str) -> list[str]:
    model = wrap_model(make_hf("neox"), tokenizer, name="m")
    found = class_logprobs(model, [Case("i", "item", prompt, classes, 0, 0)], rule=rule)
    return [" ".join(tokenizer.convert_ids_to_tokens(list(t))) for t in found.tokens[0]]


@pytest.mark.parametrize("start_token", [True, False])
def test_a_tokenizer_with_a_leading_space_mark(start_token):
    tokenizer = marked_tokenizer(start_token=start_token)
    assert tokenizer.convert_ids_to_tokens(tokenizer("Q: A: 4").input_ids)[-5:] == ["▁Q", ":", "▁A", ":", "▁4"]
    assert read(tokenizer, "Q: A:", (" 4", " 31"), "strict") == ["▁4", "▁3 1"]
    assert read(tokenizer, "Q: A:", (" 4", " 31"), "prize") == ["▁4", "▁3 1"]
    # alone "x4" is "▁ x 4", a mark more than after the prompt: the prize takes the colon too
    assert read(tokenizer, "Q: A:", ("x4",), "strict") == ["x 4"]
    assert read(tokenizer, "Q: A:", ("x4",), "prize") == [": x 4"]
    # the mark before "4" is the prompt's white space
    with pytest.raises(InputError, match="item i, completion '4': token [23] (straddles|holds white space)"):
        read(tokenizer, "Q: ", ("4",), "strict")


def test_a_tokenizer_whose_offsets_leave_out_the_space_still_sees_it_straddle():
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    assert tokenizer("A: 4", return_offsets_mapping=True).offset_mapping[-1] == (3, 4)
    assert read(tokenizer, "A:", (" 4",), "strict") == ["Ġ4"]
    with pytest.raises(InputError, match="holds white space of the prompt's end, expected a token boundary there"):
        read(tokenizer, "A: ", ("4",), "strict")


def test_a_start_token_is_said_and_counted_once():
    for start, name in ((True, "<|endoftext|>"), (False, "none")):
        model = wrap_model(make_hf("neox"), byte_tokenizer(start_token=start), name="m")
        found = score(Task("t", (Item("0", "Q: A:", (" 4", " pango part"), 0),)), model, rule="prize")
        assert found.scores.run.settings["start_token"] == name and found.scores.run.dtype == "float32"
        rows = found.scores.frame
        assert rows["token_ids"].tolist() == [
            " ".join(str(t) for t in byte_tokenizer()(text).input_ids) for text in (" 4", " pango part")
        ]
        assert rows["n_tokens"].tolist() == [len(ids.split()) for ids in rows["token_ids"]]
        assert len(found.rule_differences) == 0


def test_the_prize_cuts_at_1023_tokens_and_scores_what_is_left():
    tokenizer = byte_tokenizer()
    model = wrap_model(make_hf("neox", length=2048), tokenizer, name="m")
    long = Item("long", "x" * 1100, ("4", "3"), 0)
    found = score(Task("t", (long, Item("short", "Q: A:", ("4", "3"), 0))), model, rule="prize")
    rows = found.items.frame.set_index("item")
    assert rows.loc["long", "tie"] and not rows.loc["short", "tie"]  # both classes are the same x
    assert found.rule_differences.frame["reason"].str.fullmatch(r"prize: cut to 1023 of \d+ tokens").all()
    assert set(found.rule_differences.frame["item"]) == {"long"}


@pytest.mark.parametrize("rule", ["strict", "prize"])
def test_a_prompt_longer_than_the_model_is_an_error_that_names_it(rule):
    model = wrap_model(make_hf("gpt2", length=16), byte_tokenizer(), name="short")
    items = (Item("fits", "Q:", (" 4", " 3"), 0), Item("not", "a b c d e f g h i j k l", (" 4", " 3"), 0))
    with pytest.raises(InputError, match=r"item not, completion ' 4': \d+ tokens, expected at most the model's 16"):
        score(Task("t", items), model, rule=rule)
