"""One page that says what was found: ``report.html``, a single file that needs no network."""

from __future__ import annotations

from isp_mech.report.findings import findings
from isp_mech.report.sizes import of_each_size
from isp_mech.report.task_rows import story
from isp_mech.report.write import write_report

__all__ = ["findings", "of_each_size", "story", "write_report"]
