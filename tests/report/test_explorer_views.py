"""Clicking through the page: every view of every size, the way to where a site looks, and what axe finds wrong."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from asked_tables import PAIRS, SITES, TABLES, TRACED, N, effect, looks, margin, tokens
from browser import CHROMIUM, tab

from isp_mech.report import write_report

AXE = find_spec("axe_core_python")
SHOWN = "document.getElementById('explorer')?.hidden === false"
HEADING = "document.getElementById('ask-heading').innerText"
VIEWS = (
    "",
    "size=2k",
    "size=1k&site=a1.h1",
    "size=2k&site=m1",
    "size=2k&site=a1.h1&pair=0",
    "size=1k&pair=4",
    "size=7b",
)
LOOK = """({
  address: location.hash.slice(1),
  heading: document.getElementById("ask-heading").innerText,
  bad: /undefined|NaN|\\[object/.exec(document.getElementById("explorer").innerText)?.[0] ?? "",
  buttons: document.querySelectorAll("#explorer .save button").length,
  links: [...document.querySelectorAll("#explorer a[href^='#']")].map((link) => link.getAttribute("href").slice(1)),
  choices: [...document.querySelectorAll("#explorer select")].flatMap((select) =>
    [...select.options].filter((each) => !each.selected).map((each) => [select.id, each.value])),
})"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a chromium on PATH to open the page")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return write_report(tmp_path_factory.mktemp("asked"), TABLES, {}, title="Why", examples=PAIRS)


@pytest.fixture(scope="module")
def opened(page, tmp_path_factory):
    """One browser for all."""
    with tab(tmp_path_factory.mktemp("profile")) as one:
        one.open(page.as_uri())
        one.wait(SHOWN)
        yield one


def acted(opened, act):
    """What the page is once it has turned to the address that ``act`` leads to."""
    turned = "new Promise((done) => addEventListener('hashchange', done, { once: true }))"
    return opened.run(f"(() => {{ const turned = {turned}; {act}; return turned.then(() => {LOOK}); }})()")


def turn(opened, to):
    if opened.run("location.hash.slice(1)") != to:
        acted(opened, f"location.hash = {to!r}")


def click(opened, to):
    link = f"document.querySelector('#explorer a[href=\"#' + CSS.escape({to!r}).replaceAll('\\\\', '') + '\"]')"
    return acted(opened, f"{link}.dispatchEvent(new MouseEvent('click', {{ bubbles: true, cancelable: true }}))")


def choose(opened, key, value):
    select = f"document.getElementById({key!r})"
    act = f"{select}.value = {value!r}; {select}.dispatchEvent(new Event('change', {{ bubbles: true }}))"
    return acted(opened, act)


def test_every_view_of_every_size_is_clicked_without_an_error(opened, page):
    here = opened.run(LOOK)
    seen, from_where = {here["address"]: here}, {}
    while True:  # on from where it is, as long as something new is linked there, else from elsewhere
        from_where |= {to: here["address"] for to in here["links"] if to not in seen}
        new = [to for to in from_where if to not in seen and not re.search(r"(^|&)(look|all)=", to)]
        if not new:
            break
        to = next((to for to in new if to in here["links"]), new[0])
        turn(opened, here["address"] if to in here["links"] else from_where[to])
        seen[to] = here = click(opened, to)
    assert len(seen) >= 60
    for start in ("size=tiny-2k", "size=tiny-2k&site=a1.h1", "size=tiny-2k&site=a1.h1&pair=0"):
        for key, value in seen[start]["choices"]:
            turn(opened, start)
            chosen = choose(opened, key, value)
            seen[chosen["address"]] = chosen
    assert all(each["heading"] and not each["bad"] and each["buttons"] for each in seen.values())
    headings = {each["heading"] for each in seen.values()}
    for label in ("1k", "2k"):
        assert {f"Site {name} of the {label} model" for name, *_ in SITES} < headings
        assert sum(f" in the {label} model: " in heading for heading in headings) == N
    assert opened.faults() == [] and opened.requests() == [page.as_uri()]
    assert opened.run("document.title") == "Why" and opened.run("document.querySelectorAll('script').length") == 2


@pytest.mark.parametrize(("model", "label"), [(0, "1k"), (1, "2k")])
def test_where_the_strongest_site_looks_on_the_pair_it_moves_most_is_four_clicks_away(opened, model, label):
    size = np.array([[abs(effect(model, i, s)) for s in range(len(SITES))] for i in range(N)])
    site = int(size.mean(axis=0).argmax())
    most = size[:, site].argsort()[::-1]
    clicks = 0

    def press(link):
        nonlocal clicks
        clicks += 1
        return acted(opened, f"{link}.click()")["heading"]

    turn(opened, "")
    best = f"document.querySelectorAll('#explorer tbody tr')[{model}].querySelector('td:last-child a')"
    assert press(best) == f"Site {SITES[site][0]} of the {label} model"
    shown = opened.run("[...document.querySelectorAll('table[aria-label=Pairs] tbody a')].map((a) => a.innerText)")
    assert [text.split(":")[0] for text in shown[:3]] == [str(i) for i in most[:3]]
    opens = press("document.querySelector('table[aria-label=Pairs] tbody a')")
    assert opens.startswith(f"Pair {most[0]} in the {label} model")
    assert SITES[site][2] == "head" and most[0] < TRACED
    whole = tokens(PAIRS[most[0]].conflict)
    weights = looks(model, site, len(whole))
    assert opened.run("document.getElementById('ask-look').value") == SITES[site][0]
    table = "document.querySelector('table[aria-label=\"Attention by token\"] tbody')"
    first = opened.run(f"[...{table}.rows[0].cells].map((cell) => cell.textContent)")
    text = whole[weights.argmax()][2].replace("\x1b", "\\x1b").replace("\u202e", "\\u202e")
    assert first[1].startswith(f"“{text}”") and first[2] == f"{100 * weights.max():.1f} %"
    assert clicks <= 4


def test_a_token_says_its_share_when_it_is_pointed_at_or_reached_by_keys(opened):
    turn(opened, "size=2k&site=a0.h1&pair=0")
    opened.wait(f"{HEADING}.startsWith('Pair 0 in the 2k model')")
    whole = tokens(PAIRS[0].conflict)
    weights = looks(1, 1, len(whole))
    stop = "document.querySelector('#explorer pre mark[tabindex=\"0\"]')"
    reading = "document.querySelector('#explorer .reading').textContent"
    stops = "document.querySelectorAll('#explorer .cards > div:first-child mark[tabindex=\"0\"]').length"
    assert opened.run(stops) == 1
    opened.run(f"{stop}.focus()")
    assert "60.0 %" in opened.run(reading) and whole[weights.argmax()][2].strip() in opened.run(reading)
    opened.call("Input.dispatchKeyEvent", type="keyDown", key="End")
    assert opened.run("document.activeElement.textContent") == "green0"
    assert opened.run(reading) == "“ green0” (modified word): 40.0 %"
    shade = "document.activeElement.style.getPropertyValue('--share')"
    assert opened.run(shade) == "67%"  # of the strongest, 0.6
    # of a layer, and of all heads: the mean; each head has 0.6 at a place of its own
    for look, own in (("a0", 0.6 / 2), ("all", 0.6 / 4)):
        turn(opened, f"size=2k&pair=0&look={look}")
        marks = "document.querySelectorAll('#explorer .cards > div:first-child mark')"
        titles = opened.run(f"[...{marks}].map((mark) => mark.title)")
        assert titles[0].endswith(f": {100 * own:.1f} %") and titles[-1] == "“ green0” (modified word): 40.0 %"


def test_a_pair_shows_its_margins_before_and_after(opened):
    turn(opened, "size=2k&pair=0")
    opened.wait(f"{HEADING}.startsWith('Pair 0 in the 2k model: overridden')")
    rows = "document.querySelector('table[aria-label=\"Before and after an intervention\"] tbody').rows"
    shown = opened.run(f"[...{rows}].map((row) => [...row.cells].map((cell) => cell.textContent))")
    assert margin(1, 0, "conflict") == -1.5 and margin(1, 0, "plain") == -1.5
    assert shown == [
        ["block", "blocking attention to instruction", "−1.50\u00a0→ +1.00", "−1.50\u00a0→ +1.00", "contrary", "yes"],
        ["scale", "scaling a0.h1 by 0", "−1.50\u00a0→ −1.00", "−1.50\u00a0→ −1.00", "overridden", "no"],
    ]


def test_headings_and_landmarks(opened):
    assert opened.run("[...document.body.children].map((each) => each.tagName)") == ["MAIN", "SCRIPT", "SCRIPT"]
    for view in VIEWS:
        turn(opened, view)
        levels = opened.run("[...document.querySelectorAll('h1,h2,h3,h4')].map((h) => Number(h.tagName[1]))")
        assert levels[0] == 1 and levels.count(1) == 1 and max(np.diff(levels)) <= 1, view


@pytest.mark.skipif(AXE is None, reason="needs axe-core-python, which carries axe")
@pytest.mark.parametrize("mode", ["light", "dark"])
def test_axe_finds_nothing_serious(opened, mode):
    script = (Path(AXE.origin).parent / "axe.min.js").read_text(encoding="utf-8")
    opened.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": mode}])
    opened.run(f"{script}; 0")  # into this test's page, never into one that is written
    for view in VIEWS:
        turn(opened, view)
        found = opened.run("axe.run(document, { resultTypes: ['violations'] }).then((found) => found.violations)")
        grave = [each for each in found if each["impact"] in ("serious", "critical")]
        told = [(each["id"], [node["html"][:200] for node in each["nodes"]][:3]) for each in grave]
        assert not told, f"{view}: {json.dumps(told, indent=1)}"
    opened.call("Emulation.setEmulatedMedia", features=[])
