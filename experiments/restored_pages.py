"""What restores prompt-following, on the documentation's pages: from the tables of interventions_compared.py.

    python experiments/restored_pages.py [--tables runs/interventions] [--docs docs]

Writes the figures docs/images/restored-ladder.svg, TASK-restored.svg and TASK-cost.svg, and what stands between the two
comments of docs/restored.md (every kind, beside published figures), of docs/why/TASK.md and of docs/why/memo-trap.md.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from pages import numbers, put

import isp_mech as im
from isp_mech.figures.restored_rows import GUESSING, Needs, best_change, restored_rows
from isp_mech.report.change_words import change_words
from isp_mech.report.wording import listed
from isp_mech.scaling.restoring import LEAST_GAIN, MOST_ALIKE, NEUTRAL_COST, PLAIN_COST, join_restoration
from isp_mech.sites import SEARCHED
from isp_mech.tables import Table, concat

NOTHING = "scale(m0; alpha=1.0; at=decision)"
LARGEST = "ladder-4m"
LADDER = ("quote-repetition", "redefine-math", "neqa", "hindsight-neglect")
MARKS = numbers("restored_pages.py")
SORTS: dict[Needs, str] = {"roles": "by roles", "nothing": "that needs nothing of a prompt"}
PUBLISHED = (  # kind, source, figure, setting, what differs
    ("scale", "[Yu et al. 2023](https://arxiv.org/abs/2310.15910)", "to 88 %",
     "capitals, a false one in the context (Pythia, GPT-2)",
     "the share of generated answers that are the context's, on new data; one head alone"),
    ("scale", "[PH3, Jin et al. 2024](https://arxiv.org/abs/2402.18154)", "+38.5 points",
     "facts against the context, eight models; heads of memory pruned (alpha 0)",
     "a mean over models; heads found by path patching (its +44 points are for memory against the context)"),
    ("reweight", "[PASTA, Zhang et al. 2023](https://arxiv.org/abs/2311.02262)", "+22 points",
     "instructions and facts that a user marks, LLaMA-7B",
     "a mean over four tasks, against prompting alone; in heads that were chosen over several tasks"),
    ("replay", "[JuICE, Li et al. 2025](https://arxiv.org/abs/2503.10996)", "26 to 75 %",
     "proverbs with another ending, Gemma 2B", "heads' outputs of a first run, scaled, added in a second"),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, default=Path("runs/interventions"))
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    args = parser.parse_args()
    joined = {task: join_restoration([im.read_table(p) for p in sorted(args.tables.glob(f"{task}-*.parquet"))])
              for task in (*LADDER, "memo-trap") if any(args.tables.glob(f"{task}-*.parquet"))}  # fmt: skip
    ladder = {task: joined[task] for task in LADDER if task in joined}
    text = [line for task, made in ladder.items() for line in ["", f"### {task}", "", *every_kind(made)]]
    im.figures.restored_over_size(concat(list(ladder.values()))).savefig(args.docs / "images" / "restored-ladder.svg")
    put(args.docs / "restored.md", MARKS, [*text, "", "### Beside published figures", "", *published(ladder)])
    for task, made in joined.items():
        if task in LADDER:
            images = args.docs / "images"
            im.figures.restored_over_size(made).savefig(images / f"{task}-restored.svg")
            im.figures.restored_vs_cost(made).savefig(images / f"{task}-cost.svg")
        controls = sorted(args.tables.glob(f"control-{task}-*.parquet"))
        text = of_task(made) if task in LADDER else ["", *of_models(made)]
        text += [line for path in sorted(args.tables.glob(f"grid-{task}-*.parquet")) for line in of_grid(path)]
        put(args.docs / "why" / f"{task}.md", MARKS, [*text, *(control(made, controls) if controls else [])])


def every_kind(made: Table) -> list[str]:
    """A line a kind, a column a size: conflict and plain prompts right with the change found, in %."""
    rows = restored_rows(made)
    models = rows["model"].drop_duplicates().tolist()
    lines = [header(models), cells("as it is", [before(rows[rows["model"] == model]) for model in models])]
    for kind in SEARCHED:
        by_model = rows[rows["kind"] == kind].set_index("model")
        if len(by_model):
            lines.append(cells(kind, [outcome(by_model.loc[m], halves(made, m, kind)) for m in models]))
    return lines


def outcome(row: pd.Series, judged: pd.DataFrame) -> str:
    if row["intervention"] == "none":
        return "none found"
    shown = f"{100 * row['conflict_after']:.0f} / {100 * row['plain_after']:.0f}"
    return f"**{shown}**" if row["restoring"] else f"{shown} ({', '.join(why_not(judged))})"


def why_not(judged: pd.DataFrame) -> list[str]:
    """What keeps a change from counting as restoring, on either half."""
    cost = judged["plain_after"] < judged["plain_before"] - PLAIN_COST - 1e-9
    damage = judged["neutral_after"] > judged["neutral_before"] + NEUTRAL_COST
    small = (judged["gain"] < LEAST_GAIN - 1e-9) | (judged["gain_lo"] <= 0)
    chance = (judged["q"] > 0.05) | (judged["restored"].fillna(0) <= judged["restored_random"].fillna(0))
    constant = judged["same_answer"].astype(float) > MOST_ALIKE
    forgotten = judged["neutral_kl"] > judged["neutral_information"].astype(float).clip(lower=NEUTRAL_COST)
    missing = {"g": small, "r": chance, "p": cost, "n": damage, "a": constant, "f": forgotten}
    return [letter for letter, is_so in missing.items() if is_so.any()]


def halves(made: Table, model: str, kind: str) -> pd.DataFrame:
    return made.frame[(made.frame["model"] == model) & (made.frame["kind"] == kind)]


def of_task(made: Table) -> list[str]:
    """The best change of each sort at each size, what it does, and the kinds that do not count."""
    rows = restored_rows(made)
    models = rows["model"].drop_duplicates().tolist()
    by_model = {model: rows[rows["model"] == model] for model in models}
    lines = ["", header(models), cells("conflict / plain right as it is, %", [before(by_model[m]) for m in models])]
    chosen = []
    for sort, told in SORTS.items():
        best = {m: best_change(by_model[m], sort) for m in models}
        chosen += [(m, told, row) for m, row in best.items() if row is not None]
        if any(row is not None for row in best.values()):
            lines += [
                cells(
                    f"conflict right with the best change {told}, %",
                    [spread(best[m], "conflict_after") for m in models],
                ),
                *outcomes(best, models),
            ]
            if sort == "nothing":
                lines.append(cells("its cost on neutral text, nats a token", [neutral(best[m]) for m in models]))
    if not chosen:
        best = {m: by_model[m].sort_values("conflict_after").iloc[-1] for m in models}
        lines += [
            cells(
                "conflict right with the kind that makes most right, %",
                [spread(best[m], "conflict_after") for m in models],
            ),
            cells("the kind", [best[m]["kind"] if best[m]["intervention"] != "none" else "none found" for m in models]),
            *outcomes(best, models),
        ]
    failed = [by_model[m].query("not restoring")["kind"].tolist() for m in models]
    lines += [
        cells(
            "kinds that do not count",
            [", ".join(f) if len(f) < len(by_model[m]) else "all" for m, f in zip(models, failed, strict=True)],
        ),
        "",
    ]
    for model, told, row in chosen:
        other = "" if same(row) else f"; the other half chose {change_words(row['other'])}"
        lines.append(f"- {model.removeprefix('ladder-')}, {told}: {change_words(row['intervention'])}{other}")
    return [*lines, ""] if chosen else lines


def outcomes(best: dict[str, pd.Series | None], models: list[str]) -> list[str]:
    return [
        cells("overridden pairs restored by it, %", [spread(best[m], "restored") for m in models]),
        cells("the same by random changes, %", [share(best[m], "restored_random") for m in models]),
        cells("plain right with it, %", [spread(best[m], "plain_after") for m in models]),
        cells("largest p of both halves", ["" if (row := best[m]) is None else f"{row['p']:.3f}" for m in models]),
    ]


def of_models(made: Table) -> list[str]:
    """Trained models: a line for each half and kind."""
    head = (
        "model, pairs | chosen on the other half | conflict right, % | plain right, % | restored / by random changes, %"
    )
    lines = [f"| {head} | p | counts |", "|---" * 7 + "|"]
    for (_, model, _), some in made.frame.groupby(["n_params", "model", "kind"], sort=True):
        for _, row in some.iterrows():
            conflict = f"{100 * row['conflict_before']:.0f} to {spread(row, 'conflict_after')}"
            plain = f"{100 * row['plain_before']:.0f} to {100 * row['plain_after']:.0f}"
            restored = f"{share(row, 'restored')} / {share(row, 'restored_random')}"
            values = [change_words(row["intervention"]), conflict, plain, restored, f"{row['p']:.3f}"]
            lines.append(cells(f"{model}, {row['n']}", [*values, "yes" if row["restoring"] else "no"]))
    return [*lines, ""]


def control(made: Table, paths: Sequence[Path]) -> list[str]:
    """Conflict prompts and those in which copying is wrong (restored_controls.py), right as it is and with each kind's
    change, on all pairs."""
    rows, run = restored_rows(made), concat([im.read_table(path) for path in paths]).frame
    models = [m for m in rows["model"].drop_duplicates() if m in set(run["model"])]
    right = run.pivot_table(index=["model", "place"], columns="side", values="accuracy")
    lines = [header(models)]
    for kind in ("as it is", *SEARCHED):
        by_model = rows[rows["kind"] == kind].set_index("model")
        texts = [NOTHING if kind == "as it is" else by_model["intervention"].get(m, "none") for m in models]
        found = [
            right.loc[(m, text)] if (m, text) in right.index else None for m, text in zip(models, texts, strict=True)
        ]
        if any(one is not None for one in found):
            shown = ["" if one is None else f"{100 * one['conflict']:.0f} / {100 * one['plain']:.0f}" for one in found]
            lines.append(cells(kind, shown))
    return [
        "Conflict prompts right / those in which copying is wrong, with the same changes, all pairs, %:",
        "",
        *lines,
        "",
    ]


def of_grid(path: Path) -> list[str]:
    """Both sides under every single change of the search's grid (restored_controls.py --grid), on all pairs."""
    frame = im.read_table(path).frame
    right = frame.pivot(index="place", columns="side", values="accuracy")
    both = 100 * (right["conflict"] + right["plain"])
    allowed = right[right["plain"] >= right["plain"].max() - PLAIN_COST - 1e-9]["conflict"]
    ends = frame.pivot(index="place", columns="side", values=["accuracy_lo", "accuracy_hi"])
    guessing = (ends["accuracy_lo"] <= GUESSING).all(axis=1) & (ends["accuracy_hi"] >= GUESSING).all(axis=1)
    nearest = (right - GUESSING).abs().max(axis=1).idxmin()
    at = f"with {100 * right['conflict'][nearest]:.0f} / {100 * right['plain'][nearest]:.0f}"
    which = [change_words(name) for name in guessing[guessing].index]
    told = f": {listed(which)}" if which else f"; nearest comes {change_words(nearest)}, {at}"
    model, n = frame["model"].iloc[0], frame["n"].iloc[0]
    return [
        f"All {len(right)} single changes of the search at {model}, on all {n} pairs: conflict and plain accuracy add "
        f"up to {both.min():.0f} to {both.max():.0f} %. With at most 5 points of plain accuracy lost, at most "
        f"{100 * allowed.max():.1f} % of the conflict prompts are right. {guessing.sum()} changes bring both sides to "
        f"guessing (95 % intervals){told}.",
        "",
    ]


def published(ladder: dict[str, Table]) -> list[str]:
    """Published figures, and what the same kind does at the ladder's largest size on held-out pairs."""
    lines = ["| kind | source | figure | there | what differs | here, at 4 M |", "|---" * 6 + "|"]
    for kind, source, figure, setting, differs in PUBLISHED:
        here = []
        for task, made in ladder.items():
            rows = restored_rows(made)
            for _, row in rows[(rows["model"] == LARGEST) & (rows["kind"] == kind)].iterrows():
                called = "" if row["restoring"] else ", not restoring"
                here.append(f"{task} {100 * row['conflict_before']:.0f} to {100 * row['conflict_after']:.0f} %{called}")
        lines.append(f"| `{kind}` | {source} | {figure} | {setting} | {differs} | {'; '.join(here)} |")
    return [*lines, ""]


def header(models: list[str]) -> str:
    return "| | " + " | ".join(m.removeprefix("ladder-") for m in models) + " |\n" + "|---" * (len(models) + 1) + "|"


def cells(name: str, values: list[str]) -> str:
    return f"| {name} | " + " | ".join(values) + " |"


def before(rows: pd.DataFrame) -> str:
    return f"{100 * rows['conflict_before'].iloc[0]:.0f} / {100 * rows['plain_before'].iloc[0]:.0f}"


def spread(row: pd.Series | None, name: str) -> str:
    if row is None:
        return ""
    return f"{100 * row[name]:.0f} ({100 * row[f'{name}_lo']:.0f} to {100 * row[f'{name}_hi']:.0f})"


def share(row: pd.Series | None, name: str) -> str:
    return "" if row is None or pd.isna(row[name]) else f"{100 * row[name]:.0f}"


def neutral(row: pd.Series | None) -> str:
    return "" if row is None else f"{row['neutral_after'] - row['neutral_before']:+.2f}".replace("-", "−")


def same(row: pd.Series) -> bool:
    """Whether both halves chose the same, vectors apart, which each half has its own of."""
    one, other = (sorted(re.sub(r"#\w+", "", row[name]).split(" + ")) for name in ("intervention", "other"))
    return one == other


if __name__ == "__main__":
    main()
