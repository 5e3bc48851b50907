"""From a row of a file to an ``Item``, and back; everything wrong with a row is said at once."""

from __future__ import annotations

import ast
import json
import math
import re
import reprlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from isp_mech.tasks.items import NEEDS, Item, Metric, is_text

MAX_CLASSES = 10_000
# The pieces of a Python list of texts. Possessive repeats (*+, ++): a hostile cell cannot make the search go back and
# forth.
_PIECE = re.compile(
    r"""(?P<text>[rRuU]?(?:\'\'\'(?:[^'\\]|\\.|'(?!''))*+\'\'\'|\"\"\"(?:[^"\\]|\\.|"(?!""))*+\"\"\"
                    |'(?:[^'\\\n]|\\.)*+'|"(?:[^"\\\n]|\\.)*+"))
      |(?P<gap>(?:\s|\#[^\n]*+|\\\r?\n)++)
      |(?P<mark>[\[\](),])""",
    re.DOTALL | re.VERBOSE,
)
OPTIONAL = {"other_prompt", "true_answer", "anchor"}  # which may be empty in a row whose metric does not need them
MAX_BRACKETS = 50  # one inside the other
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60
_SHORT.maxlist = _SHORT.maxdict = 4
_SHORT.maxlevel = 3


def infer_metric(names: Sequence[str]) -> Metric | None:
    """The metric whose fields these are; None where they fit none.

    ``absolute_logodds`` has the fields of ``logodds`` and has to be asked for.

    >>> infer_metric(["prompt", "classes", "answer_index"]), infer_metric(["prompt", "completion"])
    ('classification', 'sequence_prob')
    """
    if "classes" in names or "answer_index" in names:
        return "logodds" if "other_prompt" in names else "classification"
    if "completion" in names:
        return "sequence_prob"
    if "true_answer" in names or "anchor" in names:
        return "numeric"
    return None


def show(value: object) -> str:
    """A value for a message, cut to a readable length."""
    return _SHORT.repr(value)


def parse_classes(value: object) -> tuple[str, ...]:
    """The classes of a JSON list of texts, or of a text that holds a Python list of texts, in any spelling.

    Only lists of texts are evaluated. ``ValueError`` says what was expected.

    >>> parse_classes("[' A', ' B']") == parse_classes([" A", " B"]) == (" A", " B")
    True
    """
    expected = "a list of texts such as [' A', ' B']"
    if isinstance(value, str):
        _check_spelling(value, expected)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of backslashes that begin no escape
                texts = ast.literal_eval(value.strip())
            value = [texts] if isinstance(texts, str) else list(texts)  # ('a') is a text in brackets
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise ValueError(f"found {show(value)}, expected {expected}") from None
    if not isinstance(value, list):
        raise ValueError(f"found {show(value)}, expected {expected}")
    if len(value) > MAX_CLASSES:
        raise ValueError(f"found {len(value)} classes, expected at most {MAX_CLASSES}")
    wrong = [v for v in value if not is_text(v) or not v]
    if wrong:
        raise ValueError(f"found the class {show(wrong[0])}, expected non-empty texts")
    repeated = [v for v in dict.fromkeys(value) if value.count(v) > 1] if len(set(value)) < len(value) else []
    if repeated:
        raise ValueError(f"found the class {show(repeated[0])} more than once, expected different classes")
    return tuple(value)


def _check_spelling(text: str, expected: str) -> None:
    """``ValueError`` unless the text is made of nothing but texts, commas, brackets, white space and comments, and
    what stands without a comma between is not a list as numpy prints it."""
    at = depth = texts = commas = joined = 0
    last = ""
    while at < len(text):
        piece = _PIECE.match(text, at)
        if piece is None:
            raise ValueError(f"found {show(text)}, expected {expected}")
        at = piece.end()
        if piece["text"] is not None:
            texts += 1
            joined += last == "text"
            last = "text"
        elif piece["mark"] is not None:
            last = piece["mark"]
            commas += last == ","
            depth += (last in "[(") - (last in "])")
        if depth > MAX_BRACKETS:
            raise ValueError(f"found {show(text)}, expected {expected}")
        if (commas >= MAX_CLASSES and texts > MAX_CLASSES) or texts > 10 * MAX_CLASSES:
            raise ValueError(f"found over {MAX_CLASSES} classes, expected fewer")
    if joined and not commas:
        raise ValueError(f"found {show(text)}, texts without commas between as numpy prints them, expected {expected}")


def parse_row(
    row: Mapping[str, Any], metric: Metric, item_id: str, *, texts_only: bool
) -> tuple[Item | None, list[str]]:
    """The item of a row, and all problems with it (then the item is None).

    ``texts_only`` says that the row is of CSV, where a number is written as text.
    """
    needs = NEEDS[metric]
    row = {
        name: value for name, value in row.items() if name not in OPTIONAL - {*needs.fields} or value not in (None, "")
    }
    problems = [f"missing field {name!r}" for name in needs.fields if name not in row]
    for name in row:
        if not is_text(name):
            problems.append(f"field {show(name)}: its name is not text that UTF-8 can carry")
        elif name in ("classes", "answer_index") and name not in needs.fields:
            problems.append(f"field {name!r} does not go with metric {metric!r}")
    for name in ("prompt", "other_prompt", "completion"):
        if name in row and (name in needs.fields or name == "other_prompt"):
            empty = not is_text(row[name]) or not (row[name] if name == "completion" else row[name].strip())
            problems += [f"field {name!r}: found {show(row[name])}, expected some text"] if empty else []
    classes: tuple[str, ...] = ()
    answer = 0
    if "classes" in needs.fields:
        classes, wrong = _classes(row["classes"], metric) if "classes" in row else ((), [])
        problems += wrong
        if "answer_index" in row:
            answer, complaint = _answer(row["answer_index"], len(classes), texts_only)
            problems += [complaint] if complaint else []
    elif metric == "sequence_prob" and "completion" in row:
        classes = (row["completion"],)
    else:
        problems += _numeric_problems(row)
    read = (*needs.fields, "other_prompt")
    extra = {k: value for k, value in row.items() if k not in read and not (k == "id" and value == item_id)}
    problems += [f"field {show(name)}: {unfit}" for name, value in extra.items() if (unfit := _unfit(value))]
    if problems:
        return None, problems
    text = row["classes"] if isinstance(row.get("classes"), str) else None
    return Item(item_id, row["prompt"], classes, answer, row.get("other_prompt"), extra, tuple(row), text), []


def _classes(value: object, metric: Metric) -> tuple[tuple[str, ...], list[str]]:
    """The classes that a cell holds, and what is wrong with them."""
    try:
        classes = parse_classes(value)
    except ValueError as error:
        return (), [f"field 'classes': {error}"]
    wanted = NEEDS[metric].count_problem(len(classes))
    return classes, [f"field 'classes': found {len(classes)} ({show(list(classes))}), {wanted}"] if wanted else []


def _answer(value: Any, n_classes: int, texts_only: bool) -> tuple[int, str]:
    expected = f"a whole number from 0 to {n_classes - 1}" if n_classes else "a whole number, 0 or more"
    if texts_only and re.fullmatch(r"-?[0-9]{1,9}", value):
        value = int(value)
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < 0 or (n_classes and value >= n_classes):
        return 0, f"field 'answer_index': found {show(value)}, expected {expected}"
    return value, ""


def _numeric_problems(row: Mapping[str, Any]) -> list[str]:
    problems = []
    for name in ("true_answer", "anchor"):
        try:
            if name in row and not math.isfinite(float(row[name])):
                raise ValueError
        except (TypeError, ValueError, OverflowError):
            problems.append(f"field {name!r}: found {show(row[name])}, expected a number")
    return problems


def _unfit(value: Any) -> str:
    """A complaint about a value that a JSON file in UTF-8 cannot carry."""
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        return f"found {show(value)}, which has half of a surrogate pair"
    except (TypeError, ValueError):
        return f"found {show(value)}, expected a value that JSON can carry"
    return ""


def row_of(item: Item, metric: Metric, *, with_id: bool) -> dict[str, Any]:
    """The item as a row, in the order and with the spelling of classes it was read with."""
    values: dict[str, Any] = {"id": item.id} if (with_id or "id" in item.fields) and "id" not in item.extra else {}
    values["prompt"] = item.prompt
    if item.other_prompt is not None:
        values["other_prompt"] = item.other_prompt
    if metric == "sequence_prob":
        values["completion"] = item.classes[0]
    elif metric != "numeric":
        unchanged = item.classes_text is not None and parse_classes(item.classes_text) == item.classes
        values["classes"] = item.classes_text if unchanged else list(item.classes)
        values["answer_index"] = item.answer
    values |= item.extra
    order = [name for name in item.fields if name in values]
    return {name: values[name] for name in (*order, *(n for n in values if n not in order))}
