"""Tasks as contrasting pairs, one file for each: those of the Inverse Scaling Prize, and two that readers asked for."""

from __future__ import annotations

from isp_mech.contrasts.catalogue import contrast, contrast_names, contrast_variants, task_lines

__all__ = ["contrast", "contrast_names", "contrast_variants", "task_lines"]
