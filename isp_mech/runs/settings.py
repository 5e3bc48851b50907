"""The settings of a measurement, each declared once: its default, what it has to be, its flag and the flag's help.

``Settings``, its checks, the flags of the command line, a plan's table ``[settings]``, the keys of units and the
command that makes a table again all follow from the declarations below.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from isp_mech.errors import InputError
from isp_mech.sites import DECISION, METHODS, REPLACEMENTS, SEARCHED, Method, Replacement, Searched, Tokens
from isp_mech.tasks.rows import show

Step = Literal["score", "trace", "locate", "block", "verify", "restore"]
Dtype = Literal["float32", "bfloat16", "float16"]
Rule = Literal["strict", "prize"]
STEPS: tuple[Step, ...] = get_args(Step)
EVERYBODY, NOBODY = "all", "none"  # of models in chat
CHAIN: tuple[Step, ...] = tuple(step for step in STEPS if step != "block")  # of explain, and of a plan that names none
VERBS = ("explain", *STEPS)  # of the command line
LARGEST = 2**31
QUICK, EVERY, NO_KIND = "quick", "all", "none"  # of interventions, beside the kinds by name
QUICK_KINDS: tuple[Searched, ...] = ("scale", "block", "reweight")  # those that restore most, measured on the ladder
QUICK_PAIRS, QUICK_RANDOM = 60, 100  # pairs, and random changes, that the quick set takes at most


@dataclass(frozen=True)
class Declaration:
    """What is said of one setting. ``verbs`` have its flag; the steps among them are those that depend on it."""

    default: Any
    is_allowed: Callable[[Any], bool]
    expected: str
    flag: str
    help: str
    verbs: tuple[str, ...] = VERBS
    parse: Callable[[str], Any] = str
    choices: tuple[str, ...] | None = None
    metavar: str | None = None
    bare: str | None = None  # what the flag says where no value follows
    in_key: bool = True
    in_key_by_default: bool = True  # False: keys of tables made before there was a choice say nothing of it


def is_whole(value: object, least: int) -> bool:
    """Whether the value is a whole number from ``least`` on that fits 32 bits; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < LARGEST


def _declared(default: Any, is_allowed: Callable[[Any], bool], expected: str, flag: str, help: str, **more: Any) -> Any:
    told = Declaration(default, is_allowed, expected, f"--{flag}", help, **more)
    return field(default=default, metadata={"declared": told})


def _whole(default: int | None, least: int, flag: str, help: str, *, optional: bool = False, **more: Any) -> Any:
    def is_allowed(value: Any) -> bool:
        return is_whole(value, least) or (optional and value is None)

    return _declared(default, is_allowed, f"a whole number, {least} or more", flag, help, parse=int, **more)


def _one_of(words: Sequence[str], flag: str, help: str, **more: Any) -> Any:
    listed = f"one of {', '.join(words)}"
    return _declared(words[0], lambda value: value in words, listed, flag, help, choices=tuple(words), **more)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_no_text_or_one(value: Any) -> bool:
    return isinstance(value, str)


def _are_replacements(value: Any) -> bool:
    known = isinstance(value, tuple) and all(kind in REPLACEMENTS for kind in value)
    return known and 0 < len(value) == len(set(value))


def _are_roles(value: Any) -> bool:
    return isinstance(value, tuple) and all(_is_text(role) for role in value) and len(value) == len(set(value))


def _are_interventions(value: Any) -> bool:
    if not isinstance(value, tuple) or len(value) == 1 and value[0] in (QUICK, EVERY, NO_KIND):
        return isinstance(value, tuple)
    return all(kind in SEARCHED for kind in value) and 0 < len(value) == len(set(value))


def _auto_or_number(text: str) -> int | str:
    return int(text) if text.isdigit() else text


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a job is computed with; ``InputError`` with everything that is wrong with them.

    ``threads`` None leaves torch's number; ``shard`` 0 keeps all pairs together.
    """

    seed: int = _whole(0, 0, "seed", "seed of the pairs and of all intervals")
    rule: Rule = _one_of(get_args(Rule), "rule", "how a completion's tokens are counted", verbs=("score",))
    replacement: tuple[Replacement, ...] = _declared(
        ("mean",),
        _are_replacements,
        f"one or more of {', '.join(REPLACEMENTS)}, each once",
        "replacement",
        "what replaces a site: mean, resample, plain, zero; several with commas",
        verbs=("explain", "locate", "verify"),
        parse=_split,
        metavar="R",
    )
    method: Method = _one_of(
        METHODS,
        "method",
        "exact where it counts (exhaustive: of every site), or gradients: attribution, integrated",
        verbs=("locate", "verify"),
    )
    positions: str = _declared(
        DECISION,
        _is_text,
        f"{DECISION}, or the name of a role",
        "positions",
        "replace the outputs at a role's tokens, as definition or negation; decision is the last token",
        verbs=("locate", "verify"),
        metavar="ROLE",
    )
    roles: tuple[str, ...] = _declared(
        (),
        _are_roles,
        "names of roles, each once",
        "roles",
        "block attention to these roles of the prompts, with commas, as definition,question; without: to each in turn",
        verbs=("block",),
        parse=_split,
        metavar="ROLES",
    )
    n_random: int = _whole(
        200, 1, "random", "random sets or changes to compare with", verbs=("explain", "verify", "restore"), metavar="K"
    )
    interventions: tuple[str, ...] = _declared(
        (QUICK,),
        _are_interventions,
        f"{QUICK}, {EVERY}, {NO_KIND}, or some of {', '.join(SEARCHED)}, each once",
        "interventions",
        f"kinds of changes searched for one that restores: {EVERY}, {NO_KIND}, or some of {', '.join(SEARCHED)} with "
        f"commas; {QUICK}: {', '.join(QUICK_KINDS)} on {QUICK_PAIRS} pairs, against {QUICK_RANDOM} random changes",
        verbs=("explain", "restore"),
        parse=_split,
        metavar="KINDS",
    )
    share: float = _declared(
        0.1,
        lambda value: isinstance(value, int | float) and 0 < value <= 1,
        "a share of the sites over 0 and up to 1",
        "share",
        "share of all sites to replace together",
        verbs=("explain", "verify"),
        parse=float,
        metavar="X",
    )
    tokens: Tokens = _one_of(
        get_args(Tokens),
        "tokens",
        "lens and direct effects are of the first token at which the completions differ, or of all of them",
        verbs=("explain", "trace"),
    )
    intervention: str | None = _declared(
        None,
        lambda value: value is None or _is_text(value),
        "the path of a file that an intervention's save wrote",
        "intervention",
        "score with the intervention in this file",
        verbs=("score",),
        metavar="FILE",
    )
    chat: str = _declared(
        NOBODY,
        _is_text,
        f"{EVERYBODY}, {NOBODY}, or names of models with commas between",
        "chat",
        "prompts go into the chat template of every model, or of those named, with commas between",
        metavar="NAMES",
        bare=EVERYBODY,
        in_key_by_default=False,
    )
    system: str = _declared(
        "",
        _is_no_text_or_one,
        "a text",
        "system",
        "system text before each prompt, in chat",
        metavar="TEXT",
        in_key_by_default=False,
    )
    device: str = _declared(
        "cpu",
        _is_text,
        "a text, as cpu, cuda or cuda:1",
        "device",
        "cpu, cuda, cuda:1; auto takes a GPU where there is one",
    )
    device_map: str | None = _declared(
        None,
        lambda value: value is None or _is_text(value),
        "a text, as auto",
        "device-map",
        "auto spreads a model over all GPUs (needs accelerate)",
        metavar="M",
    )
    dtype: Dtype = _one_of(get_args(Dtype), "dtype", "number format of the weights")
    batch_size: int | str = _declared(
        "auto",
        lambda value: value == "auto" or is_whole(value, 1),
        "'auto' or a whole number, 1 or more",
        "batch-size",
        "prompts at a time",
        parse=_auto_or_number,
        metavar="B",
    )
    threads: int | None = _whole(
        None, 1, "threads", "CPU threads; what torch takes, where none are given", optional=True, metavar="T"
    )
    shard: int = _whole(0, 0, "shard", "pairs at a time in score and trace; 0: all", in_key=False, metavar="K")

    def __post_init__(self) -> None:
        for name in ("replacement", "interventions", "roles"):
            words = getattr(self, name)
            if isinstance(words, str | list):
                object.__setattr__(self, name, (words,) if isinstance(words, str) else tuple(words))
        if isinstance(self.chat, bool):
            object.__setattr__(self, "chat", EVERYBODY if self.chat else NOBODY)
        problems = []
        for name, told in DECLARED.items():
            value = getattr(self, name)
            if not told.is_allowed(value):
                shown = list(value) if isinstance(value, tuple) else value
                problems.append(f"{told.flag[2:].replace('-', ' ')} {show(shown)}: expected {told.expected}")
        if self.positions != DECISION and self.method != METHODS[0] and not problems:
            problems.append(f"method {self.method!r} with positions {self.positions!r}: expected method {METHODS[0]}")
        if self.intervention is not None and not problems and not Path(self.intervention).is_file():
            problems.append(f"intervention {self.intervention!r}: no such file")
        if self.system and self.chat == NOBODY and not problems:
            problems.append(f"system {show(self.system)}: goes with chat alone")
        if problems:
            raise InputError("settings", problems)

    @property
    def chatting(self) -> tuple[str, ...]:
        """The models, by name, whose prompts go into their chat template, where not all or none do."""
        named = self.chat not in (EVERYBODY, NOBODY)
        return tuple(dict.fromkeys(name.strip() for name in self.chat.split(","))) if named else ()

    @property
    def chat_setting(self) -> bool | str:
        """For the verbs that measure: whether prompts go into the chat template, or with what system text they do."""
        return self.system or True if self.chat != NOBODY else False

    @property
    def searched(self) -> tuple[Searched, ...]:
        """The kinds of interventions that are searched."""
        named: dict[str, tuple[Searched, ...]] = {QUICK: QUICK_KINDS, EVERY: SEARCHED}
        return named.get(self.interventions[0]) or tuple(kind for kind in SEARCHED if kind in self.interventions)

    def of_model(self, name: str) -> Settings:
        """The settings of one model: in chat or not."""
        if not self.chatting:
            return self
        return replace(self, chat=EVERYBODY) if name in self.chatting else replace(self, chat=NOBODY, system="")

    def key(self, step: Step) -> dict[str, Any]:
        """Those that the tables of ``step`` depend on, as they stand in the keys of units."""
        key = {}
        for name, told in DECLARED.items():
            value = getattr(self, name)
            if told.in_key and step in told.verbs and (told.in_key_by_default or value != told.default):
                key[name] = value
        if step == "score" and (file := key.pop("intervention")) is not None:
            key["intervention"] = hashlib.sha256(Path(file).read_bytes()).hexdigest()
        if key.get("tokens") == "all":  # keys of tables made before there was a choice say nothing of it
            del key["tokens"]
        return {**key, "device": self.device.split(":")[0]}

    def words(self, step: Step) -> list[str]:
        """The flags of a command for ``step``: those that are not as by default, and the device."""
        words = []
        for name, told in DECLARED.items():
            value = getattr(self, name)
            if step in told.verbs and name != "seed" and (value != told.default or name == "device"):
                words += [told.flag, ",".join(value) if isinstance(value, tuple) else str(value)]
        return words


DECLARED: dict[str, Declaration] = {each.name: each.metadata["declared"] for each in fields(Settings)}
