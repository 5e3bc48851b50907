"""Chat: prompts in a model's own template, replies as the template has them.

A prompt becomes what a user says, and its completions what the model replies: the tokens are those of
``apply_chat_template`` with the generation prompt. A template holds its own start token, so that none is added, and a
date that it asks for is always the same one.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase

from isp_mech.errors import InputError
from isp_mech.models.batch import Encoding

ChatSetting = bool | str  # whether prompts go into the template, or the system text that they go there with
USER, REPLY = "Qzxuserzxq", "Qzxreplyzxq"  # what stands for a text, to see where the template puts it
DATE = {
    "%Y": "2024", "%y": "24", "%m": "07", "%-m": "7", "%d": "26", "%-d": "26", "%e": "26", "%b": "Jul", "%B": "July",
    "%a": "Fri", "%A": "Friday", "%j": "208", "%H": "12", "%I": "12", "%p": "PM", "%M": "00", "%S": "00",
}  # fmt: skip
DATE_IN_WORDS = "26 July 2024"


@dataclass(frozen=True)
class Refusal:
    """A template's own complaint."""

    reason: str


@dataclass(frozen=True)
class PromptText:
    """A prompt as the tokenizer is given it. Its own characters stand at ``start`` to ``stop`` of ``text``; the one at
    ``i`` of ``text`` is the one at ``i - shift`` of the prompt."""

    text: str
    start: int
    stop: int
    shift: int

    def encoding(self, whole: Encoding) -> Encoding:
        """The tokens of ``text`` and a completion with their spans in the prompt: empty for all that is not in it."""
        inside = ((max(start, self.start), min(stop, self.stop)) for start, stop in whole.spans)
        spans = ((a - self.shift, b - self.shift) if a < b else (0, 0) for a, b in inside)
        return Encoding(whole.ids, tuple(spans))


@dataclass(frozen=True)
class Chat:
    """How one model's template frames a prompt: ``before`` and ``after`` stand around it, the generation prompt
    included. ``between`` is what the template puts between that and a reply (a space, or an empty thought, with some).
    ``trims`` says that white space around a reply is taken off.
    """

    name: str = field(compare=False)
    template: str
    system: str
    before: str
    after: str
    between: str
    trims: bool
    asks_for_date: bool
    tokenizer: PreTrainedTokenizerBase = field(compare=False, repr=False)

    def prompt_text(self, prompt: str) -> PromptText | str:
        """The prompt in the template; or what is wrong with it there."""
        text = _render(self.tokenizer, self.template, self.system, prompt)
        if isinstance(text, Refusal):
            return f"its chat template refuses it: {text.reason}"
        own = text.removeprefix(self.before).removesuffix(self.after)
        as_given = (prompt, prompt.strip(), prompt.lstrip(), prompt.rstrip())
        if self.before + own + self.after != text or own not in as_given or not own:
            return f"its chat template shows another text in its place: {own[:60]!r}"
        start = len(self.before)
        between = "" if self.between.isspace() else self.between
        return PromptText(text + between, start, start + len(own), start - prompt.index(own))

    def reply_text(self, completion: str) -> str:
        """The completion as a reply: a reply begins without the white space that parts a completion from a text, and
        with what white space the template puts there."""
        between = self.between if self.between.isspace() else ""
        return between + (completion.strip() if self.trims else completion.lstrip())

    @property
    def described(self) -> str:
        """For a Run: which template, and the system text."""
        template = f"{self.name}: template {hashlib.sha256(self.template.encode()).hexdigest()[:12]}"
        return f"{template}, system text {self.system!r}" if self.system else template

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the numbers must know."""
        if not self.asks_for_date:
            return ()
        return (f"{self.name}: its chat template asks for the date: {DATE_IN_WORDS} was given, whatever the day",)


def chat_of(tokenizer: PreTrainedTokenizerBase, name: str, setting: ChatSetting) -> Chat | None:
    """How the tokenizer's template frames prompts; None where no chat is asked for.

    ``InputError`` where there is no template, where it refuses a system text or a prompt alone, or where it does not
    give the same text each time.
    """
    if setting is False:
        return None
    system = "" if setting is True else setting
    try:
        template = str(tokenizer.get_chat_template())
    except ValueError:
        expected = "expected one, as models that were tuned to follow instructions have, or no chat"
        raise InputError(name, [f"chat: its tokenizer has no chat template: {expected}"]) from None
    asks_for_date = "strftime_now" in template
    fixed = _same_date() + template if asks_for_date else template
    texts = [
        _render(tokenizer, fixed, system, USER),
        _render(tokenizer, fixed, system, USER),
        _render(tokenizer, fixed, system, USER, REPLY),
        _render(tokenizer, fixed, system, USER, f" {REPLY} "),
    ]
    for text in texts:
        if isinstance(text, Refusal):
            what = "a system text and a prompt" if system else "a prompt"
            raise InputError(name, [f"chat: its chat template refuses {what}: {text.reason}"])
    asked, again, replied, spaced = map(str, texts)
    if asked != again or asked.count(USER) != 1 or replied.count(REPLY) != 1:
        wrong = "gives another text each time" if asked != again else "does not show a prompt and its reply once"
        raise InputError(name, [f"chat: its chat template {wrong}: expected the same text around every prompt"])
    before, after = asked.split(USER)
    between = replied.split(REPLY)[0].removeprefix(asked) if replied.startswith(asked) else ""
    trims = f" {REPLY} " not in spaced
    return Chat(name, fixed, system, before, after, between, trims, asks_for_date, tokenizer)


def _same_date() -> str:
    """A macro in place of the function that tells a template the date. Nothing of it is shown."""
    filled = "".join(f' | replace("{code}", "{text}")' for code, text in DATE.items())
    return "{%- macro strftime_now(format) -%}{{ format" + filled + " }}{%- endmacro %}\n"


def _render(
    tokenizer: PreTrainedTokenizerBase, template: str, system: str, prompt: str, reply: str | None = None
) -> str | Refusal:
    """The conversation as a text, up to where a reply begins, or with one; or the template's own complaint."""
    messages = [("system", system)] if system else []
    messages += [("user", prompt), *([("assistant", reply)] if reply is not None else [])]
    try:
        return str(
            tokenizer.apply_chat_template(
                [{"role": role, "content": content} for role, content in messages],
                chat_template=template,
                tokenize=False,
                add_generation_prompt=reply is None,
            )
        )
    except Exception as error:  # a template may raise anything
        return Refusal(next(iter(str(error).splitlines()), type(error).__name__))
