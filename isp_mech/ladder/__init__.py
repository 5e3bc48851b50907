"""The embedded family: its corpus, its tokenizer, its training, its weights and their card.

Model organisms: small GPT-NeoX models, made so that they carry the prize's phenomenon. See ``docs/ladder.md``.
"""

from __future__ import annotations

from pathlib import Path

from isp_mech.families import LADDER_WEIGHTS

__all__ = ["weights_folder"]


def weights_folder() -> Path:
    """The folder that holds one transformers checkpoint folder for each size (``ladder-25k``, ...)."""
    return LADDER_WEIGHTS
