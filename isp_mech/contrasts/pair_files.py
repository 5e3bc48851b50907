"""Pairs as a file: JSON lines, a head with the set's name and then one pair a line, so that a run's pairs
can be looked at, changed and used again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from isp_mech.errors import InputError
from isp_mech.tables import write_whole
from isp_mech.tasks import Pair, PairSet, Prompt, check_one_factor
from isp_mech.tasks.text_files import json_rows, read_text

FORMAT = "isp_mech pairs 1"
_TEXTS = ("id", "answer", "lure", "factor")
_OPTIONAL = ("neutral_answer", "neutral_lure")


def write_pairs(pairs: PairSet, path: str | Path) -> Path:
    """The path written: every pair with its prompts, roles and completions. ``read_pairs`` gives an equal set."""
    return write_whole(path, pairs_text(pairs).encode())


def pairs_text(pairs: PairSet) -> str:
    """The text of the file that ``write_pairs`` writes."""
    head = {
        "format": FORMAT,
        "name": pairs.name,
        "citation": pairs.citation,
        "equally_likely": pairs.equally_likely,
        "seed": pairs.seed,
    }
    lines = [json.dumps(row, ensure_ascii=False) for row in (head, *(_row(pair) for pair in pairs))]
    return "\n".join(lines) + "\n"


def _row(pair: Pair) -> dict[str, Any]:
    row: dict[str, Any] = {name: getattr(pair, name) for name in (*_TEXTS, "answer_index")}
    row |= {side: _prompt_row(getattr(pair, side)) for side in ("plain", "conflict")}
    if pair.neutral is not None:
        row |= {"neutral": _prompt_row(pair.neutral)} | {name: getattr(pair, name) for name in _OPTIONAL}
    return row


def _prompt_row(prompt: Prompt) -> dict[str, Any]:
    return {
        "text": prompt.text,
        "roles": {role: [list(span) for span in spans] for role, spans in prompt.roles.items()},
    }


def is_pairs_file(path: str | Path) -> bool:
    """Whether the file's first line is the head that ``write_pairs`` writes."""
    try:
        with Path(path).open("rb") as file:
            first = file.readline(100_000)
        head = json.loads(first.decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(head, dict) and head.get("format") == FORMAT


def read_pairs(path: str | Path) -> PairSet:
    """The pairs of a file that ``write_pairs`` wrote, or one of that form.

    Raises ``InputError`` with every line that is no pair, whose spans do not fit, or whose prompts differ
    in more than the factor it names.
    """
    text = read_text(path)
    if not is_pairs_file(path):
        expected = f'{{"format": "{FORMAT}", "name": ..., ...}}, the head of a file of pairs'
        raise InputError(str(path), [f"line 1: expected {expected}"])
    rows, problems = json_rows(text)
    pairs = []
    for where, row in rows[1:]:
        try:
            pair = _pair(row)
            check_one_factor(pair)
            pairs.append(pair)
        except (ValueError, TypeError) as error:
            problems.append(f"{where}: {error}")
    if problems:
        raise InputError(str(path), problems)
    head = rows[0].fields
    seed, name = head.get("seed"), head.get("name")
    try:
        if not isinstance(name, str) or not name or not (seed is None or type(seed) is int):
            raise ValueError(f"line 1: name {name!r} and seed {seed!r}, expected a text and a whole number or null")
        return PairSet(name, tuple(pairs), str(head.get("citation", "")), head.get("equally_likely") is True, seed)
    except ValueError as error:
        raise InputError(str(path), [str(error)]) from None


def _pair(row: dict[str, Any]) -> Pair:
    bad = [name for name in _TEXTS if not isinstance(row.get(name), str)]
    bad += [name for name in _OPTIONAL if not isinstance(row.get(name, ""), str)]
    if bad:
        raise ValueError(f"{', '.join(bad)}: expected texts")
    return Pair(
        *(row["id"], _prompt(row, "plain"), _prompt(row, "conflict"), row["answer"], row["lure"], row["factor"]),
        neutral=_prompt(row, "neutral") if "neutral" in row else None,
        neutral_answer=row.get("neutral_answer"),
        neutral_lure=row.get("neutral_lure"),
        answer_index=row.get("answer_index", 0),
    )


def _prompt(row: dict[str, Any], side: str) -> Prompt:
    prompt = row.get(side)
    text, roles = (prompt.get("text"), prompt.get("roles")) if isinstance(prompt, dict) else (None, None)
    if not isinstance(text, str) or not isinstance(roles, dict):
        raise ValueError(f'{side}: expected {{"text": ..., "roles": {{role: [[start, stop], ...]}}}}')
    try:
        spans = {role: tuple((int(start), int(stop)) for start, stop in of) for role, of in roles.items()}
    except (TypeError, ValueError):
        raise ValueError(f"{side}: roles {roles!r}, expected lists of [start, stop]") from None
    return Prompt(text, spans)
