"""One page that says what was found: ``report.html``, a single file that needs no network and runs no script."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from isp_mech.errors import InputError
from isp_mech.report import html as page
from isp_mech.report.cautions import cautions, limits
from isp_mech.report.findings import findings
from isp_mech.report.sizes import of_each_size
from isp_mech.report.stylesheet import STYLE
from isp_mech.report.task_rows import story
from isp_mech.tables import Table
from isp_mech.tasks import Pair

__all__ = ["findings", "of_each_size", "story", "write_report"]


def write_report(
    path: str | Path,
    tables: Mapping[str, Table],
    figures: Mapping[str, Figure | str | Path],
    *,
    title: str,
    examples: Sequence[Pair] = (),
) -> Path:
    """The path of the page written: what was found in words, an example, the figures, each size, how it was made.

    ``path`` is the file, or a folder that gets ``report.html``. ``figures`` maps a figure function's
    name (``scaling_curve``, ..., or ``task/scaling_curve``) to a Figure or to an SVG or PNG file; all
    are put into the page itself. Texts from data are shown and cannot act. Equal input gives equal
    bytes. ``InputError`` for no tables, or a figure file that is missing or of another kind.
    """
    if not any(len(table) for table in tables.values()):
        raise InputError("report", ["found no table with rows, expected at least one"])
    path = Path(path)
    path = path / "report.html" if path.is_dir() else path
    path.parent.mkdir(parents=True, exist_ok=True)
    content = _page(tables, figures, title, examples)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.write_text(content, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _page(
    tables: Mapping[str, Table], figures: Mapping[str, Figure | str | Path], title: str, examples: Sequence[Pair]
) -> str:
    told = [story(tables, task) for task in _tasks(tables)]
    several = len(told) > 1
    sections = [f'<h1>{page.text(title)}</h1>\n<p class="lead">{page.text(_subtitle(tables))}</p>']
    found = ""
    for one in told:
        found += f"<h3>{page.text(one.task)}</h3>\n" if several else ""
        found += f'<div class="finding">\n{page.paragraphs(findings(one))}\n</div>\n'
    sections.append(f"<h2>What was found</h2>\n{found}")
    if examples:
        sections.append(f"<h2>An example</h2>\n{page.example(examples[0])}")
    if figures:
        drawn = "\n".join(page.figure(name, source, i) for i, (name, source) in enumerate(figures.items(), 1))
        sections.append(f"<h2>Figures</h2>\n{drawn}")
    for one in told:
        sizes = of_each_size(one)
        if sizes:
            heading = "Size by size" + (f": {one.task}" if several else "")
            sections.append(f"<h2>{page.text(heading)}</h2>\n{page.sizes_list(sizes)}\n{page.strongest(one)}")
    mind = list(dict.fromkeys(line for one in told for line in cautions(one, tables)))
    if mind:
        sections.append(f"<h2>To keep in mind</h2>\n{page.bullets(mind)}")
    sections.append(f"<h2>What these numbers are not evidence of</h2>\n{page.bullets(limits(tables))}")
    sections.append(f"<h2>How it was made</h2>\n{page.provenance(tables)}")
    body = "\n".join(f"<section>\n{section}\n</section>" for section in sections)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{page.POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{page.text(title)}</title>
<link rel="icon" href="data:,">
<style>
{STYLE}
</style>
</head>
<body>
{body}
</body>
</html>
"""


def _subtitle(tables: Mapping[str, Table]) -> str:
    columns = [table.frame[["n_params", "model"]].drop_duplicates() for table in tables.values()]
    sizes = {size for frame in columns for size in frame.itertuples(index=False, name=None)}
    models = [model for _, model in sorted(sizes)]
    return f"{', '.join(_tasks(tables))}; {len(models)} model{'s' if len(models) > 1 else ''}: {', '.join(models)}"


def _tasks(tables: Mapping[str, Table]) -> list[str]:
    return list(dict.fromkeys(task for table in tables.values() for task in table.frame["task"].unique()))
