"""Tasks in the prize's own formats: items to score, read from CSV or JSONL and written back.

    >>> task = Task("coin", (Item("0", "Heads or tails? A. heads B. tails Answer:", (" A", " B"), 0),))
    >>> task.metric, task.equally_likely, len(task)
    ('classification', True, 1)

Files are read with ``csv``, ``json`` and ``ast.literal_eval``: no type is guessed, so that the class
" 4" keeps its space and the class "None" stays a text.
"""

from __future__ import annotations

from isp_mech.tasks.items import METRICS, Item, Metric, Task
from isp_mech.tasks.pairs import Pair, PairSet, PairSide, Prompt, Side, check_one_factor, compose, fill
from isp_mech.tasks.prize_files import read_task, write_task

__all__ = [
    "METRICS", "Item", "Metric", "Pair", "PairSet", "PairSide", "Prompt", "Side", "Task", "check_one_factor", "compose",
    "fill", "read_task", "write_task",
]  # fmt: skip
