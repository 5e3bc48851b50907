"""For the documentation's build: scripts of docs/tutorials, in jupytext's percent format, become notebooks and pages.

A script is run as a notebook, in a folder of its own; what it prints and draws stands on its page, and the notebook can
be downloaded from there. A cell that fails stops the build. What goes to stderr (how far work is) is left out.
"""

from __future__ import annotations

import asyncio
import base64
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

_STYLE = re.compile(r"<style.*?</style>\n?|^ +|(?<=<table) border=\"1\" class=\"dataframe\"", re.M | re.S)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    from mkdocs.structure.files import File

    scripts = sorted(Path(config.docs_dir, "tutorials").glob("*.py"))
    for script, notebook in zip(scripts, executed(tuple(script.read_text(encoding="utf-8") for script in scripts))):
        for name, content in pages_of(notebook, script.stem.replace("_", "-")):
            files.append(File.generated(config, f"tutorials/{name}", content=content))
    return files


@cache  # `mkdocs serve` builds again for every page that changes
def executed(scripts: Sequence[str]) -> list[Any]:
    """The scripts as notebooks that were run, all at once."""
    import jupytext

    notebooks = [jupytext.reads(script, fmt="py:percent") for script in scripts]

    async def run_all() -> None:
        await asyncio.gather(*map(_run, notebooks))

    asyncio.run(run_all())
    return notebooks


async def _run(notebook: Any) -> None:
    from nbclient import NotebookClient
    from traitlets.config import Config

    notebook.metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "language_info": {"name": "python"},
    }
    with TemporaryDirectory() as sockets, TemporaryDirectory() as folder:
        by_file = {"transport": "ipc", "ip": f"{sockets}/kernel"}  # no port is opened
        settings = Config(NotebookClient={"record_timing": False}, KernelManager=by_file)
        client = NotebookClient(notebook, config=settings, resources={"metadata": {"path": folder}})
        await client.async_execute(env=os.environ | {"OMP_NUM_THREADS": "1"})  # others run beside it
    for i, cell in enumerate(notebook.cells):
        cell.id = f"cell-{i}"  # the same in every build
        if cell.cell_type == "code":
            cell.outputs = shown_outputs(cell.outputs)


def shown_outputs(outputs: Sequence[Any]) -> list[Any]:
    """Without stderr; what is printed without anything drawn between is one piece."""
    kept: list[Any] = []
    for output in outputs:
        if output.get("name") == "stderr":
            continue
        if kept and output.get("name") == kept[-1].get("name") == "stdout":
            kept[-1]["text"] += output["text"]
        else:
            kept.append(output)
    return kept


def pages_of(notebook: Mapping[str, Any], name: str) -> Iterator[tuple[str, str | bytes]]:
    """The files of a notebook that was run, by name: its page, the pictures on it, and the notebook itself."""
    import nbformat

    pictures: dict[str, bytes] = {}
    yield f"{name}.md", page_of(notebook, name, pictures)
    yield from pictures.items()
    yield f"{name}.ipynb", nbformat.writes(notebook)


def page_of(notebook: Mapping[str, Any], name: str, pictures: dict[str, bytes]) -> str:
    """Text as it is, code in blocks, and under each what it prints and draws; ``pictures`` takes the PNG files."""
    parts = []
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            parts.append(cell["source"])
        else:
            code = cell["source"].strip()
            parts.append(f"```python\n{code}\n```")
            parts += [_shown(output, f"Drawn by {code.splitlines()[-1]}", name, pictures) for output in cell["outputs"]]
    download = f"[This page as a notebook]({name}.ipynb). What stands under the code is what it printed and drew.\n"
    return "\n\n".join([parts[0], download, *parts[1:]]) + "\n"


def _shown(output: Mapping[str, Any], drawn_by: str, name: str, pictures: dict[str, bytes]) -> str:
    if output["output_type"] == "stream":
        return _text(output["text"])
    data = output["data"]
    if "image/png" in data:
        file = f"{name}-{len(pictures) + 1}.png"
        pictures[file] = base64.b64decode(data["image/png"])
        return f"![{drawn_by}]({file})"
    if "text/html" in data:  # a table of pandas: in the page's own style
        return _STYLE.sub("", data["text/html"])
    return _text(data["text/plain"])


def _text(text: str) -> str:
    return f"```text\n{text.rstrip()}\n```"
