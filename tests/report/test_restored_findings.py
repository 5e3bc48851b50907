"""What the report says of changes that restore prompt-following: true sentences in every branch."""

from __future__ import annotations

import pytest

from isp_mech.report import findings, task_rows
from isp_mech.tables import make_run, table

SIZES = [("small", 30_000), ("middle", 300_000), ("large", 4_000_000)]
RUN = make_run(model="family", task="t", method="made up")
BLOCK = "block(quote_output; layers=all; heads=all)"
SCALE = "scale(a1.h2; alpha=0.0; at=onward)"
STEER = "steer(r1; vector=conflict-plain#12ab; alpha=2.0; at=onward)"
SWAP = "swap(r3; subspace=trained#12ab; at=decision)"
BY_KIND = {
    "block": (BLOCK, "spans of quote_output"),
    "scale": (SCALE, "nothing"),
    "steer": (STEER, "nothing"),
    "swap": (SWAP, "the pair's other prompt"),
}


def row(i, kind, before, after, restoring, **changed):
    text, needs = BY_KIND[kind]
    means = {"conflict_before": before, "conflict_after": after, "gain": after - before, "plain_before": 1.0,
             "plain_after": 0.98, "neutral_before": 2.0, "neutral_after": 2.04, "neutral_kl": 0.07, "broken": 0.01,
             "restored": (after - before) / (1 - before) if before < 1 else float("nan")}  # fmt: skip
    means |= {name: changed.pop(name) for name in list(changed) if name in means}
    ends = {f"{name}_{end}": value + d for name, value in means.items() for end, d in (("lo", -0.04), ("hi", 0.04))}
    told = {"kind": kind, "intervention": text, "needs": needs, "saved": "{}", "n_sites": 1, "n_layers": 1,
            "n_tokens": 1.0, "n": 150, "n_overridden": round(150 * (1 - before)), "n_random": 200,
            "restored_random": 0.03, "p": 0.005, "q": 0.01, "restoring": restoring}  # fmt: skip
    head = {"model": SIZES[i][0], "n_params": SIZES[i][1], "task": "t"}
    return [head | means | ends | told | {"split": split} | changed for split in ("half_b", "half_a")]


def said(*rows):
    made = table("restoration", [one for some in rows for one in some], RUN)
    *restored, curve = findings(task_rows({"restoration": made}, "t"))
    assert curve.startswith("No accuracies")
    return "\n".join(restored)


def test_the_best_change_is_told_with_what_it_restores_costs_and_needs():
    text = said(row(2, "block", 0.1, 0.82, True), row(2, "scale", 0.1, 0.6, True), row(2, "steer", 0.1, 0.2, False))
    assert text == (
        "The prompt is followed again with one change: on pairs that did not choose it, blocking attention to "
        "quote_output in the 4M model makes 82 % of the conflict prompts right, where 10 % are without it (300 pairs). "
        "Of 270 overridden pairs, 80 % (95 % interval 76 to 84 %) are restored; random changes of the same kind and "
        "size restore 3 % (p = 0.005, 200 draws). The change has to know where in a prompt some words stand (spans of "
        "quote_output), so it proves where the override comes from. Its cost: plain accuracy is 100 % before and 98 % "
        "after; neutral text has no such words and stays as it is. It is saved in the folder interventions; isp-mech "
        "score TASK --intervention FILE applies it to any task of pairs. Not called restoring there: steer.\n"
        "Of changes of the same model that need to know nothing of a prompt the best is scaling a1.h2 by 0: conflict "
        "accuracy goes from 10 % to 60 % (p = 0.005). Its cost: plain accuracy is 100 % before and 98 % after; the "
        "loss on neutral text is 2.00 and 2.04 nats per token, and the next token there is told otherwise by 0.07 nats "
        "(divergence)."
    )


def test_a_swap_is_told_apart():
    """It needs the pair's other prompt: it is not the best change, and not saved."""
    block, swap = row(2, "block", 0.1, 0.82, True), row(2, "swap", 0.1, 0.9, True)
    text = said(block, swap)
    assert text.startswith(said(block)) and "makes 82 % of the conflict prompts right" in text
    assert text.endswith(
        "One direction holds what overrides the prompt in the 4M model: swapping the stream after layer 3 along one "
        "trained direction between a pair's prompts takes conflict accuracy from 10 % to 90 % (p = 0.005). It needs "
        "the pair's other prompt, so it shows where the override lies and is of no use beyond."
    )
    alone = said(row(1, "swap", 0.1, 0.1, False), row(2, "swap", 0.1, 0.1, False))
    assert alone.startswith("No single direction") and alone.endswith("does not count as restoring at any size.")


def test_other_sizes_are_told_in_a_sentence():
    text = said(
        row(0, "block", 1.0, 1.0, False),
        row(1, "block", 0.5, 0.5, False),
        row(2, "block", 0.1, 0.8, True),
        row(1, "scale", 0.5, 0.9, True),
    )
    assert "In the 300k model the best is scaling a1.h2 by 0 (50 % to 90 %)." in text
    assert "In the 30k model no pair is overridden, so there is nothing to restore." in text
    assert "No change that needs to know nothing of a prompt counts as restoring in the same model." in text
    text = said(row(1, "block", 0.5, 0.5, False), row(2, "scale", 0.1, 0.8, True))
    assert "No kind of change counts as restoring in the 300k model." in text
    assert "The change needs to know nothing of a prompt and could be left in the model." in text
    assert "No change by the words of a prompt counts as restoring in the same model." in text


def test_guessing_is_called_guessing():
    assert "no more than guessing gives" in said(row(2, "block", 0.0, 0.52, True))
    assert "no more than guessing gives" not in said(row(2, "block", 0.0, 0.6, True))
    text = said(row(1, "block", 0.0, 0.5, True), row(2, "block", 0.1, 0.9, True))
    assert "(0 % to 50 %, which is guessing)" in text


@pytest.mark.parametrize("after", [0.5, 0.1])
def test_what_did_not_work_is_said(after):
    text = said(row(2, "block", 0.1, after, False), row(2, "steer", 0.1, 0.15, False))
    assert text.startswith("No change that was searched (block and steer) counts as restoring at any size")
    assert ("raise conflict accuracy to what guessing gives" in text) == (after == 0.5)
    assert "saved" not in text


def test_a_cost_that_plain_prompts_cannot_show_is_not_told_as_none():
    """As that of redefine-math's definition, which plain prompts do not have."""
    unseen = "What it costs is not measured: plain prompts and neutral text have no such words and stay as they are."
    assert unseen in said(row(2, "block", 0.1, 0.8, True, plain_tokens=0.0))
    assert unseen not in said(row(2, "block", 0.1, 0.8, True, plain_tokens=3.0))
    assert unseen not in said(row(2, "scale", 0.1, 0.8, True, plain_tokens=0.0))


def test_what_guesses_as_it_is_is_not_called_raised_to_guessing():
    """25 k on NeQA: 47 % right as it is, 50 % with the change; 335 k goes from 13 to 43 %."""
    assert "guessing" not in said(row(0, "block", 0.47, 0.5, False))
    text = said(row(0, "block", 0.47, 0.5, False), row(1, "block", 0.13, 0.47, False))
    assert "In the 300k model some changes raise conflict accuracy to what guessing gives." in text


def test_the_other_halfs_choice_is_told_where_it_differs():
    rows = row(2, "block", 0.1, 0.8, True)
    rows[1] |= {"intervention": "block(question; layers=0-1; heads=all)", "conflict_after": 0.7}
    assert "On the other half of the pairs the choice was blocking attention to question in layers 0-1." in said(rows)
    both = f"{BLOCK} + {SCALE}", f"{SCALE} + {BLOCK}"
    for one, text in zip(rows, both, strict=True):
        one["intervention"] = text
    assert "other half" not in said(rows)
