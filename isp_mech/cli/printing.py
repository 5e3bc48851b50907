"""What the command line prints of tables: a few columns each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from isp_mech.errors import visible
from isp_mech.sites import Site

if TYPE_CHECKING:
    from isp_mech.cli.doctor import Health
    from isp_mech.models import ModelCheck
    from isp_mech.tables import Table


def count(n_params: int | None) -> str:
    """A number of parameters in three digits.

    >>> count(18_915_328), count(850), count(None)
    ('18.9M', '850', '?')
    """
    if n_params is None:
        return "?"
    for unit, factor in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if n_params >= factor:
            return f"{n_params / factor:.3g}{unit}"
    return str(n_params)


def columns(rows: Sequence[Sequence[str]]) -> None:
    """Rows of texts, one below the other, with nothing in them that acts on a terminal."""
    rows = [[visible(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    for row in rows:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]))


def _interval(row: Mapping[Any, Any], name: str, form: str) -> str:
    return f"{row[f'{name}_lo']:{form}} to {row[f'{name}_hi']:{form}}"


def curve(tables: Mapping[str, Table]) -> None:
    """Accuracy by side and size; of other metrics their own mean."""
    if "value_curve" in tables:
        rows = [("model", "parameters", "metric", "mean", "95 % interval", "n")]
        for row in tables["value_curve"].frame.sort_values("n_params").to_dict("records"):
            mean = f"{row['value']:.4g}", _interval(row, "value", ".3g"), str(row["n"])
            rows.append((row["model"], count(row["n_params"]), row["metric"], *mean))
        columns(rows)
        if not len(tables["curve"]):
            return
    rows = [("model", "parameters", "side", "accuracy", "95 % interval", "n")]
    for row in tables["curve"].frame.sort_values(["side", "n_params"]).to_dict("records"):
        accuracy = f"{row['accuracy']:.3f}", _interval(row, "accuracy", ".3f"), str(row["n"])
        rows.append((row["model"], count(row["n_params"]), row["side"], *accuracy))
    columns(rows)


def onset(tables: Mapping[str, Table]) -> None:
    """Where in depth the override sets in, by side and size."""
    rows = [("model", "parameters", "side", "override sets in at depth", "pairs with an onset")]
    for row in tables["onset"].frame.sort_values(["side", "n_params"]).to_dict("records"):
        depth = f"{row['onset']:.2f} ({_interval(row, 'onset', '.2f')})" if row["n_onset"] else "nowhere"
        rows.append((row["model"], count(row["n_params"]), row["side"], depth, f"{row['n_onset']} of {row['n']}"))
    columns(rows)


def sites(tables: Mapping[str, Table], most: int = 5) -> None:
    """The sites of each model that push most towards the lure, and what their Run notes."""
    rows = [("model", "site", "effect (nats)", "95 % interval", "q")]
    frame = tables["sites"].frame
    for model in dict.fromkeys(frame.sort_values("n_params")["model"]):
        strongest = frame[(frame["model"] == model) & (frame["effect"] < 0)].nsmallest(most, "effect")
        for row in strongest.to_dict("records"):
            site = str(Site(row["layer"], row["kind"], row["head"] if row["kind"] == "head" else None))
            effect, interval = f"{row['effect']:+.3f}", _interval(row, "effect", "+.3f")
            rows.append((model, site, effect, interval, f"{row['q']:.2g}"))
    columns(rows)
    print(f"(the {most} sites of each model that push most towards the lure)")
    for note in tables["sites"].run.notes:
        print(note)


def head_roles(tables: Mapping[str, Table], most: int = 8) -> None:
    """The heads and roles of each model whose blocking changes most, and how alike two halves of the pairs rank all."""
    rows = [("model", "head", "role", "effect (nats)", "95 % interval", "q")]
    frame = tables["head_roles"].frame
    for model in dict.fromkeys(frame.sort_values("n_params")["model"]):
        here = frame[frame["model"] == model]
        for row in here.loc[here["effect"].abs().nlargest(most).index].to_dict("records"):
            effect, interval = f"{row['effect']:+.3f}", _interval(row, "effect", "+.3f")
            rows.append((model, f"a{row['layer']}.h{row['head']}", row["role"], effect, interval, f"{row['q']:.2g}"))
    columns(rows)
    print(f"(the {most} strongest of each model; below zero what the head takes from there pushes towards the lure)")
    for row in tables["role_stability"].frame.query("role == 'all roles'").to_dict("records"):
        told = f"{row['spearman_matter']:.2f} over the {row['n_matter']} that matter, {row['spearman']:.2f} over all"
        print(f"{row['model']}: rank correlation of two halves of the pairs {told} {row['n_places']}")
    for note in tables["head_roles"].run.notes:
        print(note)


def verification(tables: Mapping[str, Table]) -> None:
    """Accuracy before and after replacing, by model and half."""
    rows = [("model", "sites", "half", "accuracy before", "after", "p against random sets")]
    for row in tables["verification"].frame.sort_values("n_params", kind="stable").to_dict("records"):
        p = "" if row["p_random"] != row["p_random"] else f"{row['p_random']:.3g}"
        before, after = f"{row['accuracy_before']:.3f}", f"{row['accuracy_after']:.3f}"
        rows.append((row["model"], row["sites"][:40], row["split"], before, after, p))
    columns(rows)


def restoration(tables: Mapping[str, Table]) -> None:
    """What each kind of change restores on held-out pairs, and at what cost, by model and half."""
    rows = [("model", "kind", "half", "conflict before", "after", "plain before", "after", "p", "restoring", "change")]
    for row in tables["restoration"].frame.sort_values("n_params", kind="stable").to_dict("records"):
        shares = [f"{row[f'{side}_{when}']:.3f}" for side in ("conflict", "plain") for when in ("before", "after")]
        said = "yes" if row["restoring"] else "no"
        change = row["intervention"] if len(row["intervention"]) <= 80 else f"{row['intervention'][:79]}…"
        rows.append((row["model"], row["kind"], row["split"], *shares, f"{row['p']:.3g}", said, change))
    columns(rows)


def check(found: ModelCheck) -> None:
    """What a model is, and what can be done with it."""
    columns([(name, "" if fact is None else str(fact)) for name, fact in found.facts.items()])
    print()
    rows = [("can it", "", "largest gap to plain transformers", "")]
    for each in found.abilities:
        unit = "of the stream" if each.name == "trace" else "nats"
        gap = "not compared" if each.gap is None else f"{each.gap:.1e} {unit}"
        rows.append((each.name, "yes" if each.can else "no", gap if each.can or each.gap else "", each.note))
    columns(rows)


def health(found: Health) -> None:
    """What is installed, what the machine is, and what the fast paths are worth."""
    needed = [(each.name, each.version or "none", each.expected) for each in found.packages]
    columns([("package", "installed", "expected"), *needed])
    blocks: list[Sequence[Sequence[str]]] = [
        [(f"extra {name}", f"lacks {', '.join(lacks)}" if lacks else "there") for name, lacks in found.extras.items()],
        [(name, _bytes(fact) if "memory" in name else str(fact)) for name, fact in found.machine.items()],
        [(each.name, "on" if each.on else f"off: {each.why}") for each in found.fast_paths],
        [(f"cache {each.name}", _bytes(each.bytes), each.folder) for each in found.caches],
    ]
    if found.measured:
        times = [
            (each.verb, f"{each.fast:.3f} s", f"{each.plain:.3f} s", f"{each.ratio:.1f}", f"{each.gap:.1e}")
            for each in found.measured
        ]
        blocks.append([("on the ladder", "fast paths", "plain way", "times as fast", "largest gap"), *times])
    for block in blocks:
        if block:
            print()
            columns(block)
    for problem in found.problems:
        print(f"\nproblem: {visible(problem)}")


def _bytes(n: str | int) -> str:
    return f"{int(n) / 1e6:,.0f} MB"


OF_VERBS = {
    "explain": curve,
    "score": curve,
    "trace": onset,
    "locate": sites,
    "block": head_roles,
    "verify": verification,
    "restore": restoration,
}
PRINTED = {
    "explain": ("curve", "value_curve"),
    "score": ("curve", "value_curve"),
    "trace": ("onset",),
    "locate": ("sites",),
    "block": ("head_roles", "role_stability"),
    "verify": ("verification",),
    "restore": ("restoration",),
}  # the tables that each of them reads
