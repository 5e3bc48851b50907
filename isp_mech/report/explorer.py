"""The part of the page that can be asked: its data, its one script, and the policy that lets this script alone run."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markupsafe import Markup

from isp_mech.report.explorer_data import packed
from isp_mech.report.task_rows import TaskRows
from isp_mech.tables import Table
from isp_mech.tasks import Pair

# each needs those before it
MODULES = ("explorer_data.js", "explorer_draw.js", "explorer_views.js", "explorer_pair.js", "explorer.js")
NO_SCRIPT = Markup("default-src 'none'; img-src data:; style-src 'unsafe-inline'")


@dataclass(frozen=True)
class Explorer:
    """What goes into the page: base64 ``data``, the ``script`` as it stands there, and the page's security policy."""

    data: str
    script: Markup
    policy: Markup


def explorer(tables: Iterable[Table], parts: Sequence[TaskRows], pairs: Sequence[Pair]) -> Explorer | None:
    """What makes a page that can be asked of these pairs; None where the tables have no scores of single pairs."""
    data = packed(tables, parts, pairs)
    if not data:
        return None
    script = _script()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    policy = NO_SCRIPT + Markup(f"; script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'")
    return Explorer(data, Markup(script), policy)


@cache
def _script() -> str:
    """The modules as one, so that one file holds all: what they import from one another stands before it."""
    texts = (Path(__file__).with_name(name).read_text(encoding="utf-8") for name in MODULES)
    return "\n" + "".join(re.sub(r"^(import .*\n|export )", "", text, flags=re.MULTILINE) for text in texts)
