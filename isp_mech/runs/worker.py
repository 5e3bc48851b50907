"""Computing one job: its model is loaded where it is not loaded yet, its tables are kept in the run directory."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from isp_mech.errors import InputError, visible
from isp_mech.runs.jobs import JOINED, TABLES, Job
from isp_mech.tasks import PairSet
from isp_mech.runs.run_directory import RunDirectory
from isp_mech.tables import Table

if TYPE_CHECKING:
    from isp_mech.models import Model

DONE, BUSY = "done", "busy"


@dataclass
class Worker:
    """Computes jobs one after the other, and keeps the last job's model loaded for the next one.

    ``place`` is its number among the workers of a machine: with several GPUs each has its own.
    """

    directory: RunDirectory
    progress: bool = False
    place: int | None = None
    trust_remote_code: bool = False
    _loaded: dict[tuple[str, ...], Model] = field(default_factory=dict)

    def run(self, job: Job) -> str:
        """``done`` when all of the job's units are finished, ``busy`` where another process is at it.

        What is finished and whole is not computed again, nor written again.
        """
        with self.directory.claim(job.files[0]) as ours:
            if not ours:
                return BUSY
            missing = [name for name, key in job.units.items() if self.directory.read(name, key) is None]
            if missing and job.needs is not None and self.run(job.needs) == BUSY:
                return BUSY
            if missing:
                self._finish(job, missing)
        return DONE

    def _finish(self, job: Job, missing: Sequence[str]) -> None:
        began = time.monotonic()
        units = [file for name, file in zip(job.units, job.files, strict=True) if name in missing]
        self.directory.log("computing", job=job.name, units=units)
        made = self._compute(job)
        computed = time.monotonic() - began
        for name in missing:
            self.directory.keep(name, job.units[name], _stamped(made[name], job, name))
        kept = time.monotonic() - began - computed
        self.directory.log("finished", job=job.name, units=units, seconds=round(computed, 4), keeping=round(kept, 4))

    def _compute(self, job: Job) -> dict[str, Table]:
        s = job.settings
        model = self._model(job)
        self._tell(f"{job.size.name}: {' and '.join(job.steps)}")
        options: dict[str, Any] = {"batch_size": s.batch_size, "seed": s.seed, "progress": self.progress}
        if job.steps[0] == "score":
            return _scored(job, model, options)
        assert isinstance(job.subject, PairSet)
        if job.steps == ("trace",):
            from isp_mech.tracing.trace import trace

            return _traced(trace(job.subject, model, **options))
        if job.steps == ("locate",):
            from isp_mech.causal.locate import locate

            where: dict[str, Any] = {"method": s.method, "positions": s.positions}
            sites = locate(job.subject, model, replacement=s.replacement, **where, **options)
            return {name: getattr(sites, name) for name in TABLES["locate"] if name not in JOINED}
        from isp_mech.causal.verify import verify

        assert job.needs is not None
        effects = self.directory.read("effects", job.needs.units["effects"])
        if effects is None:
            raise InputError(job.name, ["the table effects of locating is not there, though it was written"])
        drawn: dict[str, Any] = {"n_random": s.n_random, "share": s.share}
        return {"verification": verify(effects, job.subject, model, replacement=s.replacement[0], **drawn, **options)}

    def _model(self, job: Job) -> Model:
        if job.model not in self._loaded:
            import torch

            from isp_mech.models import let_go, load_size

            self._loaded.clear()
            let_go()
            s = job.settings
            if s.threads is not None:
                torch.set_num_threads(s.threads)
            device = s.device
            if device == "cuda" and self.place is not None and torch.cuda.is_available():
                device = f"cuda:{self.place % torch.cuda.device_count()}"
            self._tell(f"{job.size.name}: loading")
            commit = job.weights.partition("commit:")[2]
            pinned = replace(job.size, revision=commit) if commit else job.size
            spread: dict[str, Any] = {"device_map": s.device_map} if s.device_map else {}
            spread |= {"trust_remote_code": True} if self.trust_remote_code else {}
            model = load_size(pinned, dtype=s.dtype, device=device, **spread)
            self._loaded[job.model] = replace(model, revision=job.size.revision or model.revision)
        return self._loaded[job.model]

    def _tell(self, text: str) -> None:
        if self.progress:
            print(visible(text), file=sys.stderr, flush=True)


def _stamped(made: Table, job: Job, name: str) -> Table:
    """The table with its fingerprints and command; which GPU of several it was makes no difference to it."""
    device = job.settings.device if made.run.device.startswith(job.settings.device) else made.run.device
    return replace(made, run=replace(made.run, device=device, settings={**made.run.settings, **job.stamp[name]}))


def _scored(job: Job, model: Model, options: Mapping[str, Any]) -> dict[str, Table]:
    from isp_mech.scoring import score

    together = "trace" in job.steps
    scores = score(job.subject, model, rule=job.settings.rule, trace=together, **options)
    found = {name: getattr(scores, name) for name in TABLES["score"]}
    found |= _traced(scores.traces) if together else {}
    return {name: table for name, table in found.items() if table is not None}


def _traced(seen: Any) -> dict[str, Table]:
    return {"lens": seen.lens, "attention": seen.attention, "direct_effects": seen.effects, "onset": seen.onset}


