"""The metrics beside classification, against hand-worked values and plain transformers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hand_worked_model import by_hand
from prize_evaluator import logprob
from small_models import byte_tokenizer, make_hf, plain_logprobs
from tokenizers.processors import TemplateProcessing

from isp_mech.errors import InputError
from isp_mech.models import wrap_model
from isp_mech.scoring import score
from isp_mech.scoring.numeric import NEW_TOKENS, SAMPLES, parse_number
from isp_mech.tasks import Item, Task


def test_sequence_prob_is_minus_the_log_probability_of_all_tokens(make_model, tokenizer):
    items = tuple(Item(str(i), f"Q: What is {i}? A:", (text,)) for i, text in enumerate((" 4", " many men", " pango")))
    found = score(Task("t", items, "sequence_prob"), make_model("llama"))
    want = []
    for item in items:
        start = len(tokenizer(item.prompt).input_ids)
        want.append(-logprob(make_hf("llama"), tokenizer(item.prompt + item.classes[0]).input_ids, start))
    assert found.values.frame["value"].tolist() == pytest.approx(want, abs=2e-4)
    row = found.value_curve.frame.iloc[0]
    assert row["value"] == pytest.approx(np.mean(want), abs=2e-4) and row["value_lo"] <= row["value"] <= row["value_hi"]
    assert len(found.items) == len(found.curve) == 0 and found.scores.frame["logprob"].tolist() == pytest.approx(
        [-w for w in want], abs=2e-4
    )


def test_logodds_by_hand():
    """The hand-made model's logits do not depend on the prompt: the change of log-odds is nought."""
    model = by_hand()
    items = (Item("0", "Q: A:", ("x", "y"), 0, "A:"), Item("1", "Q: A:", ("x", "y"), 1, "A:"))
    found = score(Task("t", items, "logodds"), model)
    assert found.values.frame["value"].tolist() == pytest.approx([0, 0], abs=1e-5)
    assert found.items.frame["correct"].tolist() == [True, False]
    lo = 3 * math.sqrt(2)
    assert found.items.frame["loss"].tolist() == pytest.approx([math.log1p(math.exp(-lo)), math.log1p(math.exp(lo))])


@pytest.mark.parametrize("metric", ["logodds", "absolute_logodds"])
def test_logodds_are_logits_at_the_last_position_of_two_prompts(make_model, tokenizer, metric):
    items = tuple(Item(str(i), f"Redefine pi as {i}. Q: A:", (" 4", "x"), i % 2, f"Q: {'!' * i} A:") for i in range(6))
    found = score(Task("t", items, metric), make_model("gpt2"))
    want, right = [], []
    for item in items:
        c0, c1 = (tokenizer(c).input_ids[-1] for c in item.classes)
        with torch.no_grad():
            z, other = (
                make_hf("gpt2")(torch.tensor([tokenizer(p).input_ids])).logits[0, -1]
                for p in (item.prompt, item.other_prompt)
            )
        value = float((z[c0] - z[c1]) - (other[c0] - other[c1])) * (-1 if item.answer == 1 else 1)
        want.append(abs(value) if metric == "absolute_logodds" else value)
        right.append(int(other[c1] > other[c0]) == item.answer)
    assert found.values.frame["value"].tolist() == pytest.approx(want, abs=2e-4)
    assert found.items.frame["correct"].tolist() == right and found.curve.frame["accuracy"].tolist() == [np.mean(right)]
    assert found.scores.frame["side"].tolist() == ["prompt", "prompt", "other_prompt", "other_prompt"] * 6


def test_logodds_of_a_class_of_several_tokens_by_both_rules(make_model, tokenizer):
    items = (Item("0", "Q: A:", (" 4", " pango part"), 0, "A:"),)
    with pytest.raises(InputError, match=r"completion ' pango part': \d tokens, expected one: log-odds compare single"):
        score(Task("t", items, "logodds"), make_model("neox"))
    found = score(Task("t", items, "logodds"), make_model("neox"), rule="prize")
    last = tokenizer(" pango part").input_ids[-1]
    logp = plain_logprobs(make_hf("neox"), tokenizer("Q: A:").input_ids)[-1]
    row = found.scores.frame.iloc[1]
    assert row["token_ids"] == str(last) and row["logprob"] == pytest.approx(float(logp[last]), abs=1e-4)
    assert set(found.rule_differences.frame["class_text"]) == {" pango part"}


def says(text: str | list[str]):
    """A model that says ``text``, character by character or piece by piece, over and over."""
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    return wrap_model(make_plain(text), tokenizer, name="says")


def make_plain(text: str | list[str]):
    """Each token's embedding points at the next one of ``text``."""
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    ids = [tokenizer(c).input_ids[0] for c in text]
    model = make_hf("neox", width=64, layers=1)
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
        model.gpt_neox.embed_in.weight[:, 0], model.gpt_neox.embed_in.weight[:, 1] = 1, -1
        for i, token in enumerate(ids):
            model.gpt_neox.embed_in.weight[token].zero_()
            model.gpt_neox.embed_in.weight[token, 2 * i + 2], model.gpt_neox.embed_in.weight[token, 2 * i + 3] = 1, -1
            model.lm_head.weight[token, 2 * i], model.lm_head.weight[token, 2 * i + 1] = 9, -9
    return model


def test_numeric_is_the_mean_of_the_samples_that_are_numbers():
    items = (Item("0", "How many?", ()), Item("1", "How many are there?", ()))
    found = score(Task("t", items, "numeric"), says("12,5.\n"))
    assert found.values.frame["value"].tolist() == [125, 125]
    assert found.values.frame["n_parsed"].tolist() == [SAMPLES] * 2
    assert found.value_curve.frame["value"].tolist() == [125] and len(found.scores) == 0


@pytest.mark.parametrize(("pieces", "number"), [
    (["1", "2", "<|endoftext|>", "3"], 12),  # nothing is sampled after an end token
    (["1", "<|endoftext|>", "\n", "3"], 1),
    (["1", "<pad>", "2", "\n"], 12),  # a special token is no part of what is said
])  # fmt: skip
def test_numeric_stops_at_an_end_token_and_skips_special_ones_as_generate_does(pieces, number):
    model = says(pieces)
    assert model.end_tokens == {0}
    found = score(Task("t", (Item("0", "How many?", ()),), "numeric"), model)
    assert found.values.frame["value"].tolist() == [number]
    ids = torch.tensor([model.tokenizer("How many?").input_ids])
    told = make_plain(pieces).generate(ids, do_sample=False, max_new_tokens=NEW_TOKENS, pad_token_id=300)
    text = model.tokenizer.batch_decode(told[:, ids.shape[1] :], skip_special_tokens=True)[0]
    assert parse_number(text.split("\n")[0]) == number


def test_numbers_are_sampled_after_the_prompt_not_after_its_end_token():
    """Whatever follows the end token is "7"; after "?" comes "4"."""
    model = says(["?", "4", "\n"])
    backend = model.tokenizer.backend_tokenizer
    backend.post_processor = TemplateProcessing(single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", 0)])
    assert model.tokenizer("a?").input_ids[-1] == 0
    found = score(Task("t", (Item("0", "How many?", ()),), "numeric"), model)
    assert found.values.frame["value"].tolist() == [4]


def test_numeric_without_a_number_names_the_items():
    with pytest.raises(InputError) as caught:
        score(Task("t", (Item("a", "How?", ()), Item("b", "Why?", ())), "numeric"), says("xyz\n"))
    assert "item a: found 'xyz' and the like, expected a number in at least one of 10 samples" in str(caught.value)
    assert "item b" in str(caught.value)


def says_one_of(logits: dict[str, float]):
    """A model whose next token has the given logits, and any other -70, whatever the prompt."""
    tokenizer = byte_tokenizer()
    model = make_hf("neox", width=4, layers=1, heads=1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
        model.gpt_neox.embed_in.weight[:] = torch.tensor([1.0, -1.0, 0.0, 0.0])  # normed: sqrt 2 of each
        model.lm_head.weight[:, 0] = -50
        for token, logit in logits.items():
            model.lm_head.weight[tokenizer(token).input_ids[0], 0] = logit / math.sqrt(2)
    return wrap_model(model, tokenizer, name="m")


def test_numeric_depends_on_the_seed_alone():
    model = says_one_of(dict.fromkeys("0123456789", 0.0))
    items = tuple(Item(str(i), f"How many {'!' * i}?", ()) for i in range(5))
    first = score(Task("t", items, "numeric"), model, seed=1).values.frame
    again = score(Task("t", items, "numeric"), model, seed=1, batch_size=1).values.frame
    other = score(Task("t", items, "numeric"), model, seed=2).values.frame
    assert first.equals(again) and not first["value"].equals(other["value"])


def test_numeric_samples_follow_the_model_at_temperature_one_half():
    """Two tokens with logits 0 and 1: at temperature 0.5 the second is said with e^2 / (1 + e^2)."""
    items = tuple(Item(str(i), "How many?" + "!" * (i % 3), ()) for i in range(60))
    found = score(Task("t", items, "numeric"), says_one_of({"1": 0.0, "2": 1.0}))
    digits = np.full(NEW_TOKENS, 10.0) ** np.arange(NEW_TOKENS)
    share = (found.values.frame["value"].mean() / digits.sum()) - 1  # the mean digit is 1 + share of twos
    want = math.e**2 / (1 + math.e**2)
    assert abs(share - want) < 4 * math.sqrt(want * (1 - want) / (60 * SAMPLES))


@pytest.mark.parametrize(
    ("text", "number"),
    [(" 12", 12), ("1,200", 1200), ("(3)", 3), ("4.", 4), ("-2.5.", -2.5), ("(1,000).", 1000), ("1e3", 1000)]
    + [(text, None) for text in ("", "four", "nan", "inf", "1_000", "3 4", ".", "()")],
)
def test_what_counts_as_a_number(text, number):
    assert parse_number(text) == number
