"""The embedded family: its corpus, its tokenizer, its training, its weights and their card.

Model organisms: small GPT-NeoX models, made so that they carry the prize's phenomenon. See ``docs/ladder.md``.
"""

from __future__ import annotations

from isp_mech.ladder.embedded import weights_folder

__all__ = ["weights_folder"]
