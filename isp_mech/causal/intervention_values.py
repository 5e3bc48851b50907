"""Interventions as values: what is done to a forward, and nothing of how it was found.

An ``Intervention`` is a tuple of parts, done together. It prints as a text that parses back:

>>> both = block("quote_output", layers=(0, 1, 2)) + scale("a1.h3 m2", 0.5, at="onward")
>>> str(both)
'block(quote_output; layers=0-2; heads=all) + scale(a1.h3 m2; alpha=0.5; at=onward)'
>>> parse_intervention(str(both)) == both
True

``at`` is where sites are changed: at the ``decision`` position, ``onward`` from there (the completion's tokens too), or
at the tokens of a role. Attention is changed from the decision position onward. Vectors that a part needs stand in
``arrays``, under the part's ``source`` and the site; a source without arrays is a recipe that ``fit`` makes them by.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from isp_mech.causal.intervention_parts import (
    DIFFERENCES,
    Part,
    Sites,
    ordered_numbers,
    ordered_sites,
    parse_part,
)
from isp_mech.errors import InputError
from isp_mech.sites import DECISION, Site

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from isp_mech.inference.batches import BatchPlan
    from isp_mech.inference.margin import ContrastPrompt
    from isp_mech.tasks import Prompt


@dataclass(frozen=True)
class Intervention:
    """Parts done together, in their order. Two are equal where their texts are: a source that is fitted names its
    numbers by their digest. No parts: nothing is changed."""

    parts: tuple[Part, ...] = ()
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict, compare=False, repr=False)

    def __add__(self, other: Intervention) -> Intervention:
        return Intervention(self.parts + other.parts, {**self.arrays, **other.arrays})

    def __str__(self) -> str:
        return " + ".join(map(str, self.parts)) or "none"

    @property
    def kinds(self) -> str:
        """The kinds of its parts, each once."""
        return "+".join(dict.fromkeys(part.kind for part in self.parts)) or "none"

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles whose spans have to be known of a prompt; none where it could be left in the model."""
        return tuple(dict.fromkeys(role for part in self.parts for role in part.roles))

    @property
    def needs(self) -> str:
        """What has to be known of a prompt: the spans of roles, the pair's other prompt, or nothing."""
        return "; ".join(dict.fromkeys(need for part in self.parts for need in part.needs)) or "nothing"

    def to_json(self) -> str:
        """The text, what it needs and its vectors, as ``save`` writes them, on one line."""
        arrays = {  # the shortest digits that give the same float32
            name: {"shape": list(values.shape), "values": [float(str(x)) for x in np.float32(values).ravel()]}
            for name, values in self.arrays.items()
        }
        return json.dumps({"format": FORMAT, "intervention": str(self), "needs": self.needs, "arrays": arrays})

    def save(self, path: str | Path) -> Path:
        """Writes the text and its vectors into one small file, which ``load_intervention`` reads back."""
        target = Path(path)
        target.write_text(self.to_json() + "\n", encoding="utf-8")
        return target

    def attach(
        self,
        hf_model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        prompt: Prompt | str | None = None,
        decision: int | None = None,
    ) -> AbstractContextManager[PreTrainedModel]:
        """A context in which every forward of a plain transformers model is changed; see ``attach.attach``."""
        from isp_mech.causal.attach import attach

        return attach(self, hf_model, tokenizer, prompt=prompt, decision=decision)

    def logprobs(self, prompts: Sequence[ContrastPrompt], plan: BatchPlan) -> np.ndarray:
        """(prompt,): the margins with the intervention; log p of the answer, nats, where a prompt has no lure."""
        from isp_mech.causal.intervention_changes import changed_by

        return changed_by(self, prompts, plan)


def replacing(sites: Sites, values: str = "mean", *, at: str = DECISION) -> Intervention:
    """The sites' outputs become those that ``values`` names: mean, resample, plain or zero."""
    return Intervention((Part("replace", ordered_sites(sites), source=values, at=at),))


def scale(sites: Sites, alpha: float, *, at: str = DECISION) -> Intervention:
    """The sites' outputs times ``alpha``."""
    return Intervention((Part("scale", ordered_sites(sites), number=float(alpha), at=at),))


def block(role: str, *, layers: Iterable[int] | None = None, heads: Iterable[int] | None = None) -> Intervention:
    """No attention from the decision position onward to the role's tokens, in layers and heads (None: all)."""
    return Intervention((Part("block", role=role, layers=ordered_numbers(layers), heads=ordered_numbers(heads)),))


def reweight(
    role: str, factor: float, *, layers: Iterable[int] | None = None, heads: Iterable[int] | None = None
) -> Intervention:
    """Attention weights to the role's tokens times ``factor`` before they are brought to sum to 1 again."""
    return Intervention(
        (
            Part(
                "reweight",
                role=role,
                number=float(factor),
                layers=ordered_numbers(layers),
                heads=ordered_numbers(heads),
            ),
        )
    )


def replay(sites: Sites, alpha: float = 1.0, *, at: str = DECISION) -> Intervention:
    """``alpha`` times what the sites wrote in the unchanged forward is added to what they write."""
    return Intervention((Part("replay", ordered_sites(sites), number=float(alpha), at=at),))


def steer(layer: int, vector: str = DIFFERENCES[0], alpha: float = 1.0, *, at: str = DECISION) -> Intervention:
    """``alpha`` times a vector is added to the residual stream after a layer."""
    return Intervention((Part("steer", (Site(layer, "resid"),), number=float(alpha), source=vector, at=at),))


def swap(layer: int, subspace: str = DIFFERENCES[0], *, at: str = DECISION) -> Intervention:
    """The part of the residual stream after a layer in a subspace becomes that of the pair's other prompt."""
    return Intervention((Part("swap", (Site(layer, "resid"),), source=subspace, at=at),))


def with_array(intervention: Intervention, arrays: Mapping[str, np.ndarray]) -> Intervention:
    """The intervention, of one part, with its vectors by site: its source names their digest."""
    (part,) = intervention.parts
    numbers = {site: np.ascontiguousarray(values, dtype=np.float32) for site, values in sorted(arrays.items())}
    digest = hashlib.sha256(b"".join(site.encode() + values.tobytes() for site, values in numbers.items())).hexdigest()
    source = f"{part.source.split('#')[0]}#{digest[:12]}"
    by_name = {f"{source}/{site}": values for site, values in numbers.items()}
    return Intervention((replace(part, source=source),), by_name)


def parse_intervention(text: str, arrays: Mapping[str, np.ndarray] | None = None) -> Intervention:
    """The intervention that prints as ``text``; ``InputError`` says what was expected.

    >>> parse_intervention("block(question; layers=0,2; heads=all)").parts[0].layers
    (0, 2)
    """
    if text.strip() == "none":
        return Intervention()
    pieces = text.split(" + ")
    return Intervention(tuple(parse_part(piece) for piece in pieces), dict(arrays or {}))


FORMAT = "isp-mech intervention 1"


def load_intervention(path: str | Path) -> Intervention:
    """The intervention that ``save`` wrote, with equal numbers. ``InputError`` for a file that is none."""
    expected = "expected a file that an intervention's save wrote"
    if not Path(path).is_file():
        raise InputError(str(path), [f"no such file, {expected}"])
    try:
        told = json.loads(Path(path).read_text(encoding="utf-8"))
        arrays = {
            name: np.array(one["values"], dtype=np.float32).reshape(one["shape"])
            for name, one in told["arrays"].items()
        }
        text, format = str(told["intervention"]), told["format"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(str(path), [f"{type(error).__name__}: {error}: {expected}"]) from None
    if format != FORMAT:
        raise InputError(str(path), [f"format {format!r}, expected {FORMAT!r}"])
    return parse_intervention(text, arrays)
