"""Each size in one sentence."""

from __future__ import annotations

import math

from isp_mech.figures.style import SHARE_COLOURS, probability
from isp_mech.report.task_rows import TaskRows, named_sites
from isp_mech.report.wording import counted, listed, percent, say, sentence

_PROMPTS = {"conflict": "conflict prompts", "plain": "plain prompts", "neutral": "neutral prompts", "item": "items"}


def size_by_size(of: TaskRows) -> list[tuple[str, str]]:
    """``(label, sentence)`` of every size, from small to large: accuracies, shares, onset, sites, replacement."""
    parts = {
        label: [part(of, model) for part in (_curve, _shares, _depth, _sites, _replaced)]
        for model, label in of.labels.items()
    }
    return [(label, sentence("; ".join(filter(None, some))) + ".") for label, some in parts.items() if any(some)]


def _curve(of: TaskRows, model: str) -> str:
    rows = of.rows("curve", model=model)
    accuracy = dict(zip(rows["side"], rows["accuracy"], strict=True)) if len(rows) else {}
    parts = [f"{percent(accuracy[side])} of {what}" for side, what in _PROMPTS.items() if side in accuracy]
    return say("size curve", parts=listed(parts)) if parts else ""


def _shares(of: TaskRows, model: str) -> str:
    rows = of.rows("shares", model=model)
    return say("size shares", **{name: percent(rows[name].iloc[0]) for name in SHARE_COLOURS}) if len(rows) else ""


def _depth(of: TaskRows, model: str) -> str:
    rows = of.rows("onset", model=model, side="conflict")
    if not len(rows):
        return ""
    row = rows.iloc[0]
    if not row["n_onset"] or not math.isfinite(row["onset"]):
        return say("size no onset")
    return say("size onset", depth=f"{row['onset']:.2f}", share=percent(row["n_onset"] / row["n"]))


def _sites(of: TaskRows, model: str) -> str:
    rows = of.rows("sites", model=model)
    if not len(rows):
        return ""
    rows = rows[rows["significant"]].sort_values("effect", key=abs, ascending=False)
    return counted(len(rows), "significant site") + (f", the strongest {named_sites(rows, 1)}" if len(rows) else "")


def _replaced(of: TaskRows, model: str) -> str:
    if of.located is None or model not in set(of.located["model"]):
        return ""
    row = of.located[of.located["model"] == model].iloc[0]
    if not row["most_sites"]:
        return ""
    p = f" ({probability(row['p_random'])})" if math.isfinite(row["p_random"]) else ""
    before, after = percent(row["accuracy_before"]), percent(row["accuracy_after"])
    what = "held-out conflict accuracy" if row["held_out"] else "conflict accuracy"
    return say("size replaced", what=what, before=before, after=after, p=p)
