from __future__ import annotations

import ast
import json
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import isp_mech

PACKAGE = Path(isp_mech.__file__).parent


def _modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


MODULES = dict(_modules())


def _imports(path, *, everywhere):
    """Names of the modules a file imports; with ``everywhere``, inside functions too. Typing's own are left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in ast.walk(tree) if everywhere else _at_module_level(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else str(node.module)


def _at_module_level(tree):
    stack = list(tree.body)
    while stack:
        node = stack.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            stack.extend(ast.iter_child_nodes(node))


@pytest.mark.parametrize("everywhere", [False, True], ids=["module level", "inside functions too"])
def test_no_cycles(everywhere):
    graph = {
        name: {found for found in _imports(path, everywhere=everywhere) if found in MODULES and found != "isp_mech"}
        - {name}
        for name, path in MODULES.items()
    }
    tuple(TopologicalSorter(graph).static_order())  # raises CycleError, which names the cycle


def test_only_models_and_the_ladders_training_import_transformers():
    importers = {
        name
        for name, path in MODULES.items()
        if any(found.split(".")[0] in ("transformers", "transformer_lens") for found in _imports(path, everywhere=True))
    }
    assert {name for name in importers if not name.startswith("isp_mech.models")} <= {
        "isp_mech.ladder.train",
        "isp_mech.ladder.evaluation",
    }
    assert "isp_mech.models.loading" in importers


HEAVY = ("torch", "transformers", "transformer_lens")


def _loaded_by(*modules):
    """``{module: heavy packages there once it and those before it are imported}``, in one process."""
    program = (
        "import importlib, json, sys\nfound = {}\n"
        f"for module in {modules!r}:\n"
        "    importlib.import_module(module)\n"
        f"    found[module] = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "print(json.dumps(found))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


LIGHT = (
    "sites tables runs stats tasks contrasts families scaling figures report cli "
    "runs.explain runs.execute runs.worker runs.plans"
)


def test_light_rooms_import_without_torch():
    rooms = ("isp_mech", *(f"isp_mech.{room}" for room in LIGHT.split()))
    assert _loaded_by(*rooms) == {room: [] for room in rooms}


def test_the_check_sees_torch_where_it_is():
    assert _loaded_by("isp_mech", "isp_mech.models") == {
        "isp_mech": [],
        "isp_mech.models": ["torch", "transformers"],  # transformer_lens is read when a model is loaded
    }


def test_the_public_face():
    assert set(isp_mech.__all__) == {"__version__", *isp_mech._MODULES, *isp_mech._HOME}
    for name in isp_mech.__all__:
        assert getattr(isp_mech, name) is not None and name in dir(isp_mech)
    with pytest.raises(AttributeError, match="module 'isp_mech' has no attribute 'nothing'"):
        _ = isp_mech.nothing


def test_the_package_loads_no_pandas_until_asked():
    program = "import isp_mech, sys; print('pandas' in sys.modules); isp_mech.Table; print('pandas' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_the_version_is_the_packages():
    from importlib.metadata import version

    assert isp_mech.__version__ == version("isp_mech")
