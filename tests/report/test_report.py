"""The report: true sentences in every branch, and a page that shows hostile texts and does nothing."""

from __future__ import annotations

import base64
import functools
import http.server
import re
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isp_mech import figures
from isp_mech.errors import InputError
from isp_mech.report import findings, size_by_size, task_rows, wording, write_report
from isp_mech.report.cautions import cautions, limits
from isp_mech.report.page import shown
from isp_mech.report.wording import texts
from isp_mech.scaling import NAMES
from isp_mech.tables import make_run, table
from isp_mech.tasks import Pair, Prompt, compose

SIZES = [("ladder-25k", 27_000), ("ladder-335k", 335_000), ("ladder-800k", 800_000), ("ladder-2.2M", 2_200_000)]
TASK = "quote-repetition"
RUN = make_run(model="ladder", task=TASK, method="synthetic", seed=7, settings={"replacement": "mean"})
HOSTILE = (
    "<script>alert(1)</script></style></title></pre><img src=x onerror=alert(2)> javascript:alert(3) \x1b[31m \u202e "
    "$x_y$ \" ' & <!-- <a href='http://example.org/'>"
)


def head(i):
    return {"model": SIZES[i][0], "n_params": SIZES[i][1], "task": TASK}


def curve(conflict, *, plain=None, neutral=None, sides=None, **changed):
    rows = []
    for side, values in (sides or {"conflict": conflict, "plain": plain, "neutral": neutral}).items():
        for i, share in enumerate(values or ()):
            rows.append(
                head(i)
                | {
                    "side": side,
                    "accuracy": share,
                    "accuracy_lo": share - 0.04,
                    "accuracy_hi": share + 0.04,
                    "loss": 1.0,
                    "loss_lo": 0.9,
                    "loss_hi": 1.1,
                    "coverage": 0.5,
                    "ties": 0,
                    "n": 300,
                    "baseline": None,
                }
                | changed
            )
    return table("curve", rows, RUN)


def shares(*rows):
    names = ("follows", "overridden", "contrary", "lost")
    made = [
        head(i)
        | dict(zip(names, row, strict=True))
        | {f"{n}_{e}": 0.1 for n in names for e in ("lo", "hi")}
        | {"n": 300}
        for i, row in enumerate(rows)
    ]
    return table("shares", made, RUN)


def onset(*rows):
    made = [
        head(i) | {"side": "conflict", "onset": d, "onset_lo": d - 0.05, "onset_hi": d + 0.05, "n_onset": k, "n": 300}
        for i, (d, k) in enumerate(rows)
    ]
    return table("onset", made, RUN)


def sites(*per_size):
    """Per size the effects of a0.h0, a0.h1 and m0; a tuple of one stands for a significant one."""
    rows = []
    for i, effects in enumerate(per_size):
        for (kind, number), given_effect in zip((("head", 0), ("head", 1), ("mlp", None)), effects, strict=True):
            significant = isinstance(given_effect, tuple)
            effect = given_effect[0] if significant else given_effect
            rows.append(
                head(i)
                | {
                    "layer": 0,
                    "kind": kind,
                    "head": number,
                    "effect": effect,
                    "effect_lo": effect - 0.1,
                    "effect_hi": effect + 0.1,
                    "direct_effect": 0.5,
                    "p": 0.01,
                    "q": 0.02,
                    "significant": significant,
                }
            )
    return table("sites", rows, RUN)


def verification(*rows, **changed):
    made = []
    for i, (before, after, p) in enumerate(rows):
        base = head(i) | {
            "split": "held-out",
            "replacement": "mean",
            "n_sites": 2,
            "n_random": 200,
            "accuracy_before": before,
            "margin_before": -1.0,
            "margin_after": 1.0,
            "gap_closed": 0.69,
            "plain_before": 1.0,
            "plain_after": 0.97,
            "neutral_loss_before": 2.1,
            "neutral_loss_after": 2.12,
        }
        made.append(base | {"sites": "a0.h0 m0", "accuracy_after": after, "p_random": p} | changed)
        made.append(base | {"sites": "random", "accuracy_after": before, "p_random": None})
    return table("verification", made, RUN)


def said(*tables):
    return "\n".join(findings(task_rows({t.name: t for t in tables}, TASK)))


def test_inverse_curve():
    text = said(curve([0.95, 0.8, 0.45, 0.14], plain=[0.6, 0.9, 0.98, 1.0], neutral=[0.7, 0.9, 0.95, 0.99]))
    assert text.startswith(
        "Accuracy on the conflict prompts falls with size: 95 % (95 % interval 91 to 99 %) in the smallest model "
        "(27k), "
        "14 % (95 % interval 10 to 18 %) in the largest (2.2M). The curve counts as inverse; the change from "
        "smallest to "
        "largest is −81 points (95 % interval −"
    )
    assert (
        "On the plain prompts, where the lure is right, accuracy is 60 % in the smallest model and 100 % in the "
        "largest." in text
    )
    assert "the 2.2M model is right on 99 %, so it can do what the conflict prompts ask." in text


@pytest.mark.parametrize(
    ("accuracies", "start", "name"),
    [
        ([0.1, 0.4, 0.7, 0.9], "rises with size: 10 %", "counts as positive;"),
        ([0.9, 0.3, 0.3, 0.9], "falls with size and then rises again: 90 %", "counts as U;"),
        ([0.1, 0.8, 0.8, 0.1], "rises with size and then falls: 10 %", "counts as inverted U;"),
        ([0.5, 0.5, 0.5, 0.5], "stays about the same over size: 50 %", "would probably have been seen."),
    ],
)
def test_other_shapes(accuracies, start, name):
    text = said(curve(accuracies))
    assert f"Accuracy on the conflict prompts {start}" in text and name in text


def test_two_sizes_establish_no_shape():
    text = said(curve([0.9, 0.2]))
    assert (
        "but these 2 sizes do not establish a shape of the curve." in text and "inf" not in text and "nan" not in text
    )


def test_one_size():
    text = said(curve([0.45], plain=[0.9]))
    assert text.startswith(
        "Only one size was measured: the 27k model is right on 45 % (95 % interval 41 to 49 %) of the conflict "
        "prompts. One size says nothing about scaling."
    )
    assert "where the lure is right, it is right on 90 %." in text


def test_no_plain_side():
    assert "There is no plain side, so that being overridden cannot be distinguished from not knowing." in said(
        curve([0.9, 0.5, 0.2])
    )


def test_a_plain_task_file_says_what_is_missing():
    text = said(curve(None, sides={"item": [0.9, 0.6, 0.2]}))
    assert text.startswith("Accuracy on the items falls with size") and "contrasting pairs are needed" in text
    assert "Whether replacing" not in text


def test_published_numbers_without_counts():
    text = said(curve([0.9, 0.95, 0.2], n=None, coverage=None, ties=None))
    assert "The best is the 335k model with 95 %" in text
    assert "The number of items is not given, so the shape of the curve cannot be tested." in text


def test_weak_neutral_side():
    assert "so some of its errors may be a lack of skill and not an override." in said(
        curve([0.9, 0.2], neutral=[0.5, 0.6])
    )


def test_what_each_size_does():
    text = said(
        shares((0.25, 0.25, 0.25, 0.25), (0.88, 0.1, 0.01, 0.01), (0.6, 0.38, 0.01, 0.01), (0.1, 0.86, 0.02, 0.02))
    )
    assert "The 27k model puts about a quarter of the pairs in each case, as guessing would." in text
    assert "The 335k and 800k models mostly follow the prompt (88 % and 60 % of pairs)." in text
    assert "The 2.2M model is mostly overridden, answering as if the twist were not there (86 % of pairs)." in text
    text = said(shares((0.1, 0.1, 0.45, 0.35), (0.05, 0.05, 0.1, 0.8), (0.05, 0.05, 0.1, 0.8)))
    assert (
        "The 27k model is most often contrary, right on the conflict prompt and wrong on the plain one (45 % of pairs)."
        in text
    )
    assert "The 335k and 800k models are mostly lost, wrong on both prompts (80 % and 80 % of pairs)." in text


def test_a_model_that_heeds_no_prompt_is_not_called_overridden():
    text = said(shares((0.0, 0.52, 0.48, 0.0), (0.1, 0.5, 0.3, 0.1), (0.0, 1.0, 0.0, 0.0)))
    assert (
        "The 27k and 335k models answer alike on both prompts, now with the lure and now with the answer, "
        "and so take no notice of the twist. The 800k model is mostly overridden" in text
    )


def test_where_the_override_sets_in():
    text = said(onset((np.nan, 0), (0.9, 9), (0.8, 150), (0.7, 250)))
    assert (
        "In the 2.2M model the lens has the answer ahead at first and the lure ahead for good from a relative depth "
        "of 0.70 "
        "(95 % interval 0.65 to 0.75), in 250 of 300 pairs. The share of pairs with such a turn is 3 % in the 335k "
        "model and "
        "83 % in the 2.2M model. The 27k model shows none."
    ) in text
    assert "no depth can be named at which the override sets in" in said(onset((np.nan, 0), (np.nan, 0)))
    text = said(onset((np.nan, 0), (np.nan, 0), (0.8, 150)))
    assert "The share" not in text and "The 27k and 335k models show none." in text


def test_sites_that_matter():
    text = said(sites((0.1, 0.1, 0.1), ((-0.5,), (0.25,), (-1.384,))))
    assert (
        "In the 335k model, 3 of 3 sites (heads and MLPs) have a significant effect on the margin, at a false "
        "discovery rate "
        "of 5 % over all sites and sizes. Of these, 2 push towards the lure: m0 (−1.38 nats) and a0.h0 (−0.50 nats); "
        "1 pushes towards the answer: a0.h1 (+0.25 nats). No site is significant in the 27k model."
    ) in text


def test_sites_that_do_not_explain():
    text = said(sites(((0.5,), 0.1, 0.1)))
    assert "1 of 3 sites (heads and MLPs) has a significant effect" in text
    assert "None pushes towards the lure, so these sites do not explain an override." in text
    text = said(sites((0.1, -0.1, 0.0), (0.1, 0.0, 0.0)))
    assert "No head and no MLP has a significant effect on the margin at any size (6 sites tested" in text
    assert "Where the override is carried could not be shown." in text
    text = said(sites(((-0.5,), 0.1, 0.1), (0.0, 0.0, 0.0)))
    assert (
        "In the 335k model no site has a significant effect on the margin, though some have in smaller models." in text
    )


def test_replacing_that_helps():
    text = said(verification((0.9, 0.9, 0.5), (0.8, 0.9, 0.01), (0.5, 0.78, 0.004975), (0.14, 0.71, 0.004975)))
    assert (
        "On pairs that were not used to choose them, replacing the 2 located sites of the 2.2M model raises conflict "
        "accuracy "
        "from 14 % to 71 %, which closes 69 % of the gap to the best size. Random sets of the same kinds and layers "
        "do not do "
        "as well (p = 0.005, 200 random sets). Plain accuracy is 100 % before and 97 % after; the loss on neutral "
        "text is "
        "2.10 and 2.12 nats per token. Replacing the located sites also helps beyond chance in the 335k and 800k "
        "models. "
        "It was not shown to help in the 27k model."
    ) in text


def test_replacing_that_does_not_help_or_costs_unknown():
    text = said(verification((0.5, 0.4, 0.9)))
    assert "does not raise conflict accuracy: it is 50 % before and 40 % after. That these sites carry" in text
    text = said(verification((0.5, 0.6, 0.3), plain_before=None, plain_after=None, gap_closed=None, n_sites=1))
    assert (
        "replacing the one located site of the 27k model raises conflict accuracy from 50 % to 60 %. But random sets "
        "of the same "
        "kinds and layers do as well too often (p = 0.30, 200 random sets), so that these sites carry the override "
        "could not "
        "be shown. What it costs on the plain side was not measured."
    ) in text
    text = said(verification((0.5, 0.6, None), neutral_loss_before=None, neutral_loss_after=None))
    assert (
        "It was not compared with random sets, so this may be no more than chance. Plain accuracy is 100 % before "
        "and 97 % after." in text
    )
    assert "At no size did sites meet the conditions for being replaced" in said(
        verification((0.5, 0.5, None), n_sites=0)
    )
    assert said(sites((0.1, 0.1, 0.1))).endswith(
        "Whether replacing these places restores prompt-following was not tested."
    )


def test_replacing_over_two_halves():
    one = verification((0.9, 0.9, 0.4), (0.2, 0.6, 0.005), split="half_b")
    other = verification((0.9, 0.9, 0.4), (0.3, 0.6, 0.02), split="half_a", n_sites=3)
    both = pd.concat([one.frame, other.frame])
    text = said(table("verification", both, RUN))
    assert (
        "On pairs that were not used to choose them, replacing the located sites (2 chosen on one half, 3 on the "
        "other) "
        "of the 335k model raises conflict accuracy from 25 % to 60 %, which closes 54 % of the gap to the best size. "
        "Random sets of the same kinds and layers do not do as well (p = 0.020, 200 random sets)."
    ) in text
    assert "No site could be chosen in the 27k model." in said(
        table("verification", both.assign(n_sites=both["n_sites"].where(both["model"] != "ladder-25k", 0)), RUN)
    )
    lone = both.assign(n_sites=both["n_sites"].where(both["split"] == "half_a", 0))
    lone["p_random"] = lone["p_random"].where(lone["n_sites"] > 0)
    text = said(table("verification", lone, RUN))
    assert "(0 chosen on one half, 3 on the other)" in text
    assert "As no site could be chosen on one of the halves, this may be no more than chance." in text
    text = said(verification((0.2, 0.6, 0.005), split="all"))
    assert "\nOn all pairs, replacing the 2 located sites of the 27k model raises" in text


def test_each_size_has_one_sentence():
    tables = (
        curve([0.9, 0.2], plain=[0.8, 1.0]),
        shares((0.8, 0.1, 0.05, 0.05), (0.2, 0.8, 0, 0)),
        onset((np.nan, 0), (0.7, 250)),
        sites((0.1, 0.1, 0.1), ((-1.5,), 0.1, 0.1)),
        verification((0.9, 0.9, None), (0.2, 0.7, 0.005)),
    )
    small, large = size_by_size(task_rows({t.name: t for t in tables}, TASK))
    assert small == (
        "27k",
        "Right on 90 % of conflict prompts and 80 % of plain prompts; follows the prompt on 80 % of pairs, is "
        "overridden on 10 %, contrary on 5 %, lost on 5 %; no override onset; no significant site; replacing the "
        "located sites takes held-out conflict accuracy from 90 % to 90 %.",
    )
    assert large == (
        "335k",
        "Right on 20 % of conflict prompts and 100 % of plain prompts; follows the prompt on 20 % of pairs, is "
        "overridden on 80 %, contrary on 0 %, lost on 0 %; override onset at depth 0.70 in 83 % of pairs; 1 "
        "significant "
        "site, the strongest a0.h0 (−1.50 nats); replacing the located sites takes held-out conflict accuracy from "
        "20 % to 70 % (p = 0.005).",
    )
    assert (
        size_by_size(task_rows({"curve": tables[0]}, TASK))[0][1]
        == "Right on 90 % of conflict prompts and 80 % of plain prompts."
    )


def test_cautions_name_low_coverage_ties_stability_and_notes():
    frame = curve([0.9, 0.2]).frame
    frame.loc[0, ["coverage", "ties"]] = [1e-4, 3]
    stable = [
        head(0) | {"replacement_a": "half_a", "replacement_b": "half_b", "spearman": 0.91},
        head(0) | {"replacement_a": "mean", "replacement_b": "zero", "spearman": -0.2},
        head(1) | {"replacement_a": "mean", "replacement_b": "zero", "spearman": 0.4},
    ]
    made = table("curve", frame, replace(RUN, notes=("A note of the run.", "ladder-25k: ties, conflict 3")))
    tables = {"curve": made, "stability": table("stability", stable, RUN)}
    assert cautions(task_rows(tables, TASK), tables) == [
        "In the 27k model all classes together get less than a thousandth of the probability on some side; its "
        "choice between "
        "them says little.",
        "3 items are tied in the 27k model; a tie counts for the class that comes first.",
        "The ranking of sites agrees between the two halves of the pairs with a Spearman correlation of 0.91.",
        "The ranking of sites agrees between kinds of replacement with a Spearman correlation of −0.20 to 0.40, "
        "which is weak: "
        "read the order of single sites with care.",
        "A note of the run.",
    ]
    assert cautions(task_rows({"curve": curve([0.5])}, TASK), {"curve": curve([0.5])}) == []


def test_limits_speak_of_model_organisms_only_for_the_ladder():
    own = curve([0.9, 0.2])
    other = table("curve", own.frame.assign(model="pythia-70m"), RUN)
    assert limits({"curve": own})[0].startswith("The models of the ladder are model organisms")
    assert not any("organisms" in line for line in limits({"curve": other}))


def pair(raw="green", identity="q1"):
    def prompt(word):
        return compose(
            [
                ("Repeat my sentences back to me.\n\n", "instruction"),
                ("Input: All's well that ends ", ""),
                (word, "modified_word"),
                ("\nOutput: All's well that ends", ""),
            ]
        )

    return Pair(identity, prompt("well"), prompt(raw), answer=f" {raw}", lure=" well", factor="modified_word")


FULL = (
    curve([0.9, 0.8, 0.5, 0.2], plain=[0.6, 0.9, 1.0, 1.0], baseline=0.5),
    shares(*[(0.7, 0.2, 0.05, 0.05)] * 4),
    onset((np.nan, 0), (0.9, 9), (0.8, 150), (0.7, 250)),
    sites(*[((-0.5,), 0.1, (0.2,))] * 4),
    verification((0.9, 0.9, 0.4), (0.8, 0.8, 0.4), (0.5, 0.7, 0.01), (0.2, 0.7, 0.005)),
)


def all_figures(tables):
    return {
        "scaling_curve": figures.scaling_curve(tables["curve"]),
        "override_map": figures.override_map(tables["sites"]),
    }


class Page(HTMLParser):
    """Everything on a page that could act: tags, attributes, addresses; and the visible text."""

    def __init__(self, content):
        super().__init__()
        self.tags, self.attributes, self.seen, self.marks, self.stack = [], [], "", [], []
        self.feed(content)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "mark":
            self.marks.append("")
        if tag not in ("meta", "link", "img"):
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        if "style" not in self.stack:
            self.seen += data
        if "mark" in self.stack:
            self.marks[-1] += data


def check_inert(content):
    page = Page(content)
    assert page.stack == []
    assert set(page.tags) <= {
        "html",
        "head",
        "meta",
        "title",
        "link",
        "style",
        "body",
        "main",
        "section",
        "h1",
        "h2",
        "h3",
        "p",
        "div",
        "figure",
        "img",
        "b",
        "figcaption",
        "mark",
        "span",
        "pre",
        "code",
        "dl",
        "dt",
        "dd",
        "ul",
        "li",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "details",
        "summary",
    }
    for tag, name, value in page.attributes:
        assert not name.startswith("on")
        assert name in (
            "lang",
            "charset",
            "http-equiv",
            "content",
            "name",
            "rel",
            "href",
            "class",
            "src",
            "alt",
            "title",
            "tabindex",
            "aria-label",
            "role",
        )
        assert name != "href" or (tag, value) == ("link", "data:,")
        assert name != "src" or re.match(r"data:image/(svg\+xml|png);base64,[A-Za-z0-9+/=]+$", value)
    assert ("meta", "content", "default-src 'none'; img-src data:; style-src 'unsafe-inline'") in page.attributes
    assert content.count("<style>") == content.count("</style>") == 1
    assert "@import" not in content and "url(" not in content
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", content)
    return page


@pytest.fixture(scope="module")
def full_page(tmp_path_factory):
    tables = {t.name: t for t in FULL}
    path = tmp_path_factory.mktemp("page") / "out" / "report.html"
    return write_report(path, tables, all_figures(tables), title="Why it falls", examples=[pair()])


def test_the_page_has_all_its_parts(full_page):
    path = full_page
    content = path.read_text(encoding="utf-8")
    page = check_inert(content)
    order = [
        "Why it falls",
        "What was found",
        "An example",
        "Figures",
        "Size by size",
        "The strongest sites of the largest",
        "What these numbers are not evidence of",
        "How it was made",
    ]
    places = [page.seen.index(part, page.seen.index("Why it falls") + 5 if i else 0) for i, part in enumerate(order)]
    assert places == sorted(places)
    assert (
        page.seen.count("Figure 1. Accuracy and loss over model size.") == 1
        and "Figure 2. The places that decide." in page.seen
    )
    assert page.marks == [
        "modified word",
        "instruction",
        "Repeat my sentences back to me.",
        "green",
        "Repeat my sentences back to me.",
        "well",
    ]
    assert "quote-repetition; 4 models: ladder-25k, ladder-335k, ladder-800k, ladder-2.2M" in page.seen
    assert "setting replacementmean" in page.seen.replace("\n", "") and "seed7" in page.seen
    assert "95\xa0% interval" in page.seen
    assert list(path.parent.iterdir()) == [path]


def test_the_same_input_gives_the_same_bytes(full_page, tmp_path):
    tables = {t.name: t for t in FULL}
    again = write_report(tmp_path, tables, all_figures(tables), title="Why it falls", examples=[pair()])
    assert again.read_bytes() == full_page.read_bytes()


def test_a_folder_gets_report_html(tmp_path):
    assert write_report(tmp_path, {"curve": FULL[0]}, {}, title="t") == tmp_path / "report.html"


def hostile_report(tmp_path):
    run = replace(RUN, model=HOSTILE, method=HOSTILE, settings={HOSTILE: HOSTILE}, notes=(HOSTILE,))
    tables = {}
    for made in FULL:
        tables[made.name] = table(made.name, made.frame.assign(task=HOSTILE, model=HOSTILE + made.frame["model"]), run)
    prompts = [
        Prompt(HOSTILE + word, {HOSTILE: ((len(HOSTILE), len(HOSTILE) + len(word)),), "b": ((0, 9),)})
        for word in ("<b>x</b>", "</mark>")
    ]
    hostile = Pair(HOSTILE, *prompts, answer=HOSTILE, lure="</code>" + HOSTILE, factor=HOSTILE)
    (tmp_path / "x.svg").write_text(f'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(9)</script>{HOSTILE}</svg>')
    drawn = {**all_figures(tables), HOSTILE: tmp_path / "x.svg"}
    return write_report(tmp_path / "report.html", tables, drawn, title=HOSTILE, examples=[hostile])


def test_hostile_texts_are_shown_and_do_nothing(tmp_path):
    page = check_inert(hostile_report(tmp_path).read_text(encoding="utf-8"))
    assert page.seen.count("<script>alert(1)</script></style>") > 10
    assert "\\x1b[31m \\u202e $x_y$" in page.seen


@given(st.text())
def test_any_text_is_inert_and_comes_back(raw):
    class Only(HTMLParser):
        found = ""

        def handle_starttag(self, tag, attrs):
            raise AssertionError(tag)

        def handle_data(self, data):
            self.found += data

    parser = Only()
    parser.feed(shown(raw, keep="\n\t") + "\n")
    parser.close()
    if raw.isascii() and raw.isprintable():
        assert parser.found == raw + "\n"
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", parser.found)


def test_what_cannot_be_used_is_said(tmp_path):
    with pytest.raises(InputError, match="report: found no table with rows, expected at least one"):
        write_report(tmp_path / "r.html", {"curve": table("curve", [], RUN)}, {}, title="t")
    (tmp_path / "x.gif").write_bytes(b"GIF89a")
    with pytest.raises(InputError, match=r"x\.gif: found a figure of kind '\.gif', expected \.svg or \.png"):
        write_report(tmp_path / "r.html", {"curve": FULL[0]}, {"scaling_curve": tmp_path / "x.gif"}, title="t")
    with pytest.raises(InputError, match=r"gone\.png: the figure cannot be read \(No such file"):
        write_report(tmp_path / "r.html", {"curve": FULL[0]}, {"scaling_curve": tmp_path / "gone.png"}, title="t")
    assert [p.name for p in tmp_path.iterdir()] == ["x.gif"]


def test_figure_files_go_in_as_they_are(tmp_path):
    (tmp_path / "x.png").write_bytes(b"\x89PNG rest")
    made = write_report(
        tmp_path, {"curve": FULL[0]}, {"quote-repetition/scaling-curve": str(tmp_path / "x.png")}, title="t"
    )
    content = made.read_text()
    assert "data:image/png;base64," + base64.b64encode(b"\x89PNG rest").decode() in content
    assert "quote-repetition: Accuracy and loss over model size." in content


def test_several_tasks_are_told_apart(tmp_path):
    both = curve([0.9, 0.2]).frame, curve([0.2, 0.9]).frame.assign(task="neqa")
    made = write_report(tmp_path, {"curve": table("curve", pd.concat(both), RUN)}, {}, title="t")
    page = check_inert(made.read_text())
    assert "Size by size: quote-repetition" in page.seen and "Size by size: neqa" in page.seen


def test_drawing_and_the_report_need_neither_torch_nor_pyplot(tmp_path):
    code = (
        "import sys; from isp_mech.tables import table, make_run; from isp_mech import figures, report; "
        "made = table('onset', [dict(model='m', n_params=5, task='t', side='conflict', onset=.5, onset_lo=.4, "
        "onset_hi=.6, n_onset=3, n=4)], make_run(model='m', task='t', method='x')); "
        "report.write_report(sys.argv[1], {'onset': made}, {'onset': figures.onset_over_size(made)}, title='t'); "
        "print([m for m in ('torch', 'transformers', 'transformer_lens', 'matplotlib.pyplot') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_sentence_is_there_that_nothing_says():
    source = "".join(path.read_text() for path in Path(wording.__file__).parent.glob("*.py"))
    of_a_case = {f"curve {name}" for name in NAMES} | {"neutral able", "neutral unable"}
    of_a_case |= {f"shares {case}" for case in ("follows", "overridden", "contrary", "lost", "guesses", "heedless")}
    of_a_case |= {f"restored {case} {needs}" for case in ("second", "none") for needs in ("roles", "nothing")}
    assert not {name for name in texts("sentences.tsv") if f'"{name}"' not in source} - of_a_case


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs a chromium on PATH to open the page")
def test_a_browser_opens_the_hostile_page_and_asks_for_nothing_else(tmp_path):
    hostile_report(tmp_path)
    asked = []

    class Server(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            super().do_GET()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Server, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    address = f"http://127.0.0.1:{server.server_port}/report.html"
    try:
        done = subprocess.run(
            ["chromium", *flags, "--dump-dom", address], capture_output=True, text=True, timeout=120, check=True
        )
    finally:
        server.shutdown()
        server.server_close()
    assert asked == ["/report.html"]
    assert "What was found" in done.stdout and "How it was made" in done.stdout
    dom = Page(done.stdout)
    assert not {"script", "a", "iframe", "object", "form"} & set(dom.tags)
    assert not [name for _, name, _ in dom.attributes if name.startswith("on")]
    assert dom.tags.count("img") == 3
    assert "Refused to" not in done.stderr
