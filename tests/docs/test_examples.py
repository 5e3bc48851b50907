"""Every public name has an example that runs: in its own docstring, or on a page or in a tutorial.

Public is what ``isp_mech.__all__``, the face's modules and the API pages name. A class that nobody makes by hand (what
a function returns, a part of such a thing) has the example of what gives it.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterable

import pytest
from doc_pages import PAGES, ROOT, blocks_of

import isp_mech as im

FACE = ("causal", "contrasts", "figures", "scaling", "tracing")
NOT_RUN = {"train_one", "Recipe"}  # in a block that is skipped: it trains a model
_ENTRY = re.compile(r"^::: (\S+)\n((?:    .*\n|\n(?=    ))*)", re.M)
_MEMBERS = re.compile(r"members: \[(.*?)\]")


def get(dotted: str) -> object:
    """The module of this name, or what stands in one under the last part of it."""
    home, _, name = dotted.rpartition(".")
    module = importlib.import_module(home)
    return getattr(module, name) if hasattr(module, name) else importlib.import_module(dotted)


def is_shown(value: object) -> bool:
    return inspect.isclass(value) or inspect.isroutine(value)


def in_api_pages() -> dict[str, object]:
    """Functions and classes that the API pages document, by dotted name; of a module its members."""
    found: dict[str, object] = {}
    for page in sorted((ROOT / "docs" / "api").glob("*.md")):
        for dotted, options in _ENTRY.findall(page.read_text(encoding="utf-8") + "\n"):
            value = get(dotted)
            if not inspect.ismodule(value):
                found[dotted] = value
                continue
            listed = _MEMBERS.search(options)
            own = [name for name, one in vars(value).items() if getattr(one, "__module__", "") == dotted]
            names = listed[1].split(", ") if listed else [name for name in own if not name.startswith("_")]
            found |= {f"{dotted}.{name}": getattr(value, name) for name in names}
    return {name: value for name, value in found.items() if is_shown(value)}


def in_the_face() -> dict[str, object]:
    """Functions and classes of ``isp_mech`` and of its modules for what goes beyond it."""
    modules = {"isp_mech": im} | {f"isp_mech.{name}": importlib.import_module(f"isp_mech.{name}") for name in FACE}
    found = {f"{home}.{name}": getattr(module, name) for home, module in modules.items() for name in module.__all__}
    return {name: value for name, value in found.items() if is_shown(value)}


def named_in(source: str) -> Iterable[object]:
    """What of the package some code names: what it imports, and attributes of that."""
    known: dict[str, object] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            known |= {at.asname or at.name: im for at in node.names if at.name == "isp_mech"}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "isp_mech":
            known |= {at.asname or at.name: get(f"{node.module}.{at.name}") for at in node.names}
    yield from known.values()
    for node in ast.walk(ast.parse(source)):
        value = value_of(node, known) if isinstance(node, ast.Attribute) else None
        if value is not None:
            yield value


def value_of(node: ast.AST, known: dict[str, object]) -> object:
    """What a chain of attributes stands for, as far as it is of modules; None for any other."""
    if isinstance(node, ast.Name):
        return known.get(node.id)
    if isinstance(node, ast.Attribute):
        home = value_of(node.value, known)
        return getattr(home, node.attr, None) if inspect.ismodule(home) else None
    return None


@pytest.fixture(scope="module")
def on_pages() -> set[int]:
    """Ids of what the code on the pages and in the tutorials names, where that code is run."""
    sources = [
        "\n".join(b.text for b in blocks_of(page) if b.language == "python" and not b.note.startswith("skip"))
        for page in PAGES
    ]
    sources += [path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs" / "tutorials").glob("*.py"))]
    return {id(value) for source in sources for value in named_in(source)}


def has_own(value: object) -> bool:
    """Whether its docstring has an example with itself in it."""
    lines = re.findall(r"^ *(?:>>>|\.\.\.) (.*)$", getattr(value, "__doc__", None) or "", re.M)
    return any(re.search(rf"\b{value.__name__}\b", line) for line in lines)


def given_by(value: object) -> set[str]:
    """Words in the annotations of what a function returns, or of a class's fields and its methods' returns."""
    annotations = inspect.get_annotations(value)
    if inspect.isclass(value):
        told = [*annotations.values(), *map(returned, vars(value).values())]
    else:
        told = [annotations.get("return")]
    return {word for one in told for word in re.findall(r"\w+", str(one))}


def returned(member: object) -> object:
    """What a class's member is annotated to return; None for one that is no function."""
    inside = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
    return inspect.get_annotations(inside).get("return") if inspect.isfunction(inside) else None


def without_example(public: dict[str, object], on_pages: set[int]) -> list[str]:
    shown = {name for name, value in public.items() if id(value) in on_pages or has_own(value)}
    while True:
        words = set().union(*(given_by(public[name]) for name in shown))
        new = {name for name, v in public.items() if name not in shown and inspect.isclass(v) and v.__name__ in words}
        if not new:
            return sorted(name for name in public if name not in shown and name.rpartition(".")[2] not in NOT_RUN)
        shown |= new


def test_every_public_name_has_an_example(on_pages):
    public = in_the_face() | in_api_pages()
    assert len(public) > 180
    assert not without_example(public, on_pages)


def test_every_name_of_the_face_is_in_the_api_pages():
    shown = {id(value) for value in in_api_pages().values()}
    assert not [name for name, value in in_the_face().items() if id(value) not in shown]


def test_what_is_not_run_is_on_a_page_all_the_same():
    skipped = "\n".join(b.text for page in PAGES for b in blocks_of(page) if b.note.startswith("skip"))
    assert all(re.search(rf"\b{name}\(", skipped) for name in NOT_RUN)


# --- the check itself ---------------------------------------------------------------------------


def bare() -> Result:
    """No example."""


def shown_below() -> None:
    """One.

    >>> shown_below()
    """


def about_another() -> None:
    """Another's.

    >>> shown_below()
    """


class Result:
    """What ``bare`` gives; it holds a ``Part``."""

    part: Part


class Part:
    """In a ``Result``."""


PUBLIC = {value.__name__: value for value in (bare, shown_below, about_another, Result, Part)}


def test_what_has_no_example_is_found():
    assert without_example(PUBLIC, set()) == ["Part", "Result", "about_another", "bare"]
    assert without_example(PUBLIC, {id(bare)}) == ["about_another"]  # a result's parts too


def test_code_names_what_it_imports_and_reaches_by_attributes():
    code = "import isp_mech as im\nfrom isp_mech.scaling import summaries as s\ns.onset(x.shares)\nim.figures.save\n"
    found = set(map(id, named_in(code)))
    from isp_mech.scaling import summaries

    assert {id(summaries.onset), id(im.figures.save), id(im)} <= found
    assert id(summaries.shares) not in found and id(im.figures.override_map) not in found
