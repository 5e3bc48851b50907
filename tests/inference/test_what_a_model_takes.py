"""What a model cannot take, or give, is refused by the names of model and item, with the limit."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import transformers
from small_models import byte_tokenizer, make_hf

from isp_mech.causal import locate, scale_sites
from isp_mech.errors import InputError
from isp_mech.models import wrap_model
from isp_mech.models.texts import LIMITS, token_limit
from isp_mech.scoring import score
from isp_mech.tasks import Item, Pair, PairSet, Task, compose
from isp_mech.tracing import trace, train_lens

NAMED = r"p1 \((conflict|plain)\): its logits are NaN or infinite, expected numbers"


def two_pairs(odd: str = "") -> PairSet:
    """Pairs of which the second has ``odd`` in its question."""
    made = []
    for i, text in enumerate(("", odd)):
        question = [(f"Q: What is{text} pi? A:", "question")]
        made.append(
            Pair(f"p{i}", compose(question), compose([("Not 3. ", "definition"), *question]), " 4", " 3", "definition")
        )
    return PairSet("t", tuple(made))


# --- NaN and infinity ---------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers_are_refused_by_name(value):
    hf = make_hf("llama")
    with torch.no_grad():
        hf.model.layers[1].mlp.down_proj.weight[3, 4:6] = value
    with pytest.raises(InputError) as caught:
        wrap_model(hf, byte_tokenizer(), name="mine")
    assert str(caught.value) == (
        "mine: weights model.layers.1.mlp.down_proj.weight: 2 of 2048 are NaN or infinite, expected numbers"
    )


def overflowing(token: str):
    """A model that is as it should be until it reads ``token``."""
    hf, tokenizer = make_hf("neox"), byte_tokenizer()
    with torch.no_grad():
        hf.gpt_neox.embed_in.weight[tokenizer(token).input_ids[0]] = 3e38
    return wrap_model(hf, tokenizer, name="mine")


@pytest.mark.parametrize("verb", [
    lambda pairs, model: score(pairs, model),
    lambda pairs, model: score(pairs, model, rule="prize"),
    lambda pairs, model: score(pairs, model, trace=True),
    lambda pairs, model: trace(pairs, model),
    lambda pairs, model: trace(pairs, model, tokens="all"),
    lambda pairs, model: locate(pairs, model),
    lambda pairs, model: locate(pairs, model, method="attribution"),
    lambda pairs, model: scale_sites(["a0.h1"], pairs, model),
])  # fmt: skip
def test_an_item_whose_logits_are_no_numbers_is_named(verb):
    with pytest.raises(InputError, match=NAMED) as caught:
        verb(two_pairs("~"), overflowing("~"))
    assert str(caught.value).startswith("mine")


def test_numbers_sampled_from_no_numbers_are_refused():
    items = (Item("good", "How many?", ()), Item("bad", "How~ many?", ()))
    with pytest.raises(InputError, match="^mine: item bad: its logits are NaN or infinite"):
        score(Task("t", items, "numeric"), overflowing("~"))


# --- tokens that a model does not have ----------------------------------------------------------------


def test_tokens_beyond_the_embedding_are_refused_by_item():
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([f"<t{i}>" for i in range(25)])  # 300 to 324, of which the model has those up to 319
    model = wrap_model(make_hf("neox"), tokenizer, name="mine")
    why = r"token 324 \('<t24>'\), expected one of the model's 320: its tokenizer has more"
    with pytest.raises(InputError, match=rf"item p1 \(conflict\), completion ' 4': {why}"):
        score(two_pairs("<t24>"), model)
    with pytest.raises(InputError, match=f"item 0, completion '<t24>': {why}"):
        score(Task("t", (Item("0", "Q:", (" 4", "<t24>")),)), model, rule="prize")
    with pytest.raises(InputError, match=f"item 1: {why}"):
        score(Task("t", (Item("0", "Q:", ()), Item("1", "<t24>", ())), "numeric"), model)
    with pytest.raises(InputError, match=f"train_lens, mine: text 1: {why}"):
        train_lens(model, ["a b c", "a <t24> b"])
    assert len(score(two_pairs("<t19>"), model).scores) == 8  # the last that it has


# --- limits --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_is_found_under_every_name(name):
    tokenizer = SimpleNamespace(model_max_length=10**30)
    assert token_limit(SimpleNamespace(**{name: 77}), tokenizer, ()) == 77


def test_the_smallest_limit_counts_and_the_tokenizers_where_there_is_no_other():
    endless, short = (SimpleNamespace(model_max_length=n) for n in (10**30, 40))
    assert token_limit(SimpleNamespace(max_position_embeddings=90, seq_length=80), endless, ()) == 80
    assert token_limit(SimpleNamespace(max_position_embeddings=90), short, ()) == 90
    assert token_limit(SimpleNamespace(max_seq_len=None, n_ctx=True, seq_length=-1), short, ()) == 40
    assert token_limit(SimpleNamespace(), endless, ()) is None
    positions = torch.nn.Embedding(66, 4)
    positions.offset = 2
    assert token_limit(SimpleNamespace(n_positions=90), endless, (None, positions)) == 64
    inner = SimpleNamespace(get_text_config=lambda: SimpleNamespace(max_position_embeddings=12))
    assert token_limit(inner, endless, ()) == 12


def test_a_prompt_beyond_a_limit_of_another_name_is_refused_with_model_item_and_limit():
    config = transformers.MptConfig(d_model=32, n_heads=4, n_layers=2, max_seq_len=16, vocab_size=320)
    model = wrap_model(transformers.MptForCausalLM(config).eval(), byte_tokenizer(), name="mine")
    items = (Item("fits", "Q:", (" 4", " 3"), 0), Item("not", "a b c d e f g h i j k l", (" 4", " 3"), 0))
    with pytest.raises(
        InputError,
        match=r"mine, rule strict:\n  item not, completion ' 4': \d+ tokens, expected at most the model's 16",
    ):
        score(Task("t", items), model)
