"""Each size in one sentence."""

from __future__ import annotations

import math

import pandas as pd

from isp_mech.report.task_rows import Story, named
from isp_mech.report.wording import counted, listed, percent, probability, sentence


def of_each_size(told: Story) -> list[tuple[str, str]]:
    """``(label, sentence)`` of every size, from small to large: accuracies, shares, onset, sites, replacement."""
    out = []
    for model, label in told.labels.items():
        parts = [
            p
            for p in (
                _size_curve(told, model),
                _size_shares(told, model),
                _size_depth(told, model),
                _size_sites(told, model),
                _size_replaced(told, model),
            )
            if p
        ]
        if parts:
            out.append((label, sentence("; ".join(parts)) + "."))
    return out


def _size_curve(told: Story, model: str) -> str:
    rows = told.rows("curve", model=model)
    accuracy = {row["side"]: percent(row["accuracy"]) for _, row in rows.iterrows()}
    names = (
        ("conflict", "conflict prompts"),
        ("plain", "plain prompts"),
        ("neutral", "neutral prompts"),
        ("item", "items"),
    )
    said = [f"{accuracy[side]} of {what}" for side, what in names if side in accuracy]
    return f"right on {listed(said)}" if said else ""


def _size_shares(told: Story, model: str) -> str:
    rows = told.rows("shares", model=model)
    if not len(rows):
        return ""
    row = rows.iloc[0]
    return (
        f"follows the prompt on {percent(row['follows'])} of pairs, is overridden on {percent(row['overridden'])}, "
        f"contrary on {percent(row['contrary'])}, lost on {percent(row['lost'])}"
    )


def _size_depth(told: Story, model: str) -> str:
    rows = told.rows("onset", model=model, side="conflict")
    if not len(rows):
        return ""
    row = rows.iloc[0]
    if not row["n_onset"] or not math.isfinite(row["onset"]):
        return "no override onset"
    return f"override onset at depth {row['onset']:.2f} in {percent(row['n_onset'] / row['n'])} of pairs"


def _size_sites(told: Story, model: str) -> str:
    rows = told.rows("sites", model=model)
    if not len(rows):
        return ""
    found = rows[rows["significant"]].sort_values("effect", key=abs, ascending=False)
    return f"{counted(len(found), 'significant site')}" + (f", the strongest {named(found, 1)}" if len(found) else "")


def _size_replaced(told: Story, model: str) -> str:
    rows = told.verified[0] if told.verified is not None else pd.DataFrame(columns=["model"])
    rows = rows[rows["model"] == model]
    if not len(rows) or not rows.iloc[0]["most_sites"]:
        return ""
    row = rows.iloc[0]
    p = f" ({probability(row['p_random'])})" if math.isfinite(row["p_random"]) else ""
    before, after = percent(row["accuracy_before"]), percent(row["accuracy_after"])
    what = "held-out conflict accuracy" if row["held_out"] else "conflict accuracy"
    return f"replacing the located sites takes {what} from {before} to {after}{p}"
