"""For the documentation's build: scripts of docs/tutorials, in jupytext's percent format, become pages."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

_CELL = re.compile(r"^# %%(?P<markdown> \[markdown\])?\n(?P<text>.*?)(?=^# %%|\Z)", re.M | re.S)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    from mkdocs.structure.files import File

    for script in sorted(Path(config.docs_dir, "tutorials").glob("*.py")):
        name = f"tutorials/{script.stem.replace('_', '-')}.md"
        files.append(File.generated(config, name, content=page_of(script.read_text(encoding="utf-8"))))
    return files


def page_of(script: str) -> str:
    """The script's text cells as they are, and its code in blocks."""
    return "\n".join(_text(cell) if cell["markdown"] else f"```python\n{cell['text'].strip()}\n```\n"
                     for cell in _CELL.finditer(script))  # fmt: skip


def _text(cell: re.Match[str]) -> str:
    return re.sub(r"^# ?", "", cell["text"], flags=re.M).strip() + "\n"
