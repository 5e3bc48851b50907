"""Chat: token ids are those of ``apply_chat_template``, replies stand where the template puts them, roles keep their
spans."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pytest
import torch
from odd_tokenizers import byte_level, marked
from small_models import make_hf, plain_logprobs

import isp_mech as im
from isp_mech.causal import locate, verify
from isp_mech.errors import InputError
from isp_mech.inference.margin import contrast_prompts
from isp_mech.inference.tokenization import OTHER, encode_all, role_names, token_roles
from isp_mech.models import wrap_model
from isp_mech.scoring import score
from isp_mech.tasks import Item, Pair, PairSet, Task, compose
from isp_mech.tracing import trace, train_lens

PLAIN = (  # as ChatML: texts as they are, on lines of their own
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
DEFAULT = "{% if messages[0].role != 'system' %}<|system|>\nBe good.<|end|>\n{% endif %}" + PLAIN
TRIMMED = (  # its own start token, texts trimmed, the system text before the first prompt
    "<s>{% if messages[0].role == 'system' %}{% set first = messages[0].content + '\n\n' %}"
    "{% set rest = messages[1:] %}"
    "{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}<|{{ 'model' if m.role == 'assistant' else m.role }}|>\n"
    "{{ (first if loop.first else '') + m.content | trim }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|model|>\n{% endif %}"
)
SPACED = (  # a reply stands on the prompt's line, after a space
    "<s>{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }}</s>"
    "{% else %}{{ raise_exception('no system, please') }}{% endif %}"
    "{% endfor %}"
)
THINKING = (  # an empty thought before a reply that is given, none in the generation prompt
    "{% for m in messages %}<|{{ m.role }}|>\n{% if m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content }}<|end|>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
DATED = "{{ '<s>Today is ' + strftime_now('%d %B %Y, %A') + '.\n' }}" + PLAIN
TEMPLATES = {
    "plain": PLAIN, "default": DEFAULT, "trimmed": TRIMMED, "spaced": SPACED, "thinking": THINKING, "dated": DATED,
}  # fmt: skip
PROMPTS = ["Q: A:", "  Q: A: New York?\n", "Q:\n\nYes", "<s>é <|end|>"]


def tokenizer_of(template: str, kind: str = "bytes"):
    made = byte_level(trim=True, prefix=False, before=1, after=1) if kind == "bytes" else marked(after=1)
    made.chat_template = TEMPLATES[template]
    return made


def chatting(template: str, *, kind: str = "bytes", chat: bool | str = True, architecture: str = "llama"):
    return wrap_model(make_hf(architecture), tokenizer_of(template, kind), name="m").with_chat(chat)


def by_template(tokenizer, prompt: str, system: str = "", reply: str | None = None) -> list[int]:
    messages = [{"role": "system", "content": system}] if system else []
    messages += [{"role": "user", "content": prompt}]
    messages += [] if reply is None else [{"role": "assistant", "content": reply}]
    return tokenizer.apply_chat_template(messages, add_generation_prompt=reply is None, return_dict=False)


@pytest.mark.parametrize("kind", ["bytes", "marked"])
@pytest.mark.parametrize("system", ["", "You are terse."])
@pytest.mark.parametrize("template", ["plain", "default", "trimmed", "spaced", "thinking"])
def test_token_ids_are_those_of_apply_chat_template(template, system, kind):
    if system and template == "spaced":
        with pytest.raises(
            InputError, match="m: chat: its chat template refuses a system text and a prompt: no system"
        ):
            chatting(template, kind=kind, chat=system)
        return
    model = chatting(template, kind=kind, chat=system or True)
    asked = encode_all(model, PROMPTS, [(" Yes", " No")] * len(PROMPTS), [str(i) for i in range(len(PROMPTS))])
    for prompt, one in zip(PROMPTS, asked, strict=True):
        for query, reply in zip(one.queries, ("Yes", "No"), strict=True):
            want = by_template(model.tokenizer, prompt, system)
            whole = by_template(model.tokenizer, prompt, system, reply)
            assert list(query.tokens) == whole[: len(query.tokens)]  # the reply's tokens too are the template's
            assert query.tokens.count(model.tokenizer.bos_token_id) == want.count(model.tokenizer.bos_token_id)
            if template != "thinking":
                assert list(query.tokens[: query.start]) == want
            else:
                assert list(query.tokens[: len(want)]) == want
                thought = model.tokenizer.decode(query.tokens[len(want) : query.start])
                assert thought == "<think>\n\n</think>\n\n"
            assert model.tokenizer.decode(query.targets).strip() == reply


@pytest.mark.parametrize("template", ["plain", "trimmed", "spaced"])
@pytest.mark.parametrize("rule", ["strict", "prize"])
def test_scores_are_plain_transformers_on_the_templates_tokens(template, rule):
    model = chatting(template)
    made = score(Task("t", (Item("0", "Q: A:", (" Yes", " 4"), 0),)), model, rule=rule)
    want = []
    for reply in ("Yes", "4"):
        ids = by_template(model.tokenizer, "Q: A:", reply=reply)
        start = len(by_template(model.tokenizer, "Q: A:"))
        text = model.tokenizer.decode(by_template(model.tokenizer, "Q: A:")) + (" " if template == "spaced" else "")
        ids = ids[: len(model.tokenizer(text + reply, add_special_tokens=False).input_ids)]
        logp = plain_logprobs(make_hf("llama"), ids)
        want.append(sum(float(logp[i - 1, ids[i]]) for i in range(start, len(ids))))
    assert made.scores.frame["logprob"].tolist() == pytest.approx(want, abs=1e-4)
    assert made.scores.run.settings["start_token"] == "the chat template's"
    assert made.scores.run.settings["chat"].startswith("m: template ")


def test_roles_keep_their_spans():
    question = [("  Q: ", "question"), ("New York", "place"), (" A: ", "")]
    prompt = compose(question)
    for template in TEMPLATES:
        model = chatting(template)
        one = contrast_prompts(model, ["p"], [prompt], [" Yes"], [" No"])[0]
        names = role_names([prompt])
        of_token = [names[i] for i in token_roles(one.encoding, prompt, names)]
        read = {
            role: model.tokenizer.decode([t for t, r in zip(one.encoding.ids, of_token, strict=True) if r == role])
            for role in names
        }
        assert read["place"].strip() == "New York" and read["question"].strip() == "Q:"
        assert "Yes" in read[OTHER] and "A:" in read[OTHER] and "New" not in read[OTHER]
        assert len(of_token) == len(one.encoding.ids)


def test_a_date_is_always_the_same_and_the_run_says_so():
    model = chatting("dated")
    text = model.tokenizer.decode(encode_all(model, ["Q:"], [("4",)], ["i"])[0].queries[0].tokens)
    day = datetime(2024, 7, 26)
    assert text.startswith(f"<s>Today is {day.strftime('%d %B %Y, %A')}.\n<|user|>\nQ:<|end|>")
    found = score(Task("t", (Item("0", "Q:", ("4", "3"), 0),)), model)
    assert "m: its chat template asks for the date: 26 July 2024 was given, whatever the day" in found.scores.run.notes


def test_what_the_function_tells_of_the_date_is_what_the_clock_would():
    from isp_mech.models.chat import DATE

    day = datetime(2024, 7, 26, 12)
    for code, text in DATE.items():
        assert day.strftime(code) == text, code


@pytest.mark.parametrize(("template", "why"), [
    (None, "m: chat: its tokenizer has no chat template: expected one, as models that were tuned to follow"),
    ("{{ raise_exception('not today') }}", "m: chat: its chat template refuses a prompt: not today"),
    ("{{ range(10**5) | list | random }}{{ messages[0].content }}", "m: chat: its chat template gives another text "),
    ("{{ messages[0].content }} {{ messages[0].content }}", "m: chat: its chat template does not show a prompt "),
    ("nothing of it", "m: chat: its chat template does not show a prompt and its reply once"),
    ("{% for m in", "m: chat: its chat template refuses a prompt: "),
])  # fmt: skip
def test_a_model_without_a_usable_template_is_refused_by_name_and_only_in_chat(template, why):
    tokenizer = tokenizer_of("plain")
    tokenizer.chat_template = template
    model = wrap_model(make_hf("llama"), tokenizer, name="m")
    items = Task("t", (Item("0", "Q:", (" 4", " 3"), 0),))
    assert len(score(items, model).scores) == 2
    with pytest.raises(InputError) as caught:
        score(items, model, chat=True)
    assert str(caught.value).startswith(why)


def test_a_prompt_that_a_template_changes_is_refused_by_item():
    tokenizer = tokenizer_of("plain")
    tokenizer.chat_template = PLAIN.replace("{{ m.content }}", "{{ m.content | replace('Y', 'y') }}")
    model = wrap_model(make_hf("llama"), tokenizer, name="m").with_chat(True)
    items = (Item("same", "Q: no", (" 4", " 3")), Item("other", "Q: Yes", (" 4", " 3")))
    with pytest.raises(
        InputError, match="item other, completion ' 4': its chat template shows another text in its pla"
    ):
        score(Task("t", items), model)
    numbers = (Item("same", "Q: no", ()), Item("other", "Q: Yes", ()))
    with pytest.raises(InputError, match="metric numeric: item other: its chat template shows another text"):
        score(Task("t", numbers, "numeric"), model)


def test_completions_that_are_one_reply_are_refused():
    with pytest.raises(InputError, match="item i: completions ' Yes' and 'Yes' become the same tokens"):
        encode_all(chatting("plain"), ["Q:"], [(" Yes", "Yes")], ["i"])


def two_pairs() -> PairSet:
    made = []
    for i in range(2):
        question = [(f"Q: A {i}? A:", "question")]
        conflict = compose([("Not New York. ", "definition"), *question])
        made.append(Pair(f"p{i}", compose(question), conflict, " Yes", " No", "definition"))
    return PairSet("t", tuple(made))


def test_every_verb_takes_the_setting_or_the_model_as_it_was_loaded():
    plain, pairs = chatting("trimmed", chat=False), two_pairs()
    chat = plain.with_chat(True)
    verbs = {
        "score": lambda model, **o: score(pairs, model, **o).items,
        "trace": lambda model, **o: trace(pairs, model, **o).lens,
        "locate": lambda model, **o: locate(pairs, model, **o).effects,
        "verify": lambda model, **o: verify(["m0"], pairs, model, n_random=2, **o),
    }
    for name, verb in verbs.items():
        asked, loaded = verb(plain, chat=True), verb(chat)
        assert asked.frame.equals(loaded.frame), name
        assert asked.run.settings["chat"] == chat.chat.described and "chat" not in verb(plain).run.settings
        assert not asked.frame.equals(verb(plain).frame) and verb(chat, chat=False).frame.equals(verb(plain).frame), (
            name
        )
        terse = verb(chat, chat="Be terse.")
        assert terse.run.settings["chat"].endswith("system text 'Be terse.'") and not terse.frame.equals(asked.frame)


def test_base_and_instruct_models_stand_side_by_side():
    base, instruct = (
        chatting("plain", chat=False),
        im.models.wrap_model(make_hf("llama", seed=1), tokenizer_of("plain"), name="instruct").with_chat(True),
    )
    found = score(two_pairs(), [base, instruct])
    assert set(found.items.frame["model"]) == {"m", "instruct"}
    alone = [score(two_pairs(), model).items.frame["margin"].tolist() for model in (base, instruct)]
    for model, margins in zip((base, instruct), alone, strict=True):
        here = found.items.frame[found.items.frame["model"] == model.name]["margin"]
        assert here.tolist() == pytest.approx(margins, abs=1e-5)


def test_a_lens_is_trained_on_chats_and_activations_are_captured_there():
    model = chatting("plain")
    lens = train_lens(model, ["Q: A: Yes", "Q: New York", "the first"], steps=1, tokens=16)
    assert len(lens.kl) == 6
    read = model.capture("blocks.0.hook_resid_post", "Q: A:")[0]["blocks.0.hook_resid_post"]
    assert len(read) == len(by_template(model.tokenizer, "Q: A:"))


def test_a_loaded_checkpoint_takes_the_setting(tmp_path):
    folder = tmp_path / "instruct"
    make_hf("llama").save_pretrained(folder)
    tokenizer_of("plain").save_pretrained(folder)
    loaded = im.load_model(folder, chat="Be terse.")
    assert loaded.chat is not None and "Be terse." in loaded.chat.before
    with torch.no_grad():
        want = make_hf("llama")(torch.tensor([by_template(loaded.tokenizer, "Q:", "Be terse.")])).logits[0, -1]
    found = score(Task("t", (Item("0", "Q:", ("4", "3"), 0),)), loaded).scores.frame
    assert found["logprob"].to_numpy() == pytest.approx(
        np.array([float(want.log_softmax(-1)[int(t)]) for t in found["token_ids"]]), abs=1e-4
    )
