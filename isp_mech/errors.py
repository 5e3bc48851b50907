"""The library's own error: bad input, told once and completely; and texts made harmless to show."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence


class InputError(ValueError):
    """Something the user gave cannot be used. ``problems`` lists every complaint, one line each.

    The command line prints the message and exits with code 2.
    """

    def __init__(self, subject: str, problems: Sequence[str]):
        self.subject = subject
        self.problems = tuple(problems)
        shown = self.problems[:20]
        rest = len(self.problems) - len(shown)
        lines = (
            [f"{subject}: {self.problems[0]}"]
            if len(self.problems) == 1
            else [f"{subject}:", *(f"  {p}" for p in shown)]
        )
        super().__init__("\n".join(lines + ([f"  ... and {rest} more"] if rest else [])))

    def __reduce__(self) -> tuple[type[InputError], tuple[str, tuple[str, ...]]]:
        """For worker processes, which send it back."""
        return type(self), (self.subject, self.problems)


class NotKept(InputError):
    """A file could not be written: no room, or no right to. Going on would only compute what cannot be kept."""


def visible(raw: object, *, keep: str = "") -> str:
    r"""``raw`` with control, formatting and unpaired characters written out, those in ``keep`` apart.

    >>> visible("a\x1b[31m\u202eb")
    'a\\x1b[31m\\u202eb'
    """
    return "".join(c if c in keep or not _acts(c) else c.encode("unicode_escape").decode() for c in str(raw))


def _acts(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
