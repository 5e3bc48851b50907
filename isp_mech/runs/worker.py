"""Computing one job: its model is loaded where it is not loaded yet, its tables are kept in the run directory."""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from isp_mech.errors import InputError, NotKept
from isp_mech.inference.progress import Progress, say
from isp_mech.runs.jobs import TABLES, Job
from isp_mech.runs.run_directory import RunDirectory
from isp_mech.runs.settings import LARGEST, QUICK, QUICK_PAIRS, QUICK_RANDOM

if TYPE_CHECKING:
    from isp_mech.models import Model
    from isp_mech.tables import Table
    from isp_mech.tracing.trace import Traces

Outcome = Literal["done", "busy"] | InputError  # finished; another process is at it; failed, and why


@dataclass
class Worker:
    """Computes jobs one after the other, and keeps the last job's model loaded for the next one.

    ``place`` is its number among the workers of a machine: with several GPUs each has its own.
    """

    directory: RunDirectory
    progress: Progress = False
    place: int | None = None
    trust_remote_code: bool = False
    _loaded: dict[tuple[str, ...], Model] = field(default_factory=dict)

    def run(self, job: Job) -> Outcome:
        """``done`` when all of the job's units are finished, ``busy`` where another process is at it.

        What is finished and whole is not computed again, nor written again. What goes wrong in the job is returned,
        and logged with its traceback; a unit that cannot be written raises ``NotKept``.
        """
        s = job.settings
        more: dict[str, Any] = {"batch_size": s.batch_size, "seed": s.seed, "progress": bool(self.progress)}
        try:
            with self.directory.claim(job.files[0]) as ours:
                if not ours:
                    return "busy"
                missing = [name for name, key in job.units.items() if self.directory.read(name, key) is None]
                if not missing:
                    return "done"
                if job.needs is not None and (earlier := self.run(job.needs)) != "done":
                    return earlier
                began, model = self._begin(job, missing), self._model(job)
                if job.steps[0] == "score" and not {*missing} & {*TABLES["score"]} and _untraced(model):
                    return self._scored_alone(job, model)
                if job.steps[0] == "score":
                    from isp_mech.scoring.score import score

                    if s.intervention is not None:
                        from isp_mech.causal import load_intervention

                        more["intervention"] = load_intervention(s.intervention)
                    scores = score(job.subject, model, rule=s.rule, trace="trace" in job.steps, tokens=s.tokens, **more)
                    tables = {name: getattr(scores, name) for name in TABLES["score"]} | _of_traces(scores.traces)
                    if "trace" in job.steps and scores.traces is None:
                        self._keep(job, {name: tables[name] for name in missing if name in tables}, began)
                        return self._scored_alone(job, model)
                elif job.steps[0] == "trace":
                    from isp_mech.tracing.trace import trace

                    tables = _of_traces(trace(job.pairs, model, tokens=s.tokens, **more))
                elif job.steps[0] == "locate":
                    from isp_mech.causal.locate import locate
                    from isp_mech.tracing.token_attention import token_attention

                    more |= {"method": s.method, "positions": s.positions}
                    located = locate(job.pairs, model, replacement=s.replacement, **more)
                    shown: dict[str, Any] = {"batch_size": s.batch_size, "progress": bool(self.progress)}
                    by_token = token_attention(job.pairs, model, located.effects, **shown)
                    tables = {name: getattr(located, name) for name in ("effects", "sites", "stability")}
                    tables["token_attention"] = by_token
                elif job.steps[0] == "block":
                    from isp_mech.causal.role_blocking import block_heads

                    found = block_heads(job.pairs, model, roles=s.roles or None, **more)
                    tables = {name: getattr(found, name) for name in job.units}
                elif job.steps[0] == "restore":
                    from isp_mech.causal.restoration import restoration

                    most, drawn = (QUICK_PAIRS, QUICK_RANDOM) if QUICK in s.interventions else (LARGEST, LARGEST)
                    pairs, n_random = job.pairs.take(range(min(most, len(job.pairs)))), min(drawn, s.n_random)
                    restored = restoration(pairs, model, kinds=s.searched, n_random=n_random, **more)
                    tables = {"restoration": restored.table, "restored_pairs": restored.pairs}
                else:
                    from isp_mech.causal.verify import verify

                    more |= {"n_random": s.n_random, "share": s.share, "replacement": s.replacement}
                    tables = {"verification": verify(self._needed(job, "effects"), job.pairs, model, **more)}
                self._keep(job, {name: tables[name] for name in missing}, began)
                return "done"
        except NotKept:
            raise
        except Exception as error:  # of any kind: it is this job's failure, and the other jobs are to be done
            return self._failed(job, error)

    def _scored_alone(self, job: Job, model: Model) -> InputError:
        """What is said of a model that is scored, and cannot be traced."""
        reason = _untraced(model)
        self.directory.log("failed", job=job.name, reason=reason)
        return InputError(job.name, [f"its scores are there, but {reason}"])

    def _begin(self, job: Job, missing: Sequence[str]) -> float:
        self.directory.log("computing", job=job.name, units=[job.file_of(name) for name in missing])
        return time.monotonic()

    def _keep(self, job: Job, tables: Mapping[str, Table], began: float) -> None:
        computed = time.monotonic() - began
        for name, table in tables.items():
            self.directory.keep(name, job.units[name], _stamped(table, job, name))
        kept = time.monotonic() - began - computed
        took = {"seconds": round(computed, 4), "keeping": round(kept, 4)}
        self.directory.log("finished", job=job.name, units=[job.file_of(name) for name in tables], **took)

    def _failed(self, job: Job, error: Exception) -> InputError:
        self.directory.log("failed", job=job.name, traceback=traceback.format_exc())
        if isinstance(error, InputError):
            return error
        first = next(iter(str(error).splitlines()), "")
        return InputError(job.name, [f"{type(error).__name__}: {first} (its traceback is in log.jsonl)"])

    def _needed(self, job: Job, name: str) -> Table:
        assert job.needs is not None
        table = self.directory.read(name, job.needs.units[name])
        if table is None:
            raise InputError(job.name, [f"the table {name} of locating is not there, though it was written"])
        return table

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
            self._say(f"{job.size.name}: loading")
            commit = job.weights.partition("commit:")[2]
            pinned = replace(job.size, revision=commit) if commit else job.size
            spread: dict[str, Any] = {"device_map": s.device_map} if s.device_map else {}
            spread |= {"trust_remote_code": True} if self.trust_remote_code else {}
            model = load_size(pinned, dtype=s.dtype, device=device, **spread)
            self._loaded[job.model] = replace(model, revision=job.size.revision or model.revision)
        self._say(f"{job.size.name}: {' and '.join(job.steps)}")
        return self._loaded[job.model].with_chat(job.settings.chat_setting)

    def _say(self, text: str) -> None:
        if self.progress:
            say(text, always=self.progress == "steps")


def _stamped(table: Table, job: Job, name: str) -> Table:
    """The table with its fingerprints and command; which GPU of several it was makes no difference to it."""
    device = job.settings.device if table.run.device.startswith(job.settings.device) else table.run.device
    return replace(table, run=replace(table.run, device=device, settings={**table.run.settings, **job.stamps[name]}))


def _untraced(model: Model) -> str:
    from isp_mech.tracing.trace import cannot_trace

    return cannot_trace(model)


def _of_traces(traces: Traces | None) -> dict[str, Table]:
    if traces is None:
        return {}
    return {"lens": traces.lens, "attention": traces.attention, "direct_effects": traces.effects, "onset": traces.onset}
