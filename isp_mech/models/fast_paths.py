"""The one switch of all fast paths. With ISP_MECH_PLAIN=1 everything is computed the plain way, to the same numbers.

Plain means: no shared prefixes (each prompt is a row of its own), torch's own linear layers, transformers' own rotary
embedding, the last layer at all tokens, attention over a prefix written out, one batch at a time.
"""

from __future__ import annotations

import os


def fast_paths() -> bool:
    """Whether fast paths are on: they are, unless the environment variable ISP_MECH_PLAIN is 1."""
    return os.environ.get("ISP_MECH_PLAIN") != "1"
