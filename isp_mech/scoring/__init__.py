"""Scores: the probability of each given completion after its prompt, as the prize counts it."""

from __future__ import annotations

from isp_mech.scoring.completion_logprobs import Case, ClassLogprobs, Reader, cases_of, class_logprobs
from isp_mech.scoring.metrics import Scores, join
from isp_mech.scoring.score import score

__all__ = ["Case", "ClassLogprobs", "Reader", "Scores", "cases_of", "class_logprobs", "join", "score"]
