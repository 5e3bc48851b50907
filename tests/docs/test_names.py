"""What the pages name is there: modules, attributes, files, make targets, API entries, links."""

from __future__ import annotations

import importlib
import re
import tomllib
import warnings
from inspect import ismodule
from pathlib import Path

import pytest

import isp_mech as im
from isp_mech.runs.settings import DECLARED

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / ".github").rglob("*.md")])
TEXTS = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8") for page in PAGES}

_DOTTED = re.compile(r"(?<![\w./])(isp_mech|im)((?:\.[A-Za-z_]\w*)+)")
_FILE = re.compile(r"(?<![\w./])((?:isp_mech|tests|experiments|docs)/[\w./-]*\.(?:py|tsv|md|toml))")
_TARGET = re.compile(r"(?:^ *|`)make ([a-z][a-z-]*)", re.M)
_HELD_BY = re.compile(r"`(\w+)` in `(isp_mech/[\w./]+\.py)`")
_LINK = re.compile(r"\]\((?!https?://|#|mailto:)([^)#\s]+)(?:#([^)\s]+))?\)")
_ENTRY = re.compile(r"^::: (\S+)", re.M)


def resolve(name: str) -> object:
    """What a dotted name stands for: the longest part that is a module, then attributes. ``AttributeError`` if none."""
    parts = re.sub(r"^im\.", "isp_mech.", name).split(".")
    for n in range(len(parts), 0, -1):
        try:
            value: object = importlib.import_module(".".join(parts[:n]))
        except ModuleNotFoundError:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("error", DeprecationWarning)  # pages name no old names
            for part in parts[n:]:
                value = getattr(value, part)
        return value
    raise AttributeError(name)


def named(pattern: re.Pattern[str]) -> list[tuple[str, str]]:
    """Every page and what the pattern finds on it."""
    return sorted({(page, match[0]) for page, text in TEXTS.items() for match in pattern.finditer(text)})


def resolves(name: str) -> bool:
    try:
        resolve(name)
    except (AttributeError, DeprecationWarning):
        return False
    return True


def test_modules_and_attributes_are_there():
    names = [(page, name) for page, name in named(_DOTTED) if not name.endswith(".NAME")]  # NAME: any
    assert len(names) > 50
    assert not [f"{page}: {name}" for page, name in names if not resolves(name)]


def test_a_name_that_is_not_there_is_seen():
    assert resolves("im.causal.locate") and resolves("isp_mech.causal.verify.verify")
    assert not resolves("im.causal.stand_ins") and not resolves("isp_mech.intervening.scale_sites")


def test_files_are_there():
    files = named(_FILE)
    assert len(files) > 50
    assert not [f"{page}: {file}" for page, file in files if not (ROOT / file).exists()]


def test_make_targets_are_there():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named_targets = {(page, match[1]) for page, text in TEXTS.items() for match in _TARGET.finditer(text)}
    assert named_targets and not [f"{page}: make {name}" for page, name in named_targets if name not in targets]


def test_names_are_in_the_files_that_are_said_to_hold_them():
    held = [(match[1], match[2]) for text in TEXTS.values() for match in _HELD_BY.finditer(text)]
    assert held and not [f"{name}: {file}" for name, file in held if name not in (ROOT / file).read_text("utf-8")]


def slug(heading: str) -> str:
    return re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", heading.replace("`", "")).strip().lower())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for file, anchor in _LINK.findall(TEXTS[str(page.relative_to(ROOT))]):
        target = page.parent / file
        if re.fullmatch(r"tutorials/[a-z-]+\.md", file):  # a page that the build makes of a script
            target = target.with_name(f"{target.stem.replace('-', '_')}.py")
        assert target.exists(), f"{page}: {file}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.M)
            assert anchor in {slug(heading) for heading in headings}, f"{page}: {file}#{anchor}"


def test_every_public_name_is_in_the_api_pages():
    entries = {entry for text in TEXTS.values() for entry in _ENTRY.findall(text)}
    assert entries and all(resolves(entry) for entry in entries)
    shown = {id(resolve(entry)) for entry in entries}
    public = {name: getattr(im, name) for name in im.__all__ if name != "__version__"}
    assert not [name for name, value in public.items() if not ismodule(value) and id(value) not in shown]


def test_the_layout_page_has_the_floors_that_are_checked():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    layers = [set(layer.split(" | ")) for layer in contracts[0]["layers"] if layer != "__main__"]
    checked = {name: len(layers) - i for i, layer in enumerate(layers) for name in layer}
    rows = re.findall(r"^\| (\d) \| `(\w+)(?:/|\.py)` \|", TEXTS["docs/layout.md"], re.M)
    assert {name: int(floor) for floor, name in rows} == checked
    rooms = {
        path.stem for path in (ROOT / "isp_mech").iterdir() if path.name[0] not in "_." and path.name != "py.typed"
    }
    assert set(checked) == rooms


def test_the_page_on_runs_has_every_setting_with_its_default():
    rows = re.findall(r"^\| (`[a-z_`, ]+`) \|([^|]*)\|", TEXTS["docs/runs.md"], re.M)
    shown = {}
    for names, defaults in rows:
        shown |= dict(zip(re.findall(r"`(\w+)`", names), re.findall(r"[\w.]+", defaults) or ["None"], strict=True))
    plain = {
        name: next(iter(told.default), None) if isinstance(told.default, tuple) else told.default
        for name, told in DECLARED.items()
    }
    assert shown == {"n": "300", **{name: str(value) or "None" for name, value in plain.items()}, "threads": "1"}
