"""The page that can be asked: what is packed comes back, hostile texts stay inert, and a browser shows every view."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from asked_tables import (
    KINDS,
    PAIRS,
    RUN,
    SITES,
    START,
    TABLES,
    TASK,
    TRACED,
    N,
    effect,
    looks,
    margin,
    pair,
    tokens,
)
from browser import CHROMIUM, tab

import isp_mech as im
from isp_mech.errors import InputError
from isp_mech.report import task_rows, write_report
from isp_mech.report.explorer_data import packed
from isp_mech.report.explorer_tokens import cut_prompt
from isp_mech.tables import table
from isp_mech.tasks import compose


def text_of(tables, pairs=PAIRS, **settings):
    return packed(tables.values(), [task_rows(tables, TASK)], pairs, **settings)


def unpacked(text):
    """A second reader of the packed text: its head, and a function that gives an array, NaN where unknown."""
    whole = gzip.decompress(base64.b64decode(text))
    start = 4 + int.from_bytes(whole[:4], "little")
    assert start % 4 == 0

    def array(of, *shape):
        missing, kind = {"int16": (-32768, "<i2"), "uint8": (255, "u1")}[of["kind"]]
        raw = np.frombuffer(whole, kind, of["n"], start + of["at"])
        return np.where(raw == missing, np.nan, raw * of["step"]).reshape(shape)

    return json.loads(whole[4:start])["tasks"], array


# --- the data -------------------------------------------------------------------------------------


def test_what_is_packed_comes_back():
    (task,), array = unpacked(text_of(TABLES))
    assert [size["model"] for size in task["sizes"]] == ["tiny-1k", "tiny-2k"]
    for m, size in enumerate(task["sizes"]):
        assert [site["name"] for site in size["sites"]] == ["a0.h0", "a0.h1", "m0", "a1.h0", "a1.h1", "m1"]
        assert size["sample"] == list(range(N)) and size["replacement"] == "mean"
        known = np.array([[effect(m, i, s) for s in range(len(SITES))] for i in range(N)])
        step = np.abs(known).max() / 32767
        np.testing.assert_allclose(array(size["values"]["total"], N, len(SITES)), known, atol=0.51 * step)
        np.testing.assert_allclose(array(size["values"]["direct"], N, len(SITES)), known / 4, atol=0.51 * step)
        for side in ("conflict", "plain"):
            writes = [site[f"write_{side}"] for site in size["sites"]]
            np.testing.assert_allclose(writes, known.mean(axis=0) / 2, rtol=1e-5)
        for side in ("conflict", "plain"):
            np.testing.assert_allclose(array(size["values"][side], N, len(SITES)), known / 2, atol=0.51 * step)
            sign = 1 if side == "conflict" else -1
            margins = [sign * (1.5 + i) * (-1 if (m, i, side) == (1, 0, "conflict") else 1) for i in range(N)]
            assert size["margins"][side] == margins
            lens = array(size["lens"]["sides"][side], N, 3)
            np.testing.assert_allclose(lens, np.outer(margins, [0, 0.5, 1]), atol=1e-3)
            shares = array(size["attention"]["sides"][side], N, 4, 3)
            np.testing.assert_allclose(shares, np.broadcast_to([0.7, 0.2, 0.1], shares.shape), atol=0.0021)
            np.testing.assert_allclose(array(size["attention"]["mean"][side], 4, 3), shares[0], atol=1e-9)
        assert size["right"]["conflict"] == [m == 0, True, True, True, True] and all(size["right"]["plain"])
    # what the page shows of a text: control characters written out, roles in place although the first character is wide
    pieces = task["pairs"][2]["prompts"]["conflict"]["pieces"]
    assert pieces[0] == ["𝛑 Repeat. ", "instruction"] and pieces[-1] == ["green2", "modified_word"]
    assert "\\x1b[31m\\u202e" in pieces[1][0] and "\x1b" not in pieces[1][0]


def test_attention_by_token_comes_back_with_every_head_and_token():
    (task,), array = unpacked(text_of(TABLES))
    for m, size in enumerate(task["sizes"]):
        known = size["tokens"]
        assert known["pairs"] == list(range(TRACED)) and known["of"] == TRACED
        assert known["heads"] == ["a0.h0", "a0.h1", "a1.h0", "a1.h1"]
        for side in ("conflict", "plain"):
            of_side = known["sides"][side]
            flat = array(of_side["weights"], -1)
            for i, cut in zip(known["pairs"], of_side["prompts"], strict=True):
                whole = tokens(getattr(PAIRS[i], side))
                want = np.stack([looks(m, s, len(whole)) for s in (0, 1, 3, 4)])
                kept = np.flatnonzero(want.any(axis=0))  # tokens that no head looks at are plain text
                got = flat[cut["at"] :][: 4 * len(kept)].reshape(4, len(kept))
                np.testing.assert_allclose(got, want[:, kept], atol=0.0021)
                assert len(cut["roles"]) == len(kept) and cut["roles"][-1] == "modified_word"
                inside = [piece for piece in cut["pieces"] if len(piece) == 3]
                shown = "".join(text for text, *_ in inside)
                assert shown == "".join(text for text, _ in task["pairs"][i]["prompts"][side]["pieces"])
                outside = [piece for piece in cut["pieces"] if len(piece) == 4]
                assert outside == ([[START, "", 0, 1]] if 0 in kept else [])


def test_tokens_that_share_characters_are_one_place_and_roles_are_those_of_most_characters():
    prompt = compose([("a", "x"), ("𝛑b", "y"), (" c", "")])
    rows = pd.DataFrame(
        [(0, 0, 1, 2, "a𝛑", 0.25), (0, 1, 1, 2, "", 0.125), (0, 2, 2, 5, "b c", 0.5), (1, 2, 2, 5, "b c", 1.0)],
        columns=["layer", "token", "start", "stop", "text", "weight"],
    )
    rows.loc[rows["token"] == 0, "start"] = 0
    cut = cut_prompt(prompt, rows.assign(head=0), pd.MultiIndex.from_tuples([(0, 0), (1, 0)]))
    assert cut.pieces == [["a", "x", 0], ["𝛑", "y", 0], ["b", "y", 1], [" c", "", 1]]
    assert cut.roles == ["x", ""] and cut.weights.tolist() == [[0.375, 0.5], [0.0, 1.0]]


def test_both_margins_of_a_pair_before_and_after_an_intervention():
    (task,), _ = unpacked(text_of(TABLES))
    for m, size in enumerate(task["sizes"]):
        assert size["saved"] == ["block"] and {row["intervention"] for row in size["restoration"]} == {*KINDS.values()}
        for found in size["restored"]:
            assert found["pairs"] == ([1, 3] if found["split"] == "half_a" else [0, 2, 4])
            after = 2.5 if found["kind"] == "block" else 0.5
            for side, margins in found["margins"].items():
                assert margins == [[margin(m, i, side), margin(m, i, side) + after] for i in found["pairs"]]
        assert len(size["restored"]) == 4


def test_the_order_of_rows_does_not_matter_and_missing_values_stay_missing():
    shuffled = {name: table(t.name, t.frame.sample(frac=1, random_state=0), RUN) for name, t in TABLES.items()}
    (task,), array = unpacked(text_of(shuffled))
    (was,), before = unpacked(text_of(TABLES))
    for size, old in zip(task["sizes"], was["sizes"], strict=True):
        assert (array(size["values"]["total"], N, 6) == before(old["values"]["total"], N, 6)).all()
    without = TABLES | {"effects": table("effects", TABLES["effects"].frame.query("pair != 'p1'"), RUN)}
    (task,), array = unpacked(text_of(without))
    assert np.isnan(array(task["sizes"][0]["values"]["total"], N, 6)).any(axis=1).tolist() == [
        False,
        True,
        False,
        False,
        False,
    ]


def test_a_run_that_was_only_scored_or_traced():
    scored = {name: TABLES[name] for name in ("curve", "items")}
    (task,), _ = unpacked(text_of(scored))
    assert task["sizes"][0]["sites"] == [] and task["sizes"][0]["values"] == {} and task["sizes"][0]["lens"] is None
    traced = scored | {name: TABLES[name] for name in ("direct_effects", "lens", "attention")}
    (task,), _ = unpacked(text_of(traced))
    assert [site["name"] for site in task["sizes"][0]["sites"]] == [name for name, *_ in SITES]
    assert set(task["sizes"][0]["values"]) == {"conflict", "plain"}


def test_what_does_not_fit_is_thinned_out_to_the_pairs_that_the_strongest_sites_move_most():
    whole = text_of(TABLES)
    (task,), array = unpacked(text_of(TABLES, most=len(whole) - 1))
    for m, size in enumerate(task["sizes"]):
        kept = size["sample"]
        assert 0 < len(kept) < N and len(size["margins"]["plain"]) == len(task["pairs"]) == N
        known = np.array([[effect(m, i, s) for s in range(len(SITES))] for i in range(N)])
        strongest = np.abs(known).mean(axis=0).argmax()
        assert np.abs(known[:, strongest]).argmax() in kept
        np.testing.assert_allclose(array(size["values"]["total"], len(kept), len(SITES)), known[kept], atol=1e-3)
        assert set(size["tokens"]["pairs"]) < set(kept) and size["tokens"]["of"] == TRACED
    assert len(text_of(TABLES, most=1)) < len(whole)  # texts and margins stay, whatever is asked


def test_nothing_to_ask_leaves_the_page_without_a_script(tmp_path):
    assert text_of({"curve": TABLES["curve"]}) == "" and text_of(TABLES, [replace(pair(0), id="another")]) == ""
    page = write_report(tmp_path, {"curve": TABLES["curve"]}, {}, title="t", examples=PAIRS).read_text()
    assert "<script" not in page and "script-src" not in page


# --- the page -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return write_report(tmp_path_factory.mktemp("asked"), TABLES, {}, title="Why", examples=PAIRS)


class Scripts(HTMLParser):
    def __init__(self, content):
        super().__init__()
        self.found, self.policy, self.inside = [], "", False
        self.feed(content)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"]
        self.inside = tag == "script"
        if self.inside:
            self.found.append((given.get("type"), ""))

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.found[-1] = (self.found[-1][0], self.found[-1][1] + data)


def test_the_policy_lets_the_pages_own_script_run_alone(page):
    content = page.read_text(encoding="utf-8")
    scripts = Scripts(content)
    (kind, data), (module, script) = scripts.found
    assert (kind, module) == ("text/plain", "module") and re.fullmatch(r"[A-Za-z0-9+/=]+", data)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert scripts.policy == (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    assert "<!--" not in script and not re.search(r"^\s*(import|export) ", script, re.MULTILINE)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|\bfetch\b", script)
    again = write_report(page.parent / "again.html", TABLES, {}, title="Why", examples=PAIRS)
    assert again.read_bytes() == page.read_bytes()


SHOWN = "document.getElementById('explorer')?.hidden === false"
VIEWS = {
    "#": ["Over size", "a1.h1"],
    "#size=2k": ["The 2k model", "total effect", "5 of 5 pairs"],
    "#size=tiny-2k&by=plain": ["own write, plain prompt"],
    "#size=2k&case=overridden": ["1 of 5 pairs"],
    "#size=2k&step=lost": ["1 of 5 pairs"],
    "#size=2k&q=Input+3": ["1 of 5 pairs"],
    "#size=2k&role=modified_word": ["5 of 5 pairs"],
    "#size=2k&site=a1.h1": ["Site a1.h1 of the 2k model", "The pairs that a1.h1 moves most", "Where a1.h1 looks"],
    "#size=2k&site=m1": ["Site m1 of the 2k model"],
    "#size=2k&site=a1.h1&pair=0": ["Pair 0 in the 2k model: overridden", "conflict prompt: margin −1.50 nats", "70 %"],
    "#size=1k&pair=p4": ["Pair 4 in the 1k model: follows", "The lens by depth", "Mean of all heads"],
    "#size=7b": ["The page has no size 7b.", "Over size"],
    "#size=2k&site=a9.h9&pair=99": ["no site a9.h9", "no pair 99"],
}


def test_a_notebook_shows_the_page_in_a_frame(page):
    cell = im.show(page, height=400)._repr_html_()
    frame = re.fullmatch(
        r'<iframe title="report" [^>]*height="400"[^>]* (sandbox=.*?) srcdoc="([^"]*)"></iframe>', cell
    )
    assert frame and frame[1] == 'sandbox="allow-scripts allow-downloads"'  # no way to the notebook around it
    assert html.unescape(frame[2]) == page.read_text(encoding="utf-8")
    of_tables = im.show(PAIRS, TABLES).page
    assert re.search(r'id="explorer-data">([^<]+)<', of_tables)[1] == text_of(TABLES)
    one_by_one = im.show(PAIRS, *TABLES.values()).page
    assert re.search(r'id="explorer-data">([^<]+)<', one_by_one)[1] == text_of(TABLES)
    with pytest.raises(InputError, match="found no report.html, expected a folder that `isp-mech report` wrote"):
        im.show(page.parent / "nowhere")
    with pytest.raises(InputError, match="found no table with rows"):
        im.show(PAIRS)


@pytest.fixture(scope="module")
def cell(page):
    path = page.parent / "cell.html"
    path.write_text(f"<!DOCTYPE html><title>notebook</title>{im.show(page)._repr_html_()}", encoding="utf-8")
    return path


needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs a chromium on PATH to open the page")


@needs_browser
def test_a_browser_shows_every_view_asks_for_nothing_and_runs_no_text(page, tmp_path):
    with tab(tmp_path / "profile") as opened:
        opened.open(f"{page.as_uri()}#size=2k&site=a0.h0")
        opened.wait(SHOWN)
        assert "Site a0.h0 of the 2k model" in opened.run("document.getElementById('explorer').innerText")
        for address, expected in VIEWS.items():
            opened.run(f"location.hash = {address!r}")
            for words in expected:
                opened.wait(f"document.getElementById('explorer').innerText.includes({json.dumps(words)})")
        # from the first screen to where the strongest site looks on the pair that it moves most, by clicks alone
        opened.run("location.hash = ''")
        opened.wait("document.getElementById('ask-heading').innerText === 'Over size'")
        for link, then in (
            ("tbody tr:last-child td:last-child a", "Site a1.h1"),
            ("tbody a", "Pair 0 in the 2k model"),
        ):
            opened.run(f"document.querySelector('#explorer {link}').click()")
            opened.wait(f"document.getElementById('ask-heading').innerText.startsWith({then!r})")
        assert opened.run("document.activeElement.id") == "ask-heading"  # a screen reader reads on from there
        opened.run("history.back()")
        opened.wait("document.getElementById('ask-heading').innerText.startsWith('Site a1.h1')")
        # by keys: one square is in the order of Tab, and arrows lead from it to the next
        assert opened.run("document.querySelectorAll('#explorer svg a[tabindex=\"0\"]').length") == 1
        opened.run("document.querySelector('#explorer svg a[tabindex=\"0\"]').focus()")
        opened.call("Input.dispatchKeyEvent", type="keyDown", key="ArrowDown")
        assert opened.run("document.activeElement.getAttribute('aria-label')").startswith("a0.h1: ")
        assert opened.run("document.querySelectorAll('#explorer .save button').length") >= 3
        assert opened.run("document.title") == "Why"
        assert opened.run("document.querySelectorAll('script').length") == 2
        assert opened.faults() == [] and opened.requests() == [page.as_uri()]


@needs_browser
def test_without_scripts_and_on_paper_it_is_the_report_as_it_was(page, tmp_path):
    plain = write_report(tmp_path / "plain.html", {n: TABLES[n] for n in ("curve", "shares")}, {}, title="Why")
    assert 'id="explorer"' not in plain.read_text(encoding="utf-8")
    with tab(tmp_path / "profile") as opened:
        opened.open(page.as_uri())
        opened.wait(SHOWN)
        opened.call("Emulation.setEmulatedMedia", media="print")
        assert opened.run("getComputedStyle(document.getElementById('explorer')).display") == "none"
        printed = opened.run("document.body.innerText")
        opened.call("Emulation.setEmulatedMedia", media="")
        opened.call("Emulation.setScriptExecutionDisabled", value=True)
        opened.call("Page.reload")
        opened.wait("document.readyState === 'complete' && document.getElementById('explorer')?.innerText === ''")
        assert opened.run("document.body.innerText") == printed
        assert "What was found" in printed and "Ask the page" not in printed


@needs_browser
def test_several_tasks_are_asked_one_by_one(tmp_path):
    other = {name: t.frame.assign(task="neqa") for name, t in TABLES.items()}
    both = {name: table(t.name, pd.concat([t.frame, other[name]]), RUN) for name, t in TABLES.items()}
    path = write_report(tmp_path, both, {}, title="Both", examples=PAIRS)
    with tab(tmp_path / "profile") as opened:
        opened.open(f"{path.as_uri()}#size=2k&site=a1.h1")
        opened.wait(SHOWN)
        opened.run("document.getElementById('ask-task').value = 'neqa'")
        opened.run("document.getElementById('ask-task').dispatchEvent(new Event('change', { bubbles: true }))")
        opened.wait("document.getElementById('ask-heading').innerText === 'Over size'")
        assert opened.run("location.hash") == "#task=neqa"
        opened.run("document.querySelector('#explorer tbody a').click()")
        opened.wait("location.hash === '#task=neqa&size=tiny-1k'")
        assert opened.faults() == []


@needs_browser
def test_the_frame_in_a_notebook_can_be_asked_too(cell, tmp_path):
    with tab(tmp_path / "profile") as opened:
        opened.open(cell.as_uri())
        opened.enter_frame()
        opened.wait(SHOWN)
        opened.run("document.querySelector('#explorer tbody tr:last-child a').click()")
        opened.wait("document.getElementById('ask-heading').innerText === 'The 2k model'")
        assert opened.run("location.href") == "about:srcdoc#size=tiny-2k"
        opened.run("history.back()")
        opened.wait("document.getElementById('ask-heading').innerText === 'Over size'")
        assert opened.faults() == []


@needs_browser
def test_what_is_saved(page, tmp_path):
    """The buttons' files: a drawing that stands alone, and rows in which no text becomes a formula."""
    with tab(tmp_path / "profile") as opened:
        opened.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path), eventsEnabled=True)
        opened.open(f"{page.as_uri()}#size=1k")
        opened.wait(SHOWN)
        buttons = (
            "[...document.querySelectorAll('#explorer figure')].flatMap((f) => [...f.querySelectorAll('.save button')])"
        )
        count = opened.run(f"{buttons}.length")
        for place in range(count):
            opened.run(f"{buttons}[{place}].click()")
            opened.wait_for("Browser.downloadProgress", place + 1, state="completed")
        drawn, rows = tmp_path / "tiny-1k-map-total.svg", tmp_path / "tiny-1k-map-total.csv"
        svg = drawn.read_text(encoding="utf-8")
        assert svg.startswith("<svg") and 'xmlns="http://www.w3.org/2000/svg"' in svg and "<a" not in svg
        lines = [line.split(",") for line in rows.read_text(encoding="utf-8").splitlines()]
        assert lines[0] == ["site", "effect"] and [line[0] for line in lines[1:]] == [name for name, *_ in SITES]
        means = [np.mean([effect(0, i, s) for i in range(N)]) for s in range(len(SITES))]
        np.testing.assert_allclose([float(line[1]) for line in lines[1:]], means, rtol=1e-5)
        listed = (tmp_path / "tiny-1k-pairs.csv").read_text(encoding="utf-8").splitlines()
        assert [line.split(",")[1] for line in listed[1:]] == ["p0", "p1", "p2", "'=3+4", "p4"]
        assert len(listed[0].split(",")) == 5 and opened.faults() == []
