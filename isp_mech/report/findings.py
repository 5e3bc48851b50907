"""What the tables say, in sentences. Every number comes from a table; what was not shown is said too."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from isp_mech.report.task_rows import Story, named
from isp_mech.report.wording import counted, interval, listed, models, percent, probability, sentence
from isp_mech.scaling import Shape, shape_of_curve
from isp_mech.stats import LEVEL

SHARES = ("follows", "overridden", "contrary", "lost")
_DOES = {
    "follows": ("follows the prompt", "follow the prompt"),
    "overridden": (
        "is overridden, answering as if the twist were not there",
        "are overridden, answering as if the twist were not there",
    ),
    "contrary": (
        "is contrary, right on the conflict prompt and wrong on the plain one",
        "are contrary, right on the conflict prompt and wrong on the plain one",
    ),
    "lost": ("is lost, wrong on both prompts", "are lost, wrong on both prompts"),
}

_AIMLESS = {
    "guesses": (
        "puts about a quarter of the pairs in each case, as guessing would",
        "put about a quarter of the pairs in each case, as guessing would",
    ),
    "heedless": (
        "answers alike on both prompts, now with the lure and now with the answer, and so takes no notice of the twist",
        "answer alike on both prompts, now with the lure and now with the answer, and so take no notice of the twist",
    ),
}


def findings(told: Story) -> list[str]:
    """Paragraphs of plain text: the curve, what each size does, where, which sites, and what replacing them does."""
    paragraphs = [_curve(told), _other_sides(told), _shares(told), _onset(told), _sites(told), _verification(told)]
    return [text for text in paragraphs if text]


def _curve(told: Story) -> str:
    side, what = _main_side(told)
    rows = told.rows("curve", side=side)
    if not len(rows):
        return f"No accuracies were given for {told.task}, so nothing is said about its scaling curve."
    first, last = rows.iloc[0], rows.iloc[-1]
    if len(rows) == 1:
        return (
            f"Only one size was measured: {models([told.label(last)])} is right on {_accuracy(last)} of {what}. "
            "One size says nothing about scaling."
        )
    accuracy = rows["accuracy"].to_numpy(float)
    best, worst = rows.iloc[int(accuracy.argmax())], rows.iloc[int(accuracy.argmin())]
    assert told.curve_table is not None
    counted_items = bool(rows["n"].notna().all())
    same_size = len(rows) - rows["n_params"].nunique()
    shape = shape_of_curve(told.curve_table, side) if counted_items and not same_size else None
    start = f"{_accuracy(first)} in the smallest model ({told.label(first)})"
    end = f"{_accuracy(last)} in the largest ({told.label(last)})"
    texts = {
        "inverse": f"Accuracy on {what} falls with size: {start}, {end}.",
        "positive": f"Accuracy on {what} rises with size: {start}, {end}.",
        "U": f"Accuracy on {what} falls with size and then rises again: {start}, {_accuracy(worst)} at the lowest "
        f"({told.label(worst)}), {end}.",
        "inverted U": f"Accuracy on {what} rises with size and then falls: {start}, {_accuracy(best)} at the best "
        f"({told.label(best)}), {end}.",
        "flat": f"Accuracy on {what} stays about the same over size: {start}, {end}.",
        "undecided": f"Accuracy on {what} is {start} and {end}.",
    }
    text = texts[shape.name if shape else "undecided"]
    if (shape is None or shape.name == "inverse") and best["model"] not in (first["model"], last["model"]):
        text += f" The best is {models([told.label(best)])} with {_accuracy(best)}."
    if same_size:
        return f"{text} Some models have the same size, so the shape of the curve over size is not tested."
    return f"{text} {_certainty(shape, len(rows))}".strip()


def _certainty(shape: Shape | None, n_sizes: int) -> str:
    if shape is None:
        return "The number of items is not given, so the shape of the curve cannot be tested."
    change = (
        f"{_points(shape.change)} (95 % interval {_points(shape.change_lo, unit=False)} to {_points(shape.change_hi)})"
    )
    change = f"the change from smallest to largest is {change}"
    seen = f"{_points(abs(shape.smallest_effect))}" if math.isfinite(shape.smallest_effect) else ""
    if shape.name == "undecided":
        missed = f" A trend of less than {seen} from end to end would probably not have been seen." if seen else ""
        return f"{sentence(change)}, but these {n_sizes} sizes do not establish a shape of the curve.{missed}"
    would = f", and a trend of {seen} would probably have been seen" if shape.name == "flat" and seen else ""
    return f"The curve counts as {shape.name}; {change}{would}."


def _points(share: float, *, unit: bool = True) -> str:
    return f"{100 * share:.0f}".replace("-", "−") + (" points" if unit else "")


def _accuracy(row: Any) -> str:
    return percent(row["accuracy"]) + interval(row["accuracy_lo"], row["accuracy_hi"])


def _main_side(told: Story) -> tuple[str, str]:
    sides = set(told.rows("curve").get("side", ()))
    return (
        ("item", "the items") if "conflict" not in sides and "item" in sides else ("conflict", "the conflict prompts")
    )


def _other_sides(told: Story) -> str:
    if not len(told.rows("curve")):
        return ""
    if _main_side(told)[0] == "item":
        return (
            "These items stand alone. To see what a model does with the twist and where, contrasting pairs are needed: "
            "a plain prompt beside each conflict prompt."
        )
    plain, neutral = told.rows("curve", side="plain"), told.rows("curve", side="neutral")
    if not len(plain):
        text = "There is no plain side, so that being overridden cannot be told from not knowing."
    elif len(plain) == 1:
        text = f"On the plain prompts, where the lure is right, it is right on {percent(plain.iloc[0]['accuracy'])}."
    else:
        first, last = plain.iloc[0], plain.iloc[-1]
        text = (
            "On the plain prompts, where the lure is right, accuracy is "
            f"{percent(first['accuracy'])} in the smallest model and {percent(last['accuracy'])} in the largest."
        )
    if len(neutral):
        share = float(neutral.iloc[-1]["accuracy"])
        able = (
            "so it can do what the conflict prompts ask"
            if share >= 0.8
            else "so some of its errors may be a lack of skill and not an override"
        )
        who = models([told.label(neutral.iloc[-1])])
        text += f" On neutral prompts, which hold no lure, {who} is right on {percent(share)}, {able}."
    return text


def _shares(told: Story) -> str:
    rows = told.rows("shares")
    groups: dict[str, list[Any]] = {}
    for _, row in rows.iterrows():
        groups.setdefault(_does(row), []).append(row)
    texts = []
    for does, members in groups.items():
        labels = [told.label(row) for row in members]
        many = len(members) > 1
        if does in _AIMLESS:
            texts.append(f"{models(labels)} {_AIMLESS[does][many]}.")
            continue
        shares = listed([percent(row[does]) for row in members])
        most = "mostly" if all(row[does] > 0.5 for row in members) else "most often"
        verb = _DOES[does][many]
        head, _, tail = verb.partition(" ")
        placed = f"{head} {most} {tail}" if head in ("is", "are") else f"{most} {verb}"
        texts.append(f"{models(labels)} {placed} ({shares} of pairs).")
    return " ".join(sentence(text) for text in texts)


def _does(row: Any) -> str:
    shares = {name: float(row[name]) for name in SHARES}
    if all(0.15 <= share <= 0.35 for share in shares.values()):
        return "guesses"
    same = shares["overridden"], shares["contrary"]
    if min(same) >= 0.25 and sum(same) >= 0.65:
        return "heedless"
    return max(shares, key=lambda name: shares[name])


def _onset(told: Story) -> str:
    rows = told.rows("onset", side="conflict")
    if not len(rows):
        return ""
    found = rows[rows["onset"].notna() & (rows["n_onset"] > 0)]
    if not len(found):
        return (
            "At no size does the lens show the answer ahead at first and the lure ahead from some depth to the end, "
            "so no depth can be named at which the override sets in."
        )
    last = found.iloc[-1]
    bounds = (
        f" (95 % interval {last['onset_lo']:.2f} to {last['onset_hi']:.2f})"
        if math.isfinite(last["onset_lo"]) and math.isfinite(last["onset_hi"])
        else ""
    )
    text = (
        f"In {models([told.label(last)])} the lens has the answer ahead at first and the lure ahead for good from a "
        f"relative "
        f"depth of {last['onset']:.2f}{bounds}, in {last['n_onset']} of {last['n']} pairs."
    )
    if len(found) > 1:
        first = found.iloc[0]
        text += (
            f" The share of pairs with such a turn is {percent(first['n_onset'] / first['n'])} in "
            f"{models([told.label(first)])} and {percent(last['n_onset'] / last['n'])} in {models([told.label(last)])}."
        )
    none = rows[~rows["model"].isin(found["model"])]
    if len(none):
        who = models([told.label(row) for _, row in none.iterrows()])
        text += f" {sentence(who)} show{'s' if len(none) == 1 else ''} none."
    return text


def _strongest(rows: pd.DataFrame) -> str:
    return f", most of all {named(rows)}" if len(rows) > 3 else f": {named(rows)}"


def _sites(told: Story) -> str:
    rows = told.rows("sites")
    if not len(rows):
        return ""
    significant = rows[rows["significant"]]
    if not len(significant):
        return (
            f"No head and no MLP has a significant effect on the margin at any size ({len(rows)} sites tested, "
            "false discovery rate 5 %). Where the override is carried could not be shown."
        )
    largest = rows[rows["model"] == rows.iloc[-1]["model"]]
    who = models([told.label(largest.iloc[0])])
    found = largest[largest["significant"]].sort_values("effect")
    lure, answer = found[found["effect"] < 0], found[found["effect"] > 0].iloc[::-1]
    if len(found):
        text = (
            f"In {who}, {len(found)} of {counted(len(largest), 'site')} (heads and MLPs) "
            f"{'has' if len(found) == 1 else 'have'} a significant effect on the margin, at a false discovery rate "
            f"of 5 % "
            "over all sites and sizes."
        )
        said = [
            f"{counted(len(some), 'pushes', 'push')} towards the {side}{_strongest(some)}"
            for side, some in (("lure", lure), ("answer", answer))
            if len(some)
        ]
        text += f" Of these, {'; '.join(said)}."
        text += "" if len(lure) else " None pushes towards the lure, so these sites do not explain an override."
    else:
        text = f"In {who} no site has a significant effect on the margin, though some have in smaller models."
    bare = [m for m in told.labels if m in set(rows["model"]) and m not in set(significant["model"])]
    if bare and len(found):
        text += f" No site is significant in {models([told.labels[m] for m in bare])}."
    return text


def _verification(told: Story) -> str:
    if told.verified is None:
        return (
            "Whether replacing these places gives the prompt back was not tested."
            if len(told.rows("sites")) or len(told.rows("shares"))
            else ""
        )
    located = told.verified[0]
    tested = located[located["most_sites"] > 0]
    if not len(tested):
        return (
            "At no size did sites meet the conditions for being replaced (a significant push towards the lure, at a "
            "small cost in plain accuracy), so nothing was replaced and no proof of the place exists."
        )
    last = tested.iloc[-1]
    text = _replaced(told, last)
    helped = tested[[_helps(row) for _, row in tested.iterrows()]]
    others = helped[helped["model"] != last["model"]]
    if len(others):
        who = models([told.label(row) for _, row in others.iterrows()])
        text += f" Replacing the located sites also helps beyond chance in {who}."
    failed = tested[~tested["model"].isin(helped["model"]) & (tested["model"] != last["model"])]
    if len(failed):
        text += f" It was not shown to help in {models([told.label(row) for _, row in failed.iterrows()])}."
    none = located[located["most_sites"] == 0]
    if len(none):
        text += f" No site could be chosen in {models([told.label(row) for _, row in none.iterrows()])}."
    return text


def _helps(row: Any) -> bool:
    return bool(row["accuracy_after"] > row["accuracy_before"] and row["p_random"] <= LEVEL)


def _replaced(told: Story, row: Any) -> str:
    few, many = int(row["n_sites"]), int(row["most_sites"])
    what = "the one located site" if many == 1 else f"the {many} located sites"
    if few != many:
        what = f"the located sites ({few} chosen on one half, {many} on the other)"
    before, after, p = float(row["accuracy_before"]), float(row["accuracy_after"]), float(row["p_random"])
    pairs = "pairs that were not used to choose them" if row["held_out"] else "all pairs"
    head = f"On {pairs}, replacing {what} of {models([told.label(row)])}"
    if after <= before:
        text = f"{head} does not raise conflict accuracy: it is {percent(before)} before and {percent(after)} after."
        return f"{text} That these sites carry the override could not be shown."
    gap = float(row["gap_closed"])
    share = f", which closes {percent(gap)} of the gap to the best size" if math.isfinite(gap) else ""
    text = f"{head} raises conflict accuracy from {percent(before)} to {percent(after)}{share}."
    draws = counted(int(row["n_random"]), "random set")
    if few == 0:
        text += " As no site could be chosen on one of the halves, this may be no more than chance."
    elif not math.isfinite(p):
        text += " It was not compared with random sets, so this may be no more than chance."
    elif p > LEVEL:
        text += (
            f" But random sets of the same kinds and layers do as well too often ({probability(p)}, {draws}), "
            "so that these sites carry the override could not be shown."
        )
    else:
        text += f" Random sets of the same kinds and layers do not do as well ({probability(p)}, {draws})."
    if math.isfinite(float(row["plain_before"])) and math.isfinite(float(row["plain_after"])):
        text += f" Plain accuracy is {percent(row['plain_before'])} before and {percent(row['plain_after'])} after"
        start, end = float(row["neutral_loss_before"]), float(row["neutral_loss_after"])
        text += (
            f"; the loss on neutral text is {start:.2f} and {end:.2f} nats per token."
            if math.isfinite(start + end)
            else "."
        )
    else:
        text += " What it costs on the plain side was not measured."
    return text
