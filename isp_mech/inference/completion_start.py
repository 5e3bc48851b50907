"""Where a completion's tokens begin: where the tokens of prompt and completion part from the prompt's own.

Offsets alone do not say it: some tokenizers leave white space out of them, some count characters after they were
normalised. What the tokens read is held against the texts too.
"""

from __future__ import annotations

import unicodedata

from isp_mech.models import Encoding, Model

SPACES = tuple("Ġ▁ĊĉčĀ \n\t")  # how a token that begins with white space is spelt
NEAR = 8  # tokens before a boundary that are read with what comes after it


def completion_start(model: Model, prompt: str, own: Encoding, completion: str, both: Encoding) -> int | str:
    """The completion's first token in ``both``, the tokens of prompt and completion together; or what is wrong.

    ``own`` are the prompt's own tokens. The prompt may be cut otherwise before a completion than alone, if a token
    ends where it ends.
    """
    shared = next((i for i, (a, b) in enumerate(zip(own.ids, both.ids, strict=False)) if a != b), -1)
    if shared < 0:
        shared = min(len(own.ids), len(both.ids))
    start = len(own.ids) if shared == len(own.ids) else _cut_otherwise(model, prompt, own, both, shared)
    if isinstance(start, str):
        return start
    if start >= len(both.ids):
        return "the completion has no token of its own, expected at least one"
    if start == 0:
        return "no token stands before the completion, expected a prompt of at least one token"
    if prompt[-1:].isspace() and _begins_with_space(model, both.ids[start]):
        near = max(0, start - NEAR)
        if not model.read(both.ids[near:start])[-1:].isspace():
            return _holds_space(start)
    if not _reads_as(model, both.ids, start, completion) and not _offsets_part_at(both, start, len(prompt)):
        read = model.read(both.ids[start:])
        return f"its tokens read {read[:60]!r}, expected {completion[:60]!r}"
    return start


def _cut_otherwise(model: Model, prompt: str, own: Encoding, both: Encoding, shared: int) -> int | str:
    """The token of ``both`` before which the prompt ends, ``own`` being cut otherwise from token ``shared`` on."""
    near, n = max(0, shared - NEAR), len(both.ids)
    wanted = model.read(own.ids[near:])
    for end in range(shared, min(n, len(own.ids) + NEAR) + 1):
        if end > 0 and model.read(both.ids[near:end]) == wanted:
            return end
    across = next((i for i in range(shared, n) if not wanted.startswith(model.read(both.ids[near : i + 1]))), n - 1)
    left = wanted[len(model.read(both.ids[near:across])) :]
    if left.isspace() and _begins_with_space(model, both.ids[across]):
        return _holds_space(across)
    return f"token {across} straddles the end of the prompt, expected a token boundary there"


def _holds_space(token: int) -> str:
    return f"token {token} holds white space of the prompt's end, expected a token boundary there"


def _begins_with_space(model: Model, token: int) -> bool:
    return model.spelling(token).startswith(SPACES)


def _reads_as(model: Model, ids: tuple[int, ...], start: int, completion: str) -> bool:
    """Whether the tokens from ``start`` on read as the completion, apart from what tokenizers normalise."""
    for near in dict.fromkeys((max(0, start - NEAR), 0)):
        before, whole = model.read(ids[near:start]), model.read(ids[near:])
        if whole.startswith(before) and _letters(whole[len(before) :]) == _letters(completion):
            return True
    return False


def _letters(text: str) -> str:
    """The text without case, accents and white space, and in one of the ways in which Unicode spells it."""
    plain = unicodedata.normalize("NFKD", text).casefold()
    return "".join(c for c in plain if not c.isspace() and not unicodedata.combining(c))


def _offsets_part_at(both: Encoding, start: int, boundary: int) -> bool:
    before, after = ([(a, b) for a, b in spans if b > a] for spans in (both.spans[:start], both.spans[start:]))
    return bool(after) and all(b <= boundary for _, b in before) and all(a >= boundary for a, _ in after)
