"""Figures read back from their artists, held against the tables they were drawn from."""

from __future__ import annotations

import gc
import re
from functools import cache
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection, PolyCollection, QuadMesh
from matplotlib.colors import SymLogNorm
from matplotlib.text import Text

from isp_mech import figures
from isp_mech.errors import InputError
from isp_mech.figures.override_map import effect_scale
from isp_mech.figures.paper_figure import new_figure
from isp_mech.figures.published_curves import observations_panel
from isp_mech.figures.restored_rows import best_change, restored_rows
from isp_mech.figures.shares_over_size import _spread
from isp_mech.figures.style import plain, size_label
from isp_mech.figures.verification import judged_rows
from isp_mech.scaling.item_flips import flips
from isp_mech.tables import concat, make_run, read_table, table

SIZES = [
    ("ladder-25k", 27_000, 2, 2),
    ("ladder-100k", 100_000, 2, 4),
    ("ladder-335k", 335_000, 3, 6),
    ("ladder-800k", 800_000, 4, 8),
    ("ladder-2.2M", 2_200_000, 5, 12),
]
RUN = make_run(model="ladder", task="quote-repetition", method="synthetic", seed=0)
CONFLICT, PLAIN = (0.71, 0.97, 0.88, 0.52, 0.14), (0.61, 0.93, 0.98, 0.99, 1.0)
ROLES = ("shots", "quote_input", "modified_word", "other")


def head(i: int, task: str = "quote-repetition") -> dict:
    return {"model": SIZES[i][0], "n_params": SIZES[i][1], "task": task}


def curve(sizes=range(5), *, task="quote-repetition", sides=("conflict", "plain"), baseline=np.nan, **changed):
    rows = []
    for i in sizes:
        for side in sides:
            share = (CONFLICT if side == "conflict" else PLAIN)[i]
            row = {
                "accuracy": share,
                "accuracy_lo": share - 0.05,
                "accuracy_hi": min(1.0, share + 0.04),
                "loss": 1 - share,
                "loss_lo": 0.9 - share,
                "loss_hi": 1.1 - share,
                "coverage": 0.3,
                "ties": 0,
                "n": 300,
            }
            rows.append(head(i, task) | {"side": side, "baseline": baseline} | row | changed)
    return table("curve", rows, RUN)


def shares():
    rows = []
    for i in range(5):
        c, p = CONFLICT[i], PLAIN[i]
        values = {"follows": c * p, "overridden": p * (1 - c), "contrary": c * (1 - p), "lost": (1 - c) * (1 - p)}
        ends = {f"{k}_{end}": v for k, v in values.items() for end in ("lo", "hi")}
        rows.append(head(i) | values | ends | {"n": 300})
    return table("shares", rows, RUN)


def lens(sizes=range(5), n=40, scale=1.0):
    rng, frames = np.random.default_rng(0), []
    for i in sizes:
        n_layers = SIZES[i][2]
        places = [(-1, "embed", 0.0)]
        places += [(k, s, (k + d) / n_layers) for k in range(n_layers) for s, d in (("attn", 0.5), ("mlp", 1.0))]
        for side, end in (("conflict", 3 - 1.2 * i), ("plain", -1.0 - i)):
            for layer, sublayer, depth in places:
                frames.append(
                    pd.DataFrame(
                        head(i)
                        | {
                            "pair": [f"p{j}" for j in range(n)],
                            "side": side,
                            "layer": layer,
                            "sublayer": sublayer,
                            "depth": depth,
                            "margin": scale * (end * depth + rng.normal(0, 1, n)),
                        }
                    )
                )
    return table("lens", pd.concat(frames).sample(frac=1, random_state=0), RUN)


def onset():
    rows = [
        head(i) | {"side": "conflict", "onset": d, "onset_lo": d - 0.05, "onset_hi": d + 0.05, "n_onset": k, "n": 300}
        for i, (d, k) in enumerate([(np.nan, 0), (0.92, 8), (0.85, 30), (0.78, 140), (0.7, 250)])
    ]
    return table("onset", rows, RUN)


def attention(sizes=range(5), n=20):
    rng, frames = np.random.default_rng(1), []
    for i in sizes:
        for layer in range(SIZES[i][2]):
            for number in range(SIZES[i][3]):
                usual = rng.dirichlet(np.ones(4))
                for side in ("conflict", "plain"):
                    mean = usual * 0.3 + [0, 0, 0.7, 0] if (side, layer, number) == ("conflict", 1, 1) else usual
                    weights = rng.dirichlet(mean * 200 + 0.01, n)
                    where = head(i) | {"side": side, "layer": layer, "head": number}
                    columns = {"pair": np.repeat([f"p{j}" for j in range(n)], len(ROLES)), "role": ROLES * n}
                    frames.append(columns | where | {"weight": weights.ravel()})
    rows = n * len(ROLES)
    spread = {c: np.concatenate([np.broadcast_to(f[c], rows) for f in frames]) for c in frames[0]}
    return table("attention", pd.DataFrame(spread), RUN)


def sites(sizes=range(5), *, significant=True, largest=1.4):
    rng, rows = np.random.default_rng(2), []
    for i in sizes:
        for layer in range(SIZES[i][2]):
            for number in [*range(SIZES[i][3]), None]:
                planted = (layer, number) in ((SIZES[i][2] - 1, 1), (SIZES[i][2] - 1, None))
                effect = -largest * (i + 1) / 5 if planted else float(rng.normal(0, 0.05))
                rows.append(
                    head(i)
                    | {
                        "layer": layer,
                        "kind": "mlp" if number is None else "head",
                        "head": number,
                        "effect": effect,
                        "effect_lo": effect - 0.1,
                        "effect_hi": effect + 0.1,
                        "direct_effect": effect * 0.8,
                        "p": 0.01,
                        "q": 0.02,
                        "significant": planted and significant,
                    }
                )
    return table("sites", rows, RUN)


def head_roles(sizes=range(5), roles=ROLES[:3], *, significant=True):
    """At every size one head of the last layer reads the first role towards the lure, another one the second."""
    rng, rows = np.random.default_rng(5), []
    for i in sizes:
        for layer in range(SIZES[i][2]):
            for number in range(SIZES[i][3]):
                for k, role in enumerate(roles):
                    planted = (layer, number) == (SIZES[i][2] - 1, k)
                    effect = (2 * k - 1) * (i + 1) / 2 if planted else float(rng.normal(0, 0.02))
                    ends = {"effect": effect, "effect_lo": effect - 0.1, "effect_hi": effect + 0.1}
                    more = {"p": 0.01, "q": 0.02, "significant": significant and (planted or layer == 0), "n": 300}
                    place = {"side": "conflict", "layer": layer, "head": number, "role": role}
                    rows.append(head(i) | place | ends | more)
    return table("head_roles", rows, RUN)


def verification(**changed):
    rows = []
    for i in range(5):
        base = head(i) | {
            "split": "held-out",
            "replacement": "mean",
            "n_sites": 2,
            "n_random": 200,
            "accuracy_before": CONFLICT[i],
            "margin_before": -1.0,
            "margin_after": 1.0,
            "plain_before": PLAIN[i],
            "plain_after": PLAIN[i] - 0.03,
            "neutral_loss_before": 2.1,
            "neutral_loss_after": 2.2,
        }
        rows.append(
            base
            | {
                "sites": f"a{SIZES[i][2] - 1}.h1 m{SIZES[i][2] - 1}",
                "accuracy_after": (0.7, 0.97, 0.93, 0.78, 0.71)[i],
                "gap_closed": 0.6,
                "p_random": (0.6, 0.4, 0.03, 0.005, 0.005)[i],
            }
            | changed
        )
        for after in (0.01, 0.03):
            rows.append(
                base
                | {
                    "sites": "random, matched",
                    "accuracy_after": CONFLICT[i] - after,
                    "gap_closed": None,
                    "p_random": None,
                }
                | changed
            )
    return table("verification", rows, RUN)


def restoration(**changed):
    """Two halves of four kinds: at the largest size blocking restores most, and scaling is the best without roles."""
    rows = []
    for i in range(5):
        for k, (kind, restored, needs) in enumerate(
            (
                ("block", 0.9, "spans of quote_output"),
                ("reweight", 0.7, "spans of quote_output"),
                ("scale", 0.5, "nothing"),
                ("steer", 0.1, "nothing"),
            )
        ):
            for split, more in (("half_b", 0.0), ("half_a", 0.04)):
                after = CONFLICT[i] + (1 - CONFLICT[i]) * restored + more * (1 - CONFLICT[i])
                means = {
                    "conflict_before": CONFLICT[i],
                    "conflict_after": after,
                    "gain": after - CONFLICT[i],
                    "plain_before": PLAIN[i],
                    "plain_after": PLAIN[i] - 0.02 * k,
                    "neutral_before": 2.0,
                    "neutral_after": 2.05,
                    "neutral_kl": 0.1,
                    "restored": restored + more,
                    "broken": 0.0,
                }
                ends = {f"{name}_{end}": value for name, value in means.items() for end in ("lo", "hi")}
                rows.append(
                    head(i)
                    | means
                    | ends
                    | {
                        "kind": kind,
                        "split": split,
                        "intervention": f"{kind} {split}",
                        "saved": "",
                        "needs": needs,
                        "n_sites": 1,
                        "n_layers": 1,
                        "n_tokens": 1.0,
                        "n": 150,
                        "n_overridden": 100,
                        "n_random": 200,
                        "restored_random": 0.02,
                        "p": 0.005 + more,
                        "q": 0.01,
                        "restoring": kind != "steer" and i > 1,
                    }
                    | changed
                )
    return table("restoration", rows, RUN)


def observations(tasks=("neqa", "memo-trap"), baseline=None):
    """A family with four checkpoints of three sizes, and one with two sizes and one checkpoint each."""
    rows = []
    for task in tasks:
        for n in (10**7, 10**8, 10**9):
            for step in (1, 4, 16, 64):
                accuracy = 0.9 - 0.08 * step ** (n / 3e9)
                rows.append(("pythia", f"pythia-{n}", n, task, f"step{step}", step * 2e9, accuracy))
        rows += [("gopher", f"gopher-{n}", n, task, "", 3e11, 0.5) for n in (10**8, 10**10)]
    names = ("family", "model", "n_params", "task", "revision", "tokens", "accuracy")
    rest = {"side": "item", "nominal_params": None, "accuracy_se": None, "n": 300, "baseline": baseline}
    made = [dict(zip(names, row, strict=True)) | rest for row in rows]
    for row in made:
        row |= {"accuracy_lo": row["accuracy"] - 0.05, "accuracy_hi": row["accuracy"] + 0.05,
                "flops": 6.0 * row["n_params"] * row["tokens"]}  # fmt: skip
    return table("observations", made, RUN)


@cache
def flipped(task="quote-repetition"):
    """Flips of 60 pairs over the five sizes of CONFLICT, with a lure that is stronger the larger the size."""
    rng, rows = np.random.default_rng(4), []
    luck = rng.random(60)
    for i in range(5):
        for j, one in enumerate(luck):
            right = one < CONFLICT[i]
            base = head(i, task) | {"item": f"p{j}", "predicted_index": 0, "loss": 1.0, "tie": False}
            base |= {"total_logprob": -1.0}
            rows.append(base | {"side": "conflict", "correct": right, "margin": CONFLICT[i] - one})
            rows.append(base | {"side": "plain", "correct": True, "margin": -1.0 - i - rng.random()})
    return flips(table("items", rows, RUN))


def story(tasks=("quote-repetition",)):
    rows = []
    for task in tasks:
        for i in range(len(SIZES)):
            mass, share = 0.5 * i, 0.9 - 0.1 * i if i else np.nan
            row = head(i, task) | {"n_override": 3 * i, "n_follow": 4, "n_sites": 60, "n": 300, "onset": 0.6}
            row |= {"accuracy": CONFLICT[i], "overridden": 1 - CONFLICT[i]}
            row |= {"override_mass": mass, "override_mass_lo": 0.8 * mass, "override_mass_hi": 1.2 * mass}
            row |= {"follow_mass": 1.0, "follow_mass_lo": 0.9, "follow_mass_hi": 1.1}
            for name, value in (("attention_share", share), ("depth", share)):
                row |= {name: value, f"{name}_lo": value - 0.05, f"{name}_hi": value + 0.05}
            rows.append(row)
    return table("story", rows, RUN)


CLASS_SHARES = {"recall": 0.5, "mlp": 0.3, "none": 0.2, "copying": 0.0, "induction": 0.0, "suppression": 0.0}


def head_shares(tasks=("quote-repetition",)):
    rows = []
    for task in tasks:
        for i in range(len(SIZES)):
            for name, share in CLASS_SHARES.items():
                row = head(i, task) | {"class": name, "n_sites": 4, "n_override": 2 * bool(share)}
                rows.append(row | {"override": -i * share, "share": share if i else np.nan})
    return table("head_shares", rows, RUN)


def line(ax, label):
    return next(one for one in ax.get_lines() if one.get_label() == label)


def drawn(figure):
    FigureCanvasAgg(figure).draw()
    return figure


@cache
def every(name):
    """One of ``EVERY``, drawn once for all that is checked on it; it must not be changed."""
    return drawn(EVERY[name]())


EVERY = {
    "scaling_curve": lambda: figures.scaling_curve(curve(baseline=0.5)),
    "scaling_curve, one column": lambda: figures.scaling_curve(curve(coverage=1e-4), width=figures.ONE_COLUMN),
    "scaling_curve, one size": lambda: figures.scaling_curve(curve([2])),
    "shares_over_size": lambda: figures.shares_over_size(shares()),
    "lens_over_depth": lambda: figures.lens_over_depth(lens(), onset=onset()),
    "lens_over_depth, two sizes": lambda: figures.lens_over_depth(lens([2, 4])),
    "attention_by_role": lambda: figures.attention_by_role(attention()),
    "override_map": lambda: figures.override_map(sites()),
    "override_map, one size": lambda: figures.override_map(sites([4])),
    "head_role_map": lambda: figures.head_role_map(head_roles()),
    "head_role_map, one size": lambda: figures.head_role_map(head_roles([4], ROLES[:2])),
    "head_role_map, many roles": lambda: figures.head_role_map(head_roles([3, 4], [f"role_{k}" for k in range(7)])),
    "head_role_map, one column": lambda: figures.head_role_map(head_roles([4]), width=figures.ONE_COLUMN),
    "verification": lambda: figures.verification(verification()),
    "restored_vs_cost": lambda: figures.restored_vs_cost(restoration()),
    "restored_over_size": lambda: figures.restored_over_size(restoration()),
    "direct_vs_total": lambda: figures.direct_vs_total(sites()),
    "onset_over_size": lambda: figures.onset_over_size(onset()),
    "head_shares_over_size": lambda: figures.head_shares_over_size(head_shares()),
    "head_shares_over_size, tasks": lambda: figures.head_shares_over_size(head_shares(("quote-repetition", "neqa"))),
    "story_over_size": lambda: figures.story_over_size(story()),
    "story_over_size, tasks": lambda: figures.story_over_size(story(tasks=("quote-repetition", "neqa"))),
    "published_curves": lambda: figures.published_curves(observations(), over="tokens"),
    "published_curves, families": lambda: figures.published_curves(observations(tasks=("a", "b", "c")), n_columns=2),
    "published_curves, FLOPs": lambda: figures.published_curves(observations(), over="FLOPs", same_scale=False),
    "published_curves, one column": lambda: figures.published_curves(
        observations(tasks=("t",)), over="tokens", width=figures.ONE_COLUMN
    ),
    "flips_over_size": lambda: figures.flips_over_size(flipped()),
    "flips_over_size, tasks": lambda: figures.flips_over_size(concat([flipped().flips, flipped("neqa").flips])),
    "flip_traces": lambda: figures.flip_traces(flipped()),
    "flip_traces, tasks": lambda: figures.flip_traces(
        concat([flipped().flip_traces, flipped("neqa").flip_traces]), most=3
    ),
}


@pytest.mark.parametrize("name", EVERY)
def test_no_text_is_tiny_cut_off_or_over_another(name):
    figure = every(name)
    renderer, page = figure.canvas.get_renderer(), figure.bbox
    ticks = {
        id(t)
        for ax in figure.axes
        for axis in (ax.xaxis, ax.yaxis)
        for tick in axis.get_major_ticks()
        for t in (tick.label1, tick.label2)
        if not _in_view(tick, axis)
    }
    texts = [t for t in figure.findobj(Text) if t.get_text() and t.get_visible() and id(t) not in ticks and _shown(t)]
    assert len(texts) > 5
    boxes = [(t.get_text(), t.get_window_extent(renderer)) for t in texts]
    assert min(t.get_fontsize() for t in texts) >= 7
    for text, box in boxes:
        assert page.x0 - 1 <= box.x0 and box.x1 <= page.x1 + 1 and page.y0 - 1 <= box.y0 and box.y1 <= page.y1 + 1, text
    for (one, a), (other, b) in combinations(boxes, 2):
        wide, tall = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert wide < 1.5 or tall < 1.5, (one, other)


def _in_view(tick, axis):
    low, high = sorted(axis.get_view_interval())
    return low <= tick.get_loc() <= high


def _shown(text):
    ax = text.axes
    return ax is None or (ax.get_visible() and (ax.axison or text in ax.texts))


@pytest.mark.parametrize("name", EVERY)
def test_legends_stand_outside_the_panels(name):
    figure = every(name)
    for legend in figure.legends:
        box = legend.get_window_extent()
        assert not any(box.overlaps(ax.get_window_extent().padded(-1)) for ax in figure.axes)
    assert all(ax.get_legend() is None for ax in figure.axes)


def test_curve_lines_and_bands_are_the_table():
    made = curve()
    accuracy, loss = figures.scaling_curve(made).axes
    for ax, value in ((accuracy, "accuracy"), (loss, "loss")):
        for side in ("conflict", "plain"):
            rows = made.frame[made.frame["side"] == side].sort_values("n_params")
            np.testing.assert_array_equal(line(ax, side).get_xdata(), rows["n_params"])
            np.testing.assert_array_equal(line(ax, side).get_ydata(), rows[value])
        bands = [c for c in ax.collections if isinstance(c, PolyCollection)]
        rows = made.frame[made.frame["side"] == "conflict"].sort_values("n_params")
        corners = {(round(x), round(y, 9)) for x, y in bands[0].get_paths()[0].vertices}
        ends = {
            (n, round(y, 9))
            for end in ("lo", "hi")
            for n, y in zip(rows["n_params"], rows[f"{value}_{end}"], strict=True)
        }
        assert ends <= corners
    assert accuracy.get_xscale() == "log"
    assert (accuracy.get_ylabel(), loss.get_ylabel()) == ("accuracy", "loss (nats)")


def test_rows_in_another_order_draw_the_same_lines():
    made = curve()
    shuffled = table("curve", made.frame.sample(frac=1, random_state=3), RUN)
    for one, other in zip(figures.scaling_curve(made).axes, figures.scaling_curve(shuffled).axes, strict=True):
        np.testing.assert_array_equal(line(one, "plain").get_ydata(), line(other, "plain").get_ydata())


def test_baseline_is_drawn_only_where_the_table_has_one():
    with_one, without = figures.scaling_curve(curve(baseline=0.5)), figures.scaling_curve(curve())
    assert list(line(with_one.axes[0], "guessing").get_ydata()) == [0.5, 0.5]
    assert "guessing" not in [one.get_label() for one in with_one.axes[1].get_lines()]
    assert all(one.get_label() != "guessing" for ax in without.axes for one in ax.get_lines())


def test_people_are_a_reference_on_the_prizes_tasks_alone():
    for task, agreement in (("quote-repetition", 1.0), ("neqa", 0.98), ("memo-trap", None)):
        ax, loss = figures.scaling_curve(curve(task=task)).axes
        people = [list(one.get_ydata()) for one in ax.get_lines() if one.get_label() == "people"]
        assert people == ([] if agreement is None else [[agreement, agreement]])
        assert "people" not in [one.get_label() for one in loss.get_lines()]
    quiet = figures.scaling_curve(curve(task="neqa"), people=False).axes[0]
    plain_only = figures.scaling_curve(curve(task="neqa"), sides=("plain",)).axes[0]
    assert "people" not in [one.get_label() for ax in (quiet, plain_only) for one in ax.get_lines()]


@pytest.mark.parametrize("changed", [{"coverage": 5e-4}, {"ties": 3}])
def test_doubtful_points_are_hollow(changed):
    frame = curve().frame
    at = (frame["model"] == "ladder-100k") & (frame["side"] == "conflict")
    column, value = next(iter(changed.items()))
    frame.loc[at, column] = value
    figure = figures.scaling_curve(table("curve", frame, RUN))
    hollow = {one.get_gid(): list(one.get_xdata()) for one in figure.axes[0].get_lines() if one.get_gid()}
    assert hollow == {"doubtful-conflict": [100_000], "doubtful-plain": []}
    assert "hollow: low coverage or ties" in [t.get_text() for t in figure.legends[0].get_texts()]


def test_published_numbers_without_loss_or_coverage_draw_accuracy_alone():
    bare = curve(loss=None, loss_lo=None, loss_hi=None, coverage=None, ties=None, n=None)
    figure = figures.scaling_curve(bare)
    assert [ax.get_ylabel() for ax in figure.axes] == ["accuracy"]


def test_each_task_has_its_column():
    both = table("curve", pd.concat([curve(task="neqa", baseline=0.5).frame, curve(task="redefine-math").frame]), RUN)
    figure = figures.scaling_curve(both)
    assert [ax.get_title() for ax in figure.axes] == ["neqa", "redefine-math", "", ""]
    has_baseline = ["guessing" in [one.get_label() for one in ax.get_lines()] for ax in figure.axes]
    assert has_baseline == [True, False, False, False]


def test_one_size_is_a_point_with_its_interval():
    ax = figures.scaling_curve(curve([2])).axes[0]
    assert list(line(ax, "conflict").get_ydata()) == [0.88]
    assert not [c for c in ax.collections if isinstance(c, PolyCollection)]
    np.testing.assert_allclose(ax.collections[0].get_segments()[0][:, 1], [0.83, 0.92])


def test_shares_stack_to_one_and_are_the_table():
    made = shares()
    ax = figures.shares_over_size(made).axes[0]
    tops = np.zeros(5)
    for bars in ax.containers:
        heights = [bar.get_height() for bar in bars]
        np.testing.assert_allclose(heights, made.frame[bars.get_label()])
        np.testing.assert_allclose([bar.get_y() for bar in bars], tops)
        tops += heights
    np.testing.assert_allclose(tops, 1)
    names = [t.get_text() for t in ax.texts]
    assert [n for n in names if not n.isdigit()] == ["follows", "overridden", "contrary", "lost"]
    assert "86" in names and "0" not in names


@given(st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_labels_are_spread_apart_and_stay_in_order(places):
    out = _spread(sorted(places), 0.1)
    assert all(b - a >= 0.1 - 1e-9 for a, b in zip(out, out[1:], strict=False))
    assert out[0] >= -1e-9 and out[-1] <= 0.96 + 1e-9


def test_lens_lines_are_means_over_pairs():
    made = lens([1, 4])
    figure = figures.lens_over_depth(made)
    for ax, i in zip(figure.axes, (1, 4), strict=True):
        assert ax.get_title() == size_label(SIZES[i][1])
        for side in ("conflict", "plain"):
            rows = made.frame[(made.frame["model"] == SIZES[i][0]) & (made.frame["side"] == side)]
            means = rows.groupby("depth")["margin"].mean()
            np.testing.assert_allclose(line(ax, side).get_xdata(), means.index, atol=1e-6)
            np.testing.assert_allclose(line(ax, side).get_ydata(), means.to_numpy(), atol=1e-5)
        band = ax.collections[0].get_paths()[0].vertices
        rows = made.frame[(made.frame["model"] == SIZES[i][0]) & (made.frame["side"] == "conflict")]
        final = rows.loc[rows["depth"] == 1, "margin"]
        ends = [y for x, y in band if x == 1]
        assert min(ends) < final.mean() < max(ends)
        assert (max(ends) - min(ends)) / (3.92 * final.std() / len(final) ** 0.5) == pytest.approx(1, abs=0.2)
        assert ax.get_yscale() == "linear"
        assert [0, 0] in [list(one.get_ydata()) for one in ax.get_lines()]


def test_lens_of_very_unequal_depths_is_logarithmic_and_says_so():
    frame = lens([4]).frame
    frame.loc[frame["depth"] == 0, "margin"] += 4000
    ax = figures.lens_over_depth(table("lens", frame, RUN)).axes[0]
    assert ax.get_yscale() == "symlog" and ax.get_ylabel() == "margin (nats, log beyond ±1)"


def test_onset_is_marked_where_at_least_half_of_the_pairs_have_one():
    figure = every("lens_over_depth")
    marked = [
        [one.get_xdata()[0] for one in ax.get_lines() if one.get_label() == "override onset"] for ax in figure.axes
    ]
    assert marked == [[], [], [], [], [0.7]]


def test_attention_shows_means_and_puts_the_planted_head_first():
    made = attention([0, 3])
    figure = figures.attention_by_role(made)
    panels = [ax for ax in figure.axes if ax.get_xticks().size and ax.get_label() != "<colorbar>"]
    above, below = panels[:2], panels[2:]
    assert [t.get_text() for t in below[1].get_xticklabels()][0] == "a1.h1"
    assert len(below[0].get_xticks()) == 4 and len(below[1].get_xticks()) == 6
    roles = [t.get_text().replace(" ", "_") for t in above[0].get_yticklabels()]
    assert roles[-1] == "other" and set(roles) == set(ROLES)
    rows = made.frame[(made.frame["model"] == SIZES[3][0]) & (made.frame["layer"] == 1) & (made.frame["head"] == 1)]
    means = rows.groupby(["side", "role"])["weight"].mean()
    grid = [next(c for c in ax.collections if isinstance(c, QuadMesh)) for ax in (above[1], below[1])]
    for r, role in enumerate(roles):
        assert grid[0].get_array()[r, 0] == pytest.approx(means["conflict", role], abs=1e-5)
        assert grid[1].get_array()[r, 0] == pytest.approx(means["conflict", role] - means["plain", role], abs=1e-5)
    assert (grid[1].norm.vmin, grid[1].norm.vmax) == (-1, 1)


def test_a_role_that_the_plain_side_lacks_counts_as_zero_there():
    frame = attention([0]).frame
    frame = frame[~((frame["side"] == "plain") & (frame["role"] == "modified_word"))]
    figure = figures.attention_by_role(table("attention", frame, RUN), top=1)
    below = figure.axes[1]
    roles = [t.get_text() for t in figure.axes[0].get_yticklabels()]
    shown = next(c for c in below.collections if isinstance(c, QuadMesh)).get_array()
    rows = frame[
        (frame["side"] == "conflict")
        & (frame["role"] == "modified_word")
        & (frame["layer"] == 1)
        & (frame["head"] == 1)
    ]
    assert shown[roles.index("modified word"), 0] == pytest.approx(rows["weight"].mean(), abs=1e-5)


def test_map_has_dots_exactly_on_significant_sites_and_one_centred_scale():
    made = sites()
    figure = figures.override_map(made)
    meshes = [c for ax in figure.axes[:5] for c in ax.collections if isinstance(c, QuadMesh)]
    largest = made.frame["effect"].abs().max()
    assert {(c.norm.vmin, c.norm.vmax) for c in meshes} == {(-largest, largest)}
    assert meshes[0].cmap(0.5)[:3] == pytest.approx((0.97, 0.97, 0.97), abs=0.02)
    for ax, (name, n_params, n_layers, n_heads) in zip(figure.axes, SIZES, strict=False):
        assert ax.get_title() == size_label(n_params)
        dots = next(c for c in ax.collections if isinstance(c, PathCollection)).get_offsets()
        assert sorted(map(tuple, dots.tolist())) == [(1.5, n_layers - 0.5), (n_heads + 1.35, n_layers - 0.5)]
        rows = made.frame[(made.frame["model"] == name) & (made.frame["kind"] == "head")].sort_values(["layer", "head"])
        heads, mlps = (c for c in ax.collections if isinstance(c, QuadMesh))
        np.testing.assert_array_equal(heads.get_array().ravel(), rows["effect"])
        of_mlps = made.frame[(made.frame["model"] == name) & (made.frame["kind"] == "mlp")].sort_values("layer")
        np.testing.assert_array_equal(mlps.get_array().ravel(), of_mlps["effect"])


def test_map_without_significant_sites_has_no_dot_and_no_legend():
    figure = figures.override_map(sites(significant=False))
    assert not figure.legends
    assert not [c for ax in figure.axes for c in ax.collections if isinstance(c, PathCollection)]


def test_map_of_effects_averages_pairs_of_the_first_replacement():
    rows = [
        head(0)
        | {
            "pair": pair,
            "side": "conflict",
            "layer": 0,
            "kind": kind,
            "head": number,
            "replacement": how,
            "effect": effect + shift,
            "direct_effect": 0.0,
        }
        for how, shift in (("mean", 0.0), ("zero", 50.0))
        for kind, number, effects in (("head", 0, (1.0, 3.0)), ("mlp", None, (-2.0, -6.0)))
        for pair, effect in zip("ab", effects, strict=True)
    ]
    ax = figures.override_map(table("effects", rows, RUN)).axes[0]
    assert [c.get_array().ravel().tolist() for c in ax.collections] == [[2.0], [-4.0]]


def test_effects_without_total_effects_are_refused():
    rows = [
        head(0)
        | {
            "pair": "a",
            "side": "conflict",
            "layer": 0,
            "kind": "head",
            "head": 0,
            "replacement": "",
            "effect": None,
            "direct_effect": 1.0,
        }
    ]
    with pytest.raises(InputError, match="found no total effect on the conflict side, expected at least one"):
        figures.override_map(table("effects", rows, RUN))


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=50))
def test_effect_scale_is_centred_on_zero_and_holds_every_effect(effects):
    norm = effect_scale(np.array(effects))
    assert norm.vmin == -norm.vmax and norm.vmax >= max(abs(e) for e in effects)
    assert float(norm(0.0)) == pytest.approx(0.5)


def test_a_map_of_heads_and_roles_is_the_table():
    """Roles across, the one with the largest effects first; sizes down; dots on what is significant and matters."""
    made = head_roles([1, 3])
    *axes, _ = drawn(figures.head_role_map(made)).axes
    order = made.frame.groupby("role")["effect"].apply(lambda effects: effects.abs().sum()).sort_values()[::-1].index
    for i, (size, row) in enumerate(((1, axes[:3]), (3, axes[3:]))):
        for role, ax in zip(order, row, strict=True):
            here = made.frame[(made.frame["model"] == SIZES[size][0]) & (made.frame["role"] == role)]
            want = here.pivot(index="layer", columns="head", values="effect").to_numpy()
            (mesh,) = [c for c in ax.collections if isinstance(c, QuadMesh)]
            np.testing.assert_array_equal(mesh.get_array().reshape(want.shape), want)
            (dots,) = [c for c in ax.collections if isinstance(c, PathCollection)]
            largest = made.frame[made.frame["model"] == SIZES[size][0]]["effect"].abs().max()
            marked = here[here["significant"] & (here["effect"].abs() > largest / 10)]
            assert len(marked) == 1 < here["significant"].sum()
            assert dots.get_offsets().tolist() == (marked[["head", "layer"]].to_numpy() + 0.5).tolist()
            assert ax.get_title() == ("" if i else role.replace("_", " "))


def test_effect_scale_is_logarithmic_where_one_site_dwarfs_the_rest():
    assert isinstance(effect_scale(np.array([0.1] * 20 + [50.0])), SymLogNorm)
    assert not isinstance(effect_scale(np.array([0.1] * 20 + [1.0])), SymLogNorm)


def test_many_large_models_wrap_into_rows():
    rows = [
        head(0)
        | {
            "model": f"m{n}",
            "n_params": 10**n,
            "layer": k,
            "kind": "head" if h < 32 else "mlp",
            "head": h if h < 32 else None,
            "effect": 0.1,
            "effect_lo": 0.0,
            "effect_hi": 0.2,
            "direct_effect": 0.1,
            "p": 0.5,
            "q": 0.5,
            "significant": False,
        }
        for n in range(6, 13)
        for k in range(4)
        for h in range(33)
    ]
    figure = figures.override_map(table("sites", rows, RUN))
    tops = {round(ax.get_subplotspec().get_position(figure).y1, 3) for ax in figure.axes[:7]}
    assert len(tops) == 2


def test_verification_shows_before_after_random_sets_and_p():
    made = verification()
    conflict, of_plain = figures.verification(made).axes
    located = made.frame[~made.frame["sites"].str.contains("random")]
    for ax, before, after in (
        (conflict, "accuracy_before", "accuracy_after"),
        (of_plain, "plain_before", "plain_after"),
    ):
        np.testing.assert_array_equal(line(ax, "as it is").get_ydata(), located[before])
        np.testing.assert_array_equal(line(ax, "located sites replaced").get_ydata(), located[after])
    means = [one.get_ydata()[0] for one in conflict.get_lines() if one.get_gid() == "random"]
    np.testing.assert_allclose(means, np.array(CONFLICT) - 0.02)
    assert [t.get_text() for t in conflict.get_xticklabels()] == [
        "27k\np = 0.60",
        "100k\np = 0.40",
        "335k\np = 0.030",
        "800k\np = 0.005",
        "2.2M\np = 0.005",
    ]
    assert [t.get_text() for t in of_plain.get_xticklabels()] == ["27k", "100k", "335k", "800k", "2.2M"]


def test_verification_puts_both_halves_together():
    one = verification(split="half_b", n_sites=1)
    frame = one.frame.assign(split="half_a", n_sites=3)
    frame[["accuracy_before", "accuracy_after"]] *= 0.8
    frame["p_random"] *= 0.5
    both = table("verification", pd.concat([one.frame, frame]), RUN)
    located, random = judged_rows(both, "quote-repetition")
    chosen = one.frame[~one.frame["sites"].str.contains("random")].set_index("model")
    np.testing.assert_allclose(located["accuracy_after"], chosen["accuracy_after"].loc[located["model"]] * 0.9)
    np.testing.assert_array_equal(located["p_random"], chosen["p_random"].loc[located["model"]])
    assert set(located["n_sites"]) == {1} and set(located["most_sites"]) == {3} and len(random) == 5
    gap = (0.71 - 0.14) / (0.97 - 0.14)
    assert located["gap_closed"].tolist()[-1] == pytest.approx(gap) and np.isnan(located["gap_closed"].tolist()[1])
    shown = line(figures.verification(both).axes[0], "located sites replaced").get_ydata()
    np.testing.assert_allclose(shown, located["accuracy_after"])


def test_a_half_without_p_leaves_none():
    one, other = verification(split="half_b"), verification(split="half_a", n_sites=0, p_random=None)
    located, _ = judged_rows(table("verification", pd.concat([one.frame, other.frame]), RUN), "quote-repetition")
    assert located["p_random"].isna().all()


def test_verification_without_plain_side_or_p():
    figure = figures.verification(verification(plain_before=None, plain_after=None, p_random=None))
    assert [ax.get_ylabel() for ax in figure.axes] == ["conflict accuracy"]
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()][0] == "27k"


def test_restored_rows_put_both_halves_together_and_name_the_better_one():
    rows = restored_rows(restoration())
    block = rows[(rows["model"] == "ladder-2.2M") & (rows["kind"] == "block")].iloc[0]
    assert block["restored"] == pytest.approx(0.92) and block["p"] == pytest.approx(0.045) and block["n"] == 300
    assert block["intervention"] == "block half_a" and block["other"] == "block half_b" and block["restoring"]
    one = restoration().frame
    one.loc[one["split"] == "half_a", "restoring"] = False
    assert not restored_rows(table("restoration", one, RUN))["restoring"].any()
    at = {"conflict_after": 0.5, "conflict_after_lo": 0.4, "conflict_after_hi": 0.6}
    assert restored_rows(restoration(**at))["guessing"].all() and not rows["guessing"].any()
    assert not restored_rows(restoration(**at | {"intervention": "none"}))["guessing"].any()


def test_the_best_change_is_the_one_that_restores_most_of_its_sort():
    rows = restored_rows(restoration())
    largest, smallest = (rows[rows["model"] == SIZES[i][0]] for i in (4, 0))
    assert best_change(largest)["kind"] == best_change(largest, "roles")["kind"] == "block"
    assert best_change(largest, "nothing")["kind"] == "scale" and best_change(smallest) is None


def test_restored_against_cost_fills_what_counts():
    figure = figures.restored_vs_cost(restoration())
    assert [ax.get_title() for ax in figure.axes[:5]] == ["27k", "100k", "335k", "800k", "2.2M"]
    marks = {one.get_gid(): one for one in figure.axes[4].get_lines() if one.get_gid()}
    assert list(marks) == ["block", "reweight", "scale", "steer"]
    for k, (kind, restored) in enumerate({"block": 0.92, "reweight": 0.72, "scale": 0.52, "steer": 0.12}.items()):
        assert marks[kind].get_ydata()[0] == pytest.approx(restored)
        assert marks[kind].get_xdata()[0] == pytest.approx(2 * k, abs=1.01)  # kinds stand a little apart
        assert (marks[kind].get_markerfacecolor() == "white") == (kind == "steer")
    nothing = figures.restored_vs_cost(restoration(n_overridden=0, restored=np.nan))
    assert "no pair is overridden" in [t.get_text() for t in nothing.axes[0].texts]


def test_restored_over_size_has_no_mark_where_nothing_restores():
    conflict, of_plain = figures.restored_over_size(restoration()).axes
    np.testing.assert_allclose(line(conflict, "as it is").get_ydata(), CONFLICT)
    np.testing.assert_allclose(line(of_plain, "as it is").get_ydata(), PLAIN)
    for label, restored, plain_lost in (
        ("best change that needs the spans of roles", 0.92, 0.0),
        ("best that needs nothing of the prompt", 0.52, 0.04),
    ):
        points = [one for one in conflict.get_lines() if one.get_label() == label]
        want = [CONFLICT[i] + (1 - CONFLICT[i]) * restored for i in (2, 3, 4)]
        np.testing.assert_allclose([one.get_ydata()[0] for one in points], want)
        points = [one for one in of_plain.get_lines() if one.get_label() == label]
        np.testing.assert_allclose([one.get_ydata()[0] for one in points], [PLAIN[i] - plain_lost for i in (2, 3, 4)])


def test_direct_against_total_fills_the_significant_and_names_the_strongest():
    made = sites()
    ax = figures.direct_vs_total(made).axes[0]
    points = np.concatenate([np.asarray(c.get_offsets()) for c in ax.collections])
    expected = made.frame[["direct_effect", "effect"]].to_numpy()
    np.testing.assert_allclose(np.sort(points, 0), np.sort(expected, 0))
    filled = sum(int(sum(c.get_facecolors()[:, 3] > 0)) for c in ax.collections)
    assert filled == int(made.frame["significant"].sum()) == 10
    assert [t.get_text() for t in ax.texts] == ["a4.h1"]  # m4 has the same effect; its name would lie on the first


def test_onset_skips_sizes_without_one():
    ax = figures.onset_over_size(onset()).axes[0]
    shown = line(ax, "quote-repetition")
    assert np.isnan(shown.get_ydata()[0]) and shown.get_ydata()[-1] == 0.7
    assert [t.get_text() for t in ax.texts] == ["3 %", "10 %", "47 %", "83 %"]


def test_onset_that_no_size_has_is_said():
    frame = onset().frame.assign(onset=np.nan, onset_lo=np.nan, onset_hi=np.nan, n_onset=0)
    ax = figures.onset_over_size(table("onset", frame, RUN)).axes[0]
    assert [t.get_text() for t in ax.texts] == ["no size has an onset"]


def test_checkpoints_are_lines_over_tokens_and_families_over_size():
    made = observations(baseline=0.5)
    left, right = figures.published_curves(made, over="tokens").axes
    assert [one.get_label() for one in left.get_lines()] == [
        *("pythia-10000000", "gopher-100000000", "pythia-100000000", "pythia-1000000000", "gopher-10000000000"),
        "guessing",
    ]
    rows = made.frame[(made.frame["task"] == "memo-trap") & (made.frame["model"] == "pythia-1000000000")]
    np.testing.assert_array_equal(line(right, "pythia-1000000000").get_xdata(), rows["tokens"])
    np.testing.assert_array_equal(line(right, "pythia-1000000000").get_ydata(), rows["accuracy"])
    over_size = figures.published_curves(made, tasks=["memo-trap"]).axes[0]
    labels = ["pythia step1", "pythia step4", "pythia step16", "pythia step64", "gopher", "guessing"]
    assert [one.get_label() for one in over_size.get_lines()] == labels
    np.testing.assert_array_equal(line(over_size, "gopher").get_xdata(), [1e8, 1e10])
    pythia = table("observations", made.frame[made.frame["family"] == "pythia"], RUN)
    assert [one.get_label() for one in figures.published_curves(pythia, over="tokens").axes[0].get_lines()] == [
        "10M",
        "100M",
        "1B",
        "guessing",
    ]
    no_line = figures.published_curves(observations()).axes[0]
    assert "guessing" not in [one.get_label() for one in no_line.get_lines()]
    own = figures.published_curves(observations(), same_scale=False).axes[0].get_ylim()
    assert own[0] < made.frame["accuracy_lo"].min() and own[1] > made.frame["accuracy_hi"].max() and own[1] < 1


def test_published_figures_refuse_what_is_not_there():
    bare = table("observations", observations().frame.assign(tokens=np.nan), RUN)
    with pytest.raises(InputError, match="no row has tokens: nothing can be drawn over tokens"):
        figures.published_curves(bare, over="tokens")
    with pytest.raises(InputError, match="task 'x': expected some of neqa, memo-trap"):
        figures.published_curves(observations(), tasks=["x"])
    with pytest.raises(InputError, match="over 'time': expected one of parameters, tokens, FLOPs"):
        figures.published_curves(observations(), over="time")
    with pytest.raises(InputError, match="over 'time'"):
        observations_panel(observations(), new_figure(3, 3).subplots(), over="time")
    with pytest.raises(InputError, match="no tasks: expected at least one"):
        figures.published_curves(observations(), tasks=[])


def test_flips_are_drawn_as_they_are_counted():
    made = flipped()
    above, below = figures.flips_over_size(made).axes
    right = above.collections[0].get_array().reshape(60, 5)
    np.testing.assert_allclose(right.mean(axis=0), [(np.random.default_rng(4).random(60) < c).mean() for c in CONFLICT])
    assert [tuple(row) for row in right] == sorted((tuple(row) for row in right), reverse=True)
    steps = made.flip_steps.frame
    heights = [patch.get_height() for patch in below.patches]
    assert heights[::2] == steps["gained"].tolist() and heights[1::2] == (-steps["lost"]).tolist()
    assert [int(t.get_text()) for t in below.texts] == steps[["gained", "lost"]].to_numpy().ravel().tolist()


def test_what_lost_items_have_more_of_is_the_table():
    made = flipped()
    panels = figures.flip_traces(made, most=2).axes
    luck = np.random.default_rng(4).random(60)
    lost = [((luck < CONFLICT[i]) & (luck >= CONFLICT[i + 1])).sum() for i in (2, 3)]
    assert [ax.get_title() for ax in panels] == [f"335k to 800k\n{lost[0]} lost", f"800k to 2.2M\n{lost[1]} lost"]
    rows = made.flip_traces.frame
    rows = rows[rows["model"] == "ladder-2.2M"]
    dots = [one for one in panels[1].get_lines() if one.get_marker() == "o"]
    assert [one.get_xdata()[0] for one in dots] == rows["auc"].tolist()
    hollow = [one.get_markerfacecolor() == "white" for one in dots]
    assert hollow == (~(rows["q"] <= 0.05)).tolist() and set(hollow) == {True, False}
    assert [t.get_text() for t in panels[0].get_yticklabels()] == ["margin before", "lure strength"]


def test_panels_draw_on_axes_of_ones_own():
    figure = new_figure(7, 3)
    one, two = figure.subplots(1, 2)
    assert figures.curve_panel(curve(), one, value="loss") is one
    assert figures.effect_panel(sites(), two, model="ladder-335k") is two
    drawn(figure)


def test_wrong_tables_are_refused_with_what_was_found():
    with pytest.raises(InputError, match="figure: found table 'shares', expected 'curve'"):
        figures.scaling_curve(shares())
    with pytest.raises(InputError, match="found no rows, expected at least one"):
        figures.shares_over_size(table("shares", [], RUN))
    with pytest.raises(InputError, match="model 'ladder-25k': n_params is zero or less"):
        figures.scaling_curve(curve([0], n_params=0))
    with pytest.raises(InputError, match="found sides conflict, plain, expected one of neutral"):
        figures.scaling_curve(curve(), sides=("neutral",))
    frame = attention([0]).frame
    with pytest.raises(InputError, match="found no conflict side"):
        figures.attention_by_role(table("attention", frame[frame["side"] == "plain"], RUN))


def test_save_writes_every_file_the_same_each_time(tmp_path):
    made = curve(baseline=0.5)
    first = figures.save(figures.scaling_curve(made), tmp_path / "new" / "v1.0-curve", made)
    with rc_context({"pdf.fonttype": 3, "font.size": 20, "svg.fonttype": "path", "lines.linewidth": 9}):
        second = figures.save(figures.scaling_curve(made), tmp_path / "again", made)
    assert [p.name for p in first] == [f"v1.0-curve.{kind}" for kind in ("pdf", "svg", "png", "parquet")]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes() and one.stat().st_size > 1000
    assert read_table(first[3]).equals(made)
    pdf, svg, png = (p.read_bytes() for p in first[:3])
    assert b"/Type3" not in pdf and b"/FontFile2" in pdf and b"CreationDate" not in pdf
    assert re.search(rb"<text[^>]*>accuracy</text>", svg) and b"<dc:date>" not in svg
    width = int.from_bytes(png[16:20], "big")
    assert width == 2100  # two columns at 300 dots per inch


def test_a_figure_is_laid_out_once_and_again_when_it_changed(tmp_path):
    figure = figures.onset_over_size(onset())
    figures.save(figure, tmp_path / "a")
    before = figure.axes[0].get_position().y1
    figures.save(figure, tmp_path / "b")
    assert figure.axes[0].get_position().y1 == before
    figure.axes[0].set_title("one\ntwo\nthree")
    figure.savefig(tmp_path / "c.svg")
    assert figure.axes[0].get_position().y1 < before - 0.05
    assert figure.get_layout_engine() is not None and gc.isenabled()
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_savefig_keeps_the_style_too(tmp_path):
    with rc_context({"pdf.fonttype": 3}):
        figures.onset_over_size(onset()).savefig(tmp_path / "onset.pdf")
    assert b"/Type3" not in (tmp_path / "onset.pdf").read_bytes()


def test_hostile_names_run_no_mathematics_and_carry_no_controls():
    bad = "$\\frac{$\x1b[31m\u202e" + "x" * 100
    frames = [curve(task=bad).frame, curve(task="b\x07").frame]
    figure = drawn(figures.scaling_curve(table("curve", pd.concat(frames), RUN)))
    assert figure.axes[0].get_title().startswith(r"\$\frac{\$[31m") and figure.axes[1].get_title() == "b"
    frame = attention([0]).frame
    frame["role"] = frame["role"].replace({"shots": "$\\frac{$"})
    drawn(figures.attention_by_role(table("attention", frame, RUN)))


@given(st.text(max_size=80))
def test_plain_text_is_short_printable_and_inert(raw):
    shown = plain(raw, 30)
    assert not re.search(r"(?<!\\)\$", shown) and len(shown.replace(r"\$", "$")) <= 30
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\ud800-\udfff]", shown)


@settings(max_examples=300)
@given(st.integers(1, 10**13))
def test_size_labels_are_short_and_nearly_right(n):
    label = size_label(n)
    number, unit = re.fullmatch(r"([\d.]+)([kMBT]?)", label).groups()
    value = float(number) * {"": 1, "k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}[unit]
    assert len(label) <= 5 and value == pytest.approx(n, rel=0.051)


def test_two_models_of_one_size_are_told_apart():
    frame = shares().frame.assign(n_params=100_000)
    ax = figures.shares_over_size(table("shares", frame, RUN)).axes[0]
    assert sorted(t.get_text() for t in ax.get_xticklabels())[0] == "100k ladder-100k"


def test_the_story_is_drawn_as_the_table_has_it():
    figure = figures.story_over_size(story())
    outcome, masses, parts, depths = figure.axes
    assert line(outcome, "conflict accuracy").get_ydata() == pytest.approx(CONFLICT)
    bars = [bar.get_height() for bar in masses.patches]
    n = len(SIZES)
    assert bars[:n] == pytest.approx([1.0] * n) and bars[n:] == pytest.approx([-0.5 * i for i in range(n)])
    heads = [bar.get_height() for bar in parts.patches][1:n]
    assert heads == pytest.approx([0.9 - 0.1 * i for i in range(1, n)])
    assert [text.get_text() for text in parts.texts] == ["none"]  # the smallest has no override to share out
    assert line(depths, "override onset").get_ydata() == pytest.approx([0.6] * n)


def test_what_locate_gave_is_drawn_as_its_table_of_sites():
    located = SimpleNamespace(effects=table("effects", [], RUN), sites=sites(), stability=table("stability", [], RUN))
    for plot in (figures.override_map, figures.direct_vs_total):
        ours, of_table = (made.axes[0].collections[0] for made in (plot(located), every(plot.__name__)))
        assert np.array_equal(ours.get_array(), of_table.get_array()) if ours.get_array() is not None else True
        assert len(ours.get_offsets()) == len(of_table.get_offsets())


def test_shares_of_classes_are_stacked_and_classes_without_any_left_out():
    (ax,) = figures.head_shares_over_size(head_shares()).axes
    n = len(SIZES)
    heights = [bar.get_height() for bar in ax.patches]
    assert heights == pytest.approx([0, *[0.5] * (n - 1), 0, *[0.3] * (n - 1), 0, *[0.2] * (n - 1)])
    assert [bar.get_y() for bar in ax.patches][n + 1] == pytest.approx(0.5)
    assert ax.get_legend_handles_labels()[1] == ["recall", "mlp", "none"]
    assert [text.get_text() for text in ax.texts] == ["none"]
