"""The command line: ``isp-mech``."""

from __future__ import annotations

from isp_mech.cli.main import main

__all__ = ["main"]
