"""From texts to tokens: completions by two rules, roles by character spans.

``strict``: prompt and completion are tokenised together; the completion's tokens are those that begin
where it begins. A token that straddles the boundary, or a text too long for the model, is an error
that names the item. ``prize``: the completion's tokens are the last n of the joint text, n being the
number of tokens of the completion alone (less one where the tokenizer adds a start token), and the
text is cut on the right at 1,023 tokens, as the prize's own evaluator does.

For log-odds a class is one token after the prompt: by ``strict`` its only one, by ``prize`` the last one
of the class tokenised alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from isp_mech.errors import InputError
from isp_mech.inference.prefix_tree import CompletionTokens
from isp_mech.models import Encoding, Model
from isp_mech.tasks import Prompt

Rule = Literal["strict", "prize"]
RULES: tuple[Rule, ...] = ("strict", "prize")
PRIZE_LIMIT = 1023
OTHER = "other"
SPACES = tuple("Ġ▁ĊĉčĀ \n\t")  # how a token that begins with white space is spelt


@dataclass(frozen=True)
class Asked:
    """A prompt with its completions, as queries; ``encodings`` are the joint texts' tokens."""

    queries: tuple[CompletionTokens, ...]
    encodings: tuple[Encoding, ...]


@dataclass(frozen=True)
class Difference:
    """A completion that the two rules read differently: the ``index``-th of prompt number ``case``.

    A rule that does not apply has no query, and ``reason`` says why.
    """

    case: int
    index: int
    strict: CompletionTokens | None
    prize: CompletionTokens | None
    reason: str


def encode_all(
    model: Model,
    prompts: Sequence[str],
    completions: Sequence[Sequence[str]],
    ids: Sequence[str],
    *,
    rule: str = "strict",
) -> list[Asked]:
    """The queries of every prompt: one for each of its completions.

    Raises ``InputError`` that lists every item, named by ``ids``, to which ``rule`` does not apply.
    """
    _check_rule(rule)
    return _asked(model, _read_all(model, prompts, completions, (rule,), False), completions, ids, rule)


def encode_both(
    model: Model,
    prompts: Sequence[str],
    completions: Sequence[Sequence[str]],
    ids: Sequence[str],
    *,
    rule: str = "strict",
    last_token: bool = False,
) -> tuple[list[Asked], list[Difference]]:
    """As ``encode_all``, and every completion that the other rule reads differently.

    ``last_token`` asks for log-odds' one token a class.
    """
    _check_rule(rule)
    read = _read_all(model, prompts, completions, RULES, last_token)
    asked = _asked(model, read, completions, ids, rule)
    return asked, [
        Difference(case, index, _query(strict), _query(prize), _reason(strict, prize))
        for case, (_, readings) in enumerate(read)
        for index, by_rule in enumerate(readings)
        for strict, prize in ((by_rule["strict"], by_rule["prize"]),)
        if strict != prize
    ]


def _query(reading: CompletionTokens | str) -> CompletionTokens | None:
    return reading if isinstance(reading, CompletionTokens) else None


def _check_rule(rule: str) -> None:
    if rule not in RULES:
        raise InputError("rule", [f"{rule!r}: expected one of {', '.join(RULES)}"])


def _reason(strict: CompletionTokens | str, prize: CompletionTokens | str) -> str:
    told = [f"{name}: {found}" for name, found in zip(RULES, (strict, prize), strict=True) if isinstance(found, str)]
    if told or isinstance(strict, str) or isinstance(prize, str):
        return "; ".join(told)
    if len(prize.tokens) < len(strict.tokens):
        return f"prize: cut to {len(prize.tokens)} of {len(strict.tokens)} tokens"
    if len(strict.targets) == len(prize.targets):
        return "the class alone has other tokens than after the prompt"
    return f"{len(strict.targets)} tokens after the prompt, {len(prize.targets)} alone"


Reading = dict[str, CompletionTokens | str]  # by rule: the query, or what keeps the rule from applying


def _asked(
    model: Model,
    read: Sequence[tuple[Sequence[Encoding], Sequence[Reading]]],
    completions: Sequence[Sequence[str]],
    ids: Sequence[str],
    rule: str,
) -> list[Asked]:
    problems: list[str] = []
    asked = []
    for item, cs, (encodings, readings) in zip(ids, completions, read, strict=True):
        found = [reading[rule] for reading in readings]
        problems += [
            f"item {item}, completion {c!r}: {error}"
            for c, error in zip(cs, found, strict=True)
            if isinstance(error, str)
        ]
        asked.append(Asked(tuple(q for q in found if isinstance(q, CompletionTokens)), tuple(encodings)))
    if problems:
        raise InputError(f"{model.name}, rule {rule}", problems)
    return asked


def _read_all(
    model: Model,
    prompts: Sequence[str],
    completions: Sequence[Sequence[str]],
    rules: Sequence[str],
    last_token: bool,
) -> list[tuple[list[Encoding], list[Reading]]]:
    texts = [prompt + c for prompt, cs in zip(prompts, completions, strict=True) for c in cs]
    joint = iter(model.encode(texts))
    alone: dict[str, tuple[int, ...]] = {}
    before: list[Encoding | None] = [None] * len(prompts)
    if "prize" in rules:
        starts = starts_with_special(model)
        distinct = list(dict.fromkeys(c for cs in completions for c in cs))
        alone = {c: e.ids[starts:] for c, e in zip(distinct, model.encode(distinct), strict=True)} if distinct else {}
        before = list(model.encode(prompts)) if last_token else before
    out = []
    for prompt, cs, prompt_alone in zip(prompts, completions, before, strict=True):
        encodings = [next(joint) for _ in cs]
        readings: list[Reading] = []
        for completion, encoding in zip(cs, encodings, strict=True):
            reading: Reading = {}
            for rule in rules:
                try:
                    if rule == "strict":
                        reading[rule] = _strict_query(encoding, prompt, model, last_token)
                    else:
                        reading[rule] = _prize_query(encoding, alone[completion], model, prompt_alone)
                except ValueError as error:
                    reading[rule] = str(error)
            readings.append(reading)
        out.append((encodings, readings))
    return out


def _strict_query(encoding: Encoding, prompt: str, model: Model, last_token: bool) -> CompletionTokens:
    boundary, limit = len(prompt), model.max_tokens
    if limit is not None and len(encoding.ids) > limit:
        raise ValueError(f"{len(encoding.ids)} tokens, expected at most the model's {limit}")
    end = len(encoding.ids)
    while end and encoding.spans[end - 1][1] <= encoding.spans[end - 1][0]:
        end -= 1  # what a tokenizer adds after the text is no part of it
    start = end
    while start and encoding.spans[start - 1][0] >= boundary:
        start -= 1
    if start and encoding.spans[start - 1][1] > boundary:
        raise ValueError(f"token {start - 1} straddles the end of the prompt, expected a token boundary there")
    if start == end:
        raise ValueError("the completion has no token of its own, expected at least one")
    if start == 0:
        raise ValueError("no token stands before the completion, expected a prompt of at least one token")
    told_end = max(b for _, b in encoding.spans[max(0, start - 4) : start])
    if prompt[told_end:].isspace() and _begins_with_space(model, encoding.ids[start]):
        raise ValueError(f"token {start} holds white space of the prompt's end, expected a token boundary there")
    if last_token and end - start != 1:
        raise ValueError(f"{end - start} tokens, expected one: log-odds compare single tokens")
    return CompletionTokens(encoding.ids[:end], start)


def _begins_with_space(model: Model, token: int) -> bool:
    """Offsets of some tokenizers leave out the white space that a token begins with; its spelling does not."""
    return str(model.tokenizer.convert_ids_to_tokens(token)).startswith(SPACES)


def _prize_query(encoding: Encoding, alone: tuple[int, ...], model: Model, prompt: Encoding | None) -> CompletionTokens:
    """The completion as the last tokens of the joint text, or, given ``prompt``, its last token after that."""
    n_tokens = len(alone)
    if n_tokens == 0:
        raise ValueError("the completion has no token of its own, expected at least one")
    if prompt is not None:
        ids, n_tokens = (*prompt.ids[:PRIZE_LIMIT], alone[-1]), 1
    else:
        ids = encoding.ids[:PRIZE_LIMIT]
    if model.max_tokens is not None and len(ids) > model.max_tokens:
        raise ValueError(f"{len(ids)} tokens, expected at most the model's {model.max_tokens}")
    if not 1 <= n_tokens < len(ids):
        raise ValueError(f"{n_tokens} tokens alone, {len(ids)} with the prompt: expected at least one in each")
    return CompletionTokens(ids, len(ids) - n_tokens)


def starts_with_special(model: Model) -> int:
    """1 where the model's tokenizer puts a start token before every text, else 0."""
    return int(start_token(model) is not None)


def start_token(model: Model) -> int | None:
    """The token that the model's tokenizer puts before every text, if it does."""
    found = model.encode(["a"])[0]
    first, (begins, ends) = found.ids[0], found.spans[0]
    return first if begins == ends and first in set(model.tokenizer.all_special_ids) else None


def token_roles(encoding: Encoding, prompt: Prompt, names: Sequence[str]) -> np.ndarray:
    """int (token,): the number in ``names`` of each token's role.

    A token belongs to the role that holds most of its characters, the earlier of two that hold the
    same; a token with no character in a role, a start token and a completion's token are ``other``,
    which must be the last of ``names``.
    """
    other = len(names) - 1
    end = max((b for _, b in encoding.spans), default=0)
    of_character = np.full(max(end, len(prompt.text)), other)
    for role, spans in prompt.roles.items():
        for a, b in spans:
            of_character[a:b] = names.index(role)
    roles = np.full(len(encoding.ids), other)
    for i, (a, b) in enumerate(encoding.spans):
        if b > a:
            inside = of_character[a:b]
            roles[i] = inside[0] if (inside == inside[0]).all() else _most(inside)
    return roles


def _most(roles: np.ndarray) -> int:
    values, first, counts = np.unique(roles, return_index=True, return_counts=True)
    return int(values[np.lexsort((first, -counts))[0]])


def role_names(prompts: Sequence[Prompt]) -> tuple[str, ...]:
    """Every role of the prompts, in order of first appearance, and ``other`` at the end."""
    return (*dict.fromkeys(role for prompt in prompts for role in prompt.roles), OTHER)
