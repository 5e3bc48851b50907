"""Scores: a model worked out by hand, plain transformers as the second opinion, and invariances."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hand_worked_model import by_hand
from small_models import byte_tokenizer, make_hf, plain_logprobs

from isp_mech.inference.batches import plan_batches
from isp_mech.inference.tokenization import encode_both
from isp_mech.models import wrap_model
from isp_mech.scoring import Reader, cases_of, class_logprobs, score
from isp_mech.scoring.completion_logprobs import logprobs_of
from isp_mech.tasks import Item, Pair, PairSet, Task, compose, read_task

DATA = Path(__file__).parents[3] / "shared" / "data" / "prize"


def task_of(*items: tuple[str, tuple[str, ...], int]) -> Task:
    made = tuple(Item(id=str(i), prompt=p, classes=c, answer=a) for i, (p, c, a) in enumerate(items))
    return Task(name="made", items=made)


def test_a_model_worked_out_by_hand():
    made = score(task_of(("Q: A:", ("x", "y"), 0)), by_hand())
    zx, zy = math.sqrt(2), -2 * math.sqrt(2)
    total = math.log(math.exp(zx) + math.exp(zy) + 318)  # the other 318 tokens have logit 0
    assert made.scores.frame["logprob"].tolist() == pytest.approx([zx - total, zy - total], abs=1e-5)
    item = made.items.frame.iloc[0]
    assert item["margin"] == pytest.approx(3 * math.sqrt(2), abs=1e-5)
    assert item["loss"] == pytest.approx(math.log1p(math.exp(zy - zx)), abs=1e-5)
    assert item["total_logprob"] == pytest.approx(math.log(math.exp(zx) + math.exp(zy)) - total, abs=1e-5)
    assert item["correct"] and not item["tie"] and item["predicted_index"] == 0
    curve = made.curve.frame.iloc[0]
    assert curve["coverage"] == pytest.approx(math.exp(item["total_logprob"]), abs=1e-6) and curve["n"] == 1


def test_equal_completions_tie_and_the_lowest_index_wins():
    made = score(task_of(("Q: A:", ("v", "w"), 1), ("Q: B:", ("w", "v"), 0)), by_hand())
    frame = made.items.frame
    assert (
        frame["tie"].all()
        and frame["predicted_index"].tolist() == [0, 0]
        and frame["correct"].tolist() == [False, True]
    )
    assert frame["loss"].tolist() == pytest.approx([math.log(2)] * 2, abs=1e-5)
    assert any("ties, 2 of 2" in note for note in made.curve.run.notes)


def plain_scores(model, cases) -> list[list[float]]:
    out = []
    for case in cases:
        start = len(model.tokenizer(case.prompt).input_ids)
        row = []
        for text in case.classes:
            ids = model.tokenizer(case.prompt + text).input_ids
            logp = plain_logprobs(model.hf, ids)
            row.append(sum(float(logp[i - 1, ids[i]]) for i in range(start, len(ids))))
        out.append(row)
    return out


def test_log_probabilities_are_the_plain_models(model, pairs):
    cases = cases_of(pairs)
    ours = class_logprobs(model, cases)
    for got, want in zip(ours.logprobs, plain_scores(model, cases), strict=True):
        assert got == pytest.approx(want, abs=1e-4)


def test_a_model_that_does_not_accept_custom_masks_scores_alike(tokenizer, pairs):
    model = wrap_model(make_hf("gpt-neo"), tokenizer, name="neo")
    cases = cases_of(pairs)
    for got, want in zip(class_logprobs(model, cases).logprobs, plain_scores(model, cases), strict=True):
        assert got == pytest.approx(want, abs=1e-4)


def test_models_that_share_a_tokenizer_are_read_for_once(make_model, pairs, monkeypatch):
    cases, read = cases_of(pairs), []

    def encode(model, *args, **options):
        read.append(model.name)
        return encode_both(model, *args, **options)

    monkeypatch.setattr("isp_mech.scoring.completion_logprobs.encode_both", encode)
    one, other = make_model("neox"), wrap_model(make_hf("neox", seed=1), byte_tokenizer(), name="other")
    started = wrap_model(make_hf("neox"), byte_tokenizer(start_token=True), name="started")
    alone = [class_logprobs(model, cases) for model in (one, other, started)]
    read.clear()
    reader = Reader(cases, "strict", False)
    for model, want in zip((one, other, started), alone, strict=True):
        found = logprobs_of(reader, plan_batches(model))
        assert found.tokens == want.tokens
        assert all(np.array_equal(a, b) for a, b in zip(found.logprobs, want.logprobs, strict=True))
    assert read == [one.name, started.name]
    read.clear()
    score(pairs, [one, other, started])
    assert read == [one.name, started.name]


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_batch_size_and_order_change_nothing(make_model, pairs, batch_size):
    model = make_model("llama")
    reference = score(pairs, model).items.frame.set_index(["item", "side"])["margin"]
    shuffled = pairs.take(np.random.default_rng(batch_size).permutation(len(pairs)))
    again = score(shuffled, model, batch_size=batch_size).items.frame.set_index(["item", "side"])["margin"]
    assert (reference - again[reference.index]).abs().max() < 1e-4


def test_sides_mean_what_they_say(make_model):
    """On the plain side the lure is right; the margin is answer less lure on every side."""
    question = [("Q: What is it? A:", "question")]
    neutral = compose([("Redefine x as 9. ", "definition"), *question])
    conflict = compose([("Redefine pi as 4. ", "definition"), *question])
    made = [
        Pair(f"p{i}", compose(question), conflict, " 4", " 3", "definition", neutral, " 9", " 8", answer_index=i)
        for i in (0, 1)
    ]
    found = score(PairSet("t", tuple(made)), make_model("neox"))
    rows = found.scores.frame
    texts = {(r.item, r.side): r.class_text for r in rows[rows["is_answer"]].itertuples()}
    assert texts == {
        (f"p{i}", side): want for i in (0, 1) for side, want in (("conflict", " 4"), ("plain", " 3"), ("neutral", " 9"))
    }
    order = rows[rows["item"] == "p1"].groupby("side", sort=False)["class_text"].agg(list).to_dict()
    assert order == {"conflict": [" 3", " 4"], "plain": [" 3", " 4"], "neutral": [" 8", " 9"]}
    logprob = {(r.item, r.side, r.class_text): r.logprob for r in rows.itertuples()}
    for r in found.items.frame.itertuples():
        answer, lure = (" 9", " 8") if r.side == "neutral" else (" 4", " 3")
        assert r.margin == pytest.approx(logprob[r.item, r.side, answer] - logprob[r.item, r.side, lure], abs=1e-6)
        assert r.correct == ((r.margin < 0) if r.side == "plain" else (r.margin > 0))


def test_shares_count_both_sides(make_model, pairs):
    found = score(pairs, make_model("gpt2"))
    right = found.items.frame.pivot(index="item", columns="side", values="correct")
    row = found.shares.frame.iloc[0]
    assert row["follows"] == (right["plain"] & right["conflict"]).mean()
    assert row["overridden"] == (right["plain"] & ~right["conflict"]).mean()
    assert row["contrary"] == (~right["plain"] & right["conflict"]).mean()
    assert row["lost"] == (~right["plain"] & ~right["conflict"]).mean()
    assert row["n"] == len(pairs) and row["follows_lo"] <= row["follows"] <= row["follows_hi"]


def test_the_baseline_stands_only_where_guessing_has_a_meaning(make_model):
    letters = Task(name="l", items=(Item(id="0", prompt="Q: A:", classes=(" A", " B"), answer=0),), equally_likely=True)
    free = Task(
        name="f", items=(Item(id="0", prompt="Q: A:", classes=(" part", " pango"), answer=0),), equally_likely=False
    )
    model = make_model("neox")
    assert score(letters, model).curve.frame["baseline"].tolist() == [0.5]
    assert score(free, model).curve.frame["baseline"].isna().all()


def test_low_coverage_is_told(make_model):
    found = score(task_of(("Q: A:", (" zqzqzqzq", " qzqzqzqz"), 0)), make_model("neox"))
    assert any("mean coverage under 0.001" in note for note in found.curve.run.notes)


@pytest.mark.skipif(not DATA.is_dir(), reason="the prize's files are not beside the project")
@pytest.mark.parametrize("name", ["neqa_classification.jsonl", "hindsight-neglect_classification.jsonl"])
def test_the_prizes_files_agree_with_plain_transformers(name):
    task = read_task(DATA / name)
    model = wrap_model(make_hf("llama", length=8192), byte_tokenizer(), name="long")
    few = Task(name=task.name, items=task.items[:6], metric=task.metric)
    cases = cases_of(few)
    for got, want in zip(class_logprobs(model, cases).logprobs, plain_scores(model, cases), strict=True):
        assert got == pytest.approx(want, abs=1e-4)
