"""From texts to tokens: completions by two rules, roles by character spans.

``strict``: prompt and completion are tokenised together; the completion's tokens are those after the prompt's own
(``completion_start``). A token that straddles the boundary, a text too long for the model, a token that it does not
know, or completions that become the same tokens are an error that names the item. ``prize``: the completion's tokens
are the last n of the joint text, n being the number of tokens of the completion alone, and the text is cut on the
right at 1,023 tokens, as the prize's own evaluator does. What a tokenizer adds before a text is part of the prompt;
what it adds after one is left out. In chat a prompt is what the user says in the model's template, and a completion
what the model replies (``models/chat.py``).

For log-odds a class is one token after the prompt: by ``strict`` its only one, by ``prize`` the last one
of the class tokenised alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from isp_mech.errors import InputError
from isp_mech.inference.completion_start import completion_start
from isp_mech.inference.prefix_tree import CompletionTokens
from isp_mech.models import Encoding, Model, PromptText
from isp_mech.tasks import Prompt

Rule = Literal["strict", "prize"]
RULES: tuple[Rule, ...] = ("strict", "prize")
PRIZE_LIMIT = 1023
OTHER = "other"


@dataclass(frozen=True)
class Asked:
    """A prompt with its completions, as queries; ``encodings`` are the joint texts' tokens, with spans in the prompt:
    tokens of a chat template span nothing."""

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
        by_rule = [reading[rule] for reading in readings]
        problems += [
            f"item {item}, completion {c!r}: {query}"
            for c, query in zip(cs, by_rule, strict=True)
            if isinstance(query, str)
        ]
        queries = {c: query for c, query in zip(cs, by_rule, strict=True) if isinstance(query, CompletionTokens)}
        if rule == "strict":
            problems += _same_tokens(item, queries)
        asked.append(Asked(tuple(queries.values()), tuple(encodings)))
    if problems:
        raise InputError(f"{model.name}, rule {rule}", problems)
    return asked


def _same_tokens(item: str, queries: Mapping[str, CompletionTokens]) -> list[str]:
    """What is wrong where two completions of an item cannot be told apart."""
    first: dict[tuple[int, ...], str] = {}
    return [
        f"item {item}: completions {other!r} and {text!r} become the same tokens, expected different ones"
        for text, query in queries.items()
        for other in (first.setdefault(query.tokens, text),)
        if other != text
    ]


@dataclass(frozen=True)
class _Texts:
    """Prompts and completions as the model's tokenizer is given them, by their texts: the prompts in the chat template
    where there is one (or what is wrong with one there), and the tokens of each prompt and of each completion by
    itself."""

    prompts: dict[str, PromptText | str]
    own: dict[str, Encoding]
    replies: dict[str, str]
    alone: dict[str, tuple[int, ...]]


def _texts(model: Model, prompts: Sequence[str], completions: Sequence[Sequence[str]], rules: Sequence[str]) -> _Texts:
    framed = {prompt: model.prompt_text(prompt) for prompt in dict.fromkeys(prompts)}
    fit = {prompt: at.text for prompt, at in framed.items() if isinstance(at, PromptText)}
    own = dict(zip(fit, model.encode(list(fit.values())), strict=True))
    replies = {c: model.reply_text(c) for cs in completions for c in cs}
    alone: dict[str, tuple[int, ...]] = {}
    if "prize" in rules:
        cut = len(model.start_tokens)
        alone = {c: e.ids[cut:] for c, e in zip(replies, model.encode(list(replies.values())), strict=True)}
    return _Texts(framed, own, replies, alone)


def encode_prompts(model: Model, prompts: Sequence[str], names: Sequence[str], subject: str) -> list[Encoding]:
    """The tokens of prompts, in the chat template where there is one. ``InputError`` about ``subject``, by ``names``,
    for those that cannot be put there."""
    framed = [model.prompt_text(prompt) for prompt in prompts]
    problems = [f"{name}: {at}" for name, at in zip(names, framed, strict=True) if isinstance(at, str)]
    if problems:
        raise InputError(subject, problems)
    return model.encode([at.text for at in framed if isinstance(at, PromptText)])


def _read_all(
    model: Model,
    prompts: Sequence[str],
    completions: Sequence[Sequence[str]],
    rules: Sequence[str],
    last_token: bool,
) -> list[tuple[list[Encoding], list[Reading]]]:
    texts = _texts(model, prompts, completions, rules)
    framed = [texts.prompts[prompt] for prompt in prompts]
    fit = [(at.text, cs) for at, cs in zip(framed, completions, strict=True) if isinstance(at, PromptText)]
    joint = iter(model.encode([text + texts.replies[c] for text, cs in fit for c in cs]))
    out: list[tuple[list[Encoding], list[Reading]]] = []
    for prompt, at, cs in zip(prompts, framed, completions, strict=True):
        if isinstance(at, str):
            out.append(([], [dict.fromkeys(rules, at) for _ in cs]))
            continue
        own, encodings, readings = texts.own[prompt], [], []
        for completion in cs:
            both, reading = next(joint), Reading()
            if "strict" in rules:
                reading["strict"] = _strict_query(model, at.text, own, texts.replies[completion], both, last_token)
            if "prize" in rules:
                reading["prize"] = _prize_query(model, own if last_token else None, texts.alone[completion], both)
            encodings.append(both if model.chat is None else at.encoding(both))
            readings.append(reading)
        out.append((encodings, readings))
    return out


def _strict_query(
    model: Model, prompt: str, own: Encoding, completion: str, both: Encoding, last_token: bool
) -> CompletionTokens | str:
    """The completion as the tokens after the prompt's own; or what keeps it from being that."""
    unfit = model.unfit(both.ids)
    start = unfit or completion_start(model, prompt, own, completion, both)
    if isinstance(start, str):
        return start
    targets, unknown = both.ids[start:], model.tokenizer.unk_token
    if model.tokenizer.unk_token_id in targets and str(unknown) not in completion:
        return f"holds {unknown}: the tokenizer has no token for something in it"
    if last_token and len(targets) != 1:
        return f"{len(targets)} tokens, expected one: log-odds compare single tokens"
    return CompletionTokens(both.ids, start)


def _prize_query(
    model: Model, prompt: Encoding | None, alone: tuple[int, ...], both: Encoding
) -> CompletionTokens | str:
    """The completion as the last tokens of the joint text, or, given ``prompt``, its last token after that; or what
    keeps it from being that."""
    n_tokens = len(alone)
    if n_tokens == 0:
        return "the completion has no token of its own, expected at least one"
    if prompt is not None:
        ids, n_tokens = (*prompt.ids[:PRIZE_LIMIT], alone[-1]), 1
    else:
        ids = both.ids[:PRIZE_LIMIT]
    if unfit := model.unfit(ids):
        return unfit
    if n_tokens >= len(ids):
        return f"{n_tokens} tokens alone, {len(ids)} with the prompt: expected at least one in each"
    return CompletionTokens(ids, len(ids) - n_tokens)


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
