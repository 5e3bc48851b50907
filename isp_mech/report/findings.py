"""What the tables say, in sentences. Every number comes from a table; what was not shown is said too."""

from __future__ import annotations

import math

import pandas as pd

from isp_mech.figures.style import SHARE_COLOURS, probability
from isp_mech.report.restored_findings import restored_elsewhere, restored_findings
from isp_mech.report.task_rows import TaskRows, named_sites
from isp_mech.report.wording import counted, interval, listed, percent, say, sentence
from isp_mech.scaling import Shape, shape_of_curve
from isp_mech.stats import LEVEL


def findings(of: TaskRows) -> list[str]:
    """Paragraphs of plain text: what restores prompt-following, the curve, what each size does, where, which sites, and
    what replacing them does."""
    parts = (restored_findings, restored_elsewhere, _curve, _other_sides, _shares, _onset, _sites, _replaced)
    paragraphs = [part(of) for part in parts]
    return [" ".join(sentences) for sentences in paragraphs if sentences]


def _curve(of: TaskRows) -> list[str]:
    side, what = _main_side(of)
    rows = of.rows("curve", side=side)
    if of.curve is None or not len(rows):
        return [say("curve none", task=of.task)]
    first, last = rows.iloc[0], rows.iloc[-1]
    if len(rows) == 1:
        return [say("curve one size", who=of.who([last["model"]]), accuracy=_accuracy(last), what=what)]
    best, worst = rows.iloc[rows["accuracy"].to_numpy().argmax()], rows.iloc[rows["accuracy"].to_numpy().argmin()]
    same_size = rows["n_params"].nunique() < len(rows)
    shape = shape_of_curve(of.curve, side) if rows["n"].notna().all() and not same_size else None
    lines = [
        say(
            f"curve {shape.name if shape else 'undecided'}",
            what=what,
            start=f"{_accuracy(first)} in the smallest model ({of.labels[first['model']]})",
            end=f"{_accuracy(last)} in the largest ({of.labels[last['model']]})",
            best=_accuracy(best),
            best_size=of.labels[best["model"]],
            worst=_accuracy(worst),
            worst_size=of.labels[worst["model"]],
        )
    ]
    if (shape is None or shape.name == "inverse") and best["model"] not in (first["model"], last["model"]):
        lines.append(say("curve best", who=of.who([best["model"]]), accuracy=_accuracy(best)))
    if shape is None:
        return [*lines, say("curve same sizes" if same_size else "curve no counts")]
    return lines + _certainty(shape, len(rows))


def _certainty(shape: Shape, n_sizes: int) -> list[str]:
    ends = f"{_points(shape.change_lo)} to {_points(shape.change_hi)} points"
    change = f"{_points(shape.change)} points (95 % interval {ends})"
    seen = math.isfinite(shape.smallest_effect)
    trend = f"{_points(abs(shape.smallest_effect))} points" if seen else ""
    if shape.name == "undecided":
        return [say("curve open", change=change, n=n_sizes), *([say("curve missed", trend=trend)] if seen else [])]
    would = say("curve seen", trend=trend) if shape.name == "flat" and seen else ""
    return [say("curve decided", shape=shape.name, change=change, seen=would)]


def _points(share: float) -> str:
    return f"{100 * share:.0f}".replace("-", "−")


def _accuracy(row: pd.Series) -> str:
    return percent(row["accuracy"]) + interval(row["accuracy_lo"], row["accuracy_hi"])


def _main_side(of: TaskRows) -> tuple[str, str]:
    sides = set(of.rows("curve").get("side", ()))
    alone = "conflict" not in sides and "item" in sides
    return ("item", "the items") if alone else ("conflict", "the conflict prompts")


def _other_sides(of: TaskRows) -> list[str]:
    if of.curve is None:
        return []
    if _main_side(of)[0] == "item":
        return [say("items alone")]
    plain, neutral = of.rows("curve", side="plain"), of.rows("curve", side="neutral")
    accuracies = [percent(share) for share in plain.get("accuracy", ())]
    if not accuracies:
        lines = [say("plain none")]
    else:
        lines = [say("plain one size" if len(plain) == 1 else "plain", first=accuracies[0], last=accuracies[-1])]
    if len(neutral):
        last = neutral.iloc[-1]
        able = "able" if last["accuracy"] >= 0.8 else "unable"
        lines.append(say(f"neutral {able}", who=of.who([last["model"]]), accuracy=percent(last["accuracy"])))
    return lines


def _shares(of: TaskRows) -> list[str]:
    rows = of.rows("shares")
    lines = []
    for case, members in rows.groupby(rows.apply(_case, axis="columns"), sort=False) if len(rows) else ():
        many, share = len(members) > 1, members.get(str(case), pd.Series(dtype=float))
        words = {"s": "" if many else "s", "are": "are" if many else "is"}
        most = "mostly" if (share > 0.5).all() else "most often"
        shares = listed([percent(value) for value in share])
        lines.append(sentence(say(f"shares {case}", who=of.who(members["model"]), most=most, shares=shares, **words)))
    return lines


def _case(row: pd.Series) -> str:
    shares = {name: float(row[name]) for name in SHARE_COLOURS}
    if all(0.15 <= share <= 0.35 for share in shares.values()):
        return "guesses"
    same = shares["overridden"], shares["contrary"]
    if min(same) >= 0.25 and sum(same) >= 0.65:
        return "heedless"
    return max(shares, key=lambda name: shares[name])


def _onset(of: TaskRows) -> list[str]:
    rows = of.rows("onset", side="conflict")
    if not len(rows):
        return []
    some = rows[rows["onset"].notna() & (rows["n_onset"] > 0)]
    if not len(some):
        return [say("onset none")]
    last = some.iloc[-1]
    who, ends = of.who([last["model"]]), (last["onset_lo"], last["onset_hi"])
    bounds = f" (95 % interval {ends[0]:.2f} to {ends[1]:.2f})" if all(map(math.isfinite, ends)) else ""
    depth = f"{last['onset']:.2f}"
    lines = [say("onset", who=who, depth=depth, bounds=bounds, n_onset=last["n_onset"], n=last["n"])]
    if len(some) > 1:
        first, share = (percent(share) for share in (some["n_onset"] / some["n"]).iloc[[0, -1]])
        lines.append(say("onset shares", first=first, last=share, smaller=of.who(some["model"].iloc[:1]), who=who))
    none = rows[~rows["model"].isin(some["model"])]
    if len(none):
        lines.append(sentence(say("onset missing", who=of.who(none["model"]), s="s" if len(none) == 1 else "")))
    return lines


def _sites(of: TaskRows) -> list[str]:
    rows = of.rows("sites")
    if not len(rows):
        return []
    significant = rows[rows["significant"]]
    if not len(significant):
        return [say("sites none", n=len(rows))]
    largest = rows[rows["model"] == rows["model"].iloc[-1]]
    who = of.who(largest["model"])
    here = largest[largest["significant"]].sort_values("effect")
    if not len(here):
        return [say("sites not here", who=who)]
    pushing = {"lure": here[here["effect"] < 0], "answer": here[here["effect"] > 0].iloc[::-1]}
    pushes = [
        f"{counted(len(some), 'pushes', 'push')} towards the {side}"
        + (f", most of all {named_sites(some)}" if len(some) > 3 else f": {named_sites(some)}")
        for side, some in pushing.items()
        if len(some)
    ]
    all_sites, have = counted(len(largest), "site"), "has" if len(here) == 1 else "have"
    lines = [say("sites", who=who, n=len(here), all=all_sites, have=have, pushes="; ".join(pushes))]
    if not len(pushing["lure"]):
        lines.append(say("sites no lure"))
    bare = set(rows["model"]) - set(significant["model"])
    return [*lines, say("sites missing", who=of.who(bare))] if bare else lines


def _replaced(of: TaskRows) -> list[str]:
    if of.located is None:
        return [say("replaced not")] if len(of.rows("sites")) or len(of.rows("shares")) else []
    tested = of.located[of.located["most_sites"] > 0]
    if not len(tested):
        return [say("replaced no sites")]
    last = tested.iloc[-1]
    helped = (tested["accuracy_after"] > tested["accuracy_before"]) & (tested["p_random"] <= LEVEL)
    others = tested["model"] != last["model"]
    groups = {
        "replaced elsewhere": tested[helped & others],
        "replaced failed": tested[~helped & others],
        "replaced no choice": of.located[of.located["most_sites"] == 0],
    }
    return _replaced_in(of, last) + [say(name, who=of.who(m["model"])) for name, m in groups.items() if len(m)]


def _replaced_in(of: TaskRows, row: pd.Series) -> list[str]:
    few, many = int(row["n_sites"]), int(row["most_sites"])
    what = "the one located site" if many == 1 else f"the {many} located sites"
    if few != many:
        what = f"the located sites ({few} chosen on one half, {many} on the other)"
    values = {
        "pairs": "pairs that were not used to choose them" if row["held_out"] else "all pairs",
        "sites": what,
        "who": of.who([row["model"]]),
        "before": percent(row["accuracy_before"]),
        "after": percent(row["accuracy_after"]),
    }
    if row["accuracy_after"] <= row["accuracy_before"]:
        return [say("replaced in vain", **values)]
    gap, p = float(row["gap_closed"]), float(row["p_random"])
    closed = say("replaced gap", share=percent(gap)) if math.isfinite(gap) else ""
    if few == 0:
        chance = "replaced half"
    elif not math.isfinite(p):
        chance = "replaced alone"
    else:
        chance = "replaced no better" if p > LEVEL else "replaced better"
    draws = counted(int(row["n_random"]), "random set")
    return [say("replaced", gap=closed, **values), say(chance, p=probability(p), draws=draws), _cost(row)]


def _cost(row: pd.Series) -> str:
    before, after = float(row["plain_before"]), float(row["plain_after"])
    if not math.isfinite(before + after):
        return say("replaced no plain")
    start, end = float(row["neutral_loss_before"]), float(row["neutral_loss_after"])
    loss = say("replaced loss", before=start, after=end) if math.isfinite(start + end) else ""
    return say("replaced plain", before=percent(before), after=percent(after), loss=loss)
