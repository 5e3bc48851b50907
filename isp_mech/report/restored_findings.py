"""Which change restores prompt-following, at what cost, and what did not: the report's first two paragraphs."""

from __future__ import annotations

import pandas as pd

from isp_mech.figures.restored_rows import GUESSING, NOTHING, SWAP, Needs, best_change
from isp_mech.figures.style import probability
from isp_mech.report.change_words import change_words
from isp_mech.report.task_rows import TaskRows
from isp_mech.report.wording import counted, interval, listed, percent, say, sentence


def restored_findings(of: TaskRows) -> list[str]:
    """Sentences on the best change at the largest size at which a kind counts as restoring, and on the kinds that do
    not count there; none where nothing was searched."""
    rows = _changes(of)
    if not len(rows):
        return []
    working = _working(rows)
    if not working:
        kinds = listed(sorted(set(rows["kind"])))
        return [say("restored nowhere", kinds=kinds), *_guesses(of, rows)]
    here = rows[rows["model"] == working[-1]]
    return [*_best(of, _best_row(here)), say("restored saved"), *_failed(here)]


def restored_elsewhere(of: TaskRows) -> list[str]:
    """Sentences on the other sort of change at that size, on the other sizes, and on directions that were swapped."""
    rows = _changes(of)
    swaps = [] if of.restored is None else _swaps(of, of.restored[of.restored["kind"] == SWAP])
    working = _working(rows) if len(rows) else []
    if not working:
        return swaps
    here = rows[rows["model"] == working[-1]]
    second = _second(here, _best_row(here))
    return [*second, *_elsewhere(of, rows, working[-1]), *_nowhere(of, rows, working), *swaps]


def _changes(of: TaskRows) -> pd.DataFrame:
    """The rows of what can be done to a prompt alone."""
    return pd.DataFrame() if of.restored is None else of.restored[of.restored["kind"] != SWAP]


def _working(rows: pd.DataFrame) -> list[str]:
    """The models in which a kind restores, by size."""
    return list(dict.fromkeys(rows[rows["restoring"]]["model"]))


def _best_row(here: pd.DataFrame) -> pd.Series:
    best = best_change(here)
    assert best is not None
    return best


def _best(of: TaskRows, best: pd.Series) -> list[str]:
    spread = interval(best["restored_lo"], best["restored_hi"])
    values = {
        "change": change_words(best["intervention"]),
        "who": of.who([best["model"]]),
        "n": int(best["n"]),
        "before": percent(best["conflict_before"]),
        "after": percent(best["conflict_after"]),
        "restored": percent(best["restored"]) + spread,
        "overridden": counted(int(best["n_overridden"]), "overridden pair"),
        "random": percent(best["restored_random"]),
        "p": probability(best["p"]),
        "draws": counted(int(best["n_random"]), "draw"),
    }
    lines = [say("restored best", **values), _needs(best), _cost(best)]
    if best["guessing"]:
        lines.insert(1, say("restored guessing"))
    same = sorted(best["other"].split(" + ")) == sorted(best["intervention"].split(" + "))
    return lines if same else [*lines, say("restored other half", change=change_words(best["other"]))]


def _needs(row: pd.Series) -> str:
    if row["needs"] == NOTHING:
        return say("restored needs nothing")
    return say("restored needs roles", roles=row["needs"].replace("; ", " and "))


def _cost(row: pd.Series) -> str:
    plain = say("restored plain", before=percent(row["plain_before"]), after=percent(row["plain_after"]))
    if row["needs"] != NOTHING:
        return say("restored cost unseen") if row["plain_tokens"] == 0 else say("restored cost by roles", plain=plain)
    before, after = row["neutral_before"], row["neutral_after"]
    return say("restored cost", plain=plain, before=before, after=after, kl=row["neutral_kl"])


def _second(here: pd.DataFrame, best: pd.Series) -> list[str]:
    """The best change of the other sort: of those that need nothing of a prompt, or the spans of roles."""
    sort: Needs = "roles" if best["needs"] == NOTHING else "nothing"
    second = best_change(here, sort)
    if second is None:
        return [say(f"restored none {sort}")]
    values = {name: percent(second[f"conflict_{name}"]) for name in ("before", "after")}
    told = {"change": change_words(second["intervention"]), "p": probability(second["p"])}
    lines = [say(f"restored second {sort}", **values, **told), _cost(second)]
    return [*lines, say("restored guessing")] if second["guessing"] else lines


def _swaps(of: TaskRows, rows: pd.DataFrame) -> list[str]:
    """Directions that hold what overrides the prompt; none where none was trained."""
    if not len(rows):
        return []
    lines = []
    for _, row in rows[rows["restoring"]].iterrows():
        values = {name: percent(row[f"conflict_{name}"]) for name in ("before", "after")}
        change, who = change_words(row["intervention"]), of.who([row["model"]])
        lines.append(say("restored swapped", change=change, who=who, p=probability(row["p"]), **values))
    return lines or [say("restored swapped nowhere", sizes="any size" if len(rows) > 1 else "this size")]


def _failed(here: pd.DataFrame) -> list[str]:
    failed = sorted(set(here[~here["restoring"]]["kind"]))
    return [say("restored failed", kinds=listed(failed))] if failed else []


def _elsewhere(of: TaskRows, rows: pd.DataFrame, but: str) -> list[str]:
    lines = []
    for model in dict.fromkeys(rows["model"]):
        best = best_change(rows[rows["model"] == model])
        if best is not None and model != but:
            guessing = say("restored as guessing") if best["guessing"] else ""
            values = {name: percent(best[f"conflict_{name}"]) for name in ("before", "after")}
            who, change = of.who([model]), change_words(best["intervention"])
            lines.append(say("restored elsewhere", who=who, change=change, guessing=guessing, **values))
    return [sentence("; ".join(lines)) + "."] if lines else []


def _nowhere(of: TaskRows, rows: pd.DataFrame, working: list[str]) -> list[str]:
    rest = rows[~rows["model"].isin(working)]
    none = rest.groupby("model")["n_overridden"].max() == 0
    groups = {"restored not needed": list(none[none].index), "restored not": list(none[~none].index)}
    return [say(name, who=of.who(models)) for name, models in groups.items() if models]


def _guesses(of: TaskRows, rows: pd.DataFrame) -> list[str]:
    """Changes that took a model from the lure to guessing, without counting as restoring."""
    raised = rows[rows["guessing"] & (rows["gain"] > 0) & (rows["conflict_before_hi"] < GUESSING)]
    return [say("restored only guessing", who=of.who(raised["model"]))] if len(raised) else []
