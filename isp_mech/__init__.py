"""Why larger models do worse: where a prompt is overridden, and whether replacing that place gives it back.

    import isp_mech as im

    family = im.family("ladder")                      # or "pythia", "opt", ..., or a list of folders and hub ids
    pairs  = im.contrast("quote-repetition", n=300, seed=0)
    scores = im.score(pairs, family)
    traces = im.trace(pairs, family)
    sites  = im.locate(pairs, family, replacement="mean")
    check  = im.verify(sites, pairs, family)
    im.figures.override_map(sites).savefig("override.pdf")

The words, everywhere the same:

========== ==========================================================================================
pair       two prompts that differ in one factor; ``conflict`` asks for the answer, ``plain`` for the lure
answer     the completion that the conflict prompt asks for
lure       the completion that memory or a surface cue suggests; right on the plain prompt
neutral    a prompt that asks for its answer where there is no lure
role       named stretches of a prompt (``negation``, ``modified_word``, ...)
margin     log p(answer) - log p(lure), nats, summed over each completion's tokens: positive follows the prompt
site       a head ``a5.h3``, an MLP ``m5``, the residual stream ``r5``; layers and heads count from 0
effect     margin as it is - margin with the site replaced: positive sites push towards the answer
overridden right on the plain prompt, wrong on the conflict prompt
depth      (layer + 1/2) / layers
n_params   parameters without embeddings
axes       pair pos layer head d_model d_head vocab
Table      a tidy frame with declared columns and the ``Run`` that made it; parquet on disk
========== ==========================================================================================

Importing this package loads neither torch nor pandas: each name is fetched when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "InputError": "errors",
    "Site": "sites",
    "parse_site": "sites",
    "Table": "tables",
    "Run": "tables",
    "read_table": "tables",
    "concat": "tables",
    "Item": "tasks",
    "Task": "tasks",
    "read_task": "tasks",
    "write_task": "tasks",
    "released_files": "tasks.released_files",
    "release_of": "tasks.released_files",
    "Pair": "tasks",
    "PairSet": "tasks",
    "Prompt": "tasks",
    "check_one_factor": "tasks",
    "contrast": "contrasts",
    "contrast_names": "contrasts",
    "neqa_from_files": "contrasts.neqa",
    "pairs_from_task": "contrasts.from_task",
    "read_pairs": "contrasts.pair_files",
    "write_pairs": "contrasts.pair_files",
    "Family": "families",
    "Size": "families",
    "family": "families",
    "family_names": "families",
    "published": "scaling.published_results",
    "read_results": "scaling.evaluator_files",
    "Model": "models",
    "load_model": "models",
    "score": "scoring",
    "trace": "tracing",
    "train_lens": "tracing",
    "load_lens": "tracing",
    "locate": "causal",
    "verify": "causal",
    "shape_of_curve": "scaling",
    "flips": "scaling.item_flips",
    "RunDirectory": "runs.run_directory",
    "write_report": "report",
    "show": "report",
    "explain": "runs.explain",
}
_MODULES = ("causal", "figures", "models", "scaling", "tracing")

__all__ = [
    "Family",
    "InputError",
    "Item",
    "Model",
    "Pair",
    "PairSet",
    "Prompt",
    "Run",
    "RunDirectory",
    "Site",
    "Size",
    "Table",
    "Task",
    "__version__",
    "causal",
    "check_one_factor",
    "concat",
    "contrast",
    "contrast_names",
    "explain",
    "family",
    "family_names",
    "figures",
    "flips",
    "load_lens",
    "load_model",
    "locate",
    "models",
    "neqa_from_files",
    "pairs_from_task",
    "parse_site",
    "published",
    "read_pairs",
    "read_results",
    "read_table",
    "read_task",
    "release_of",
    "released_files",
    "scaling",
    "score",
    "shape_of_curve",
    "show",
    "trace",
    "tracing",
    "train_lens",
    "verify",
    "write_pairs",
    "write_report",
    "write_task",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(import_module(f"isp_mech.{_HOME[name]}"), name)
    elif name in _MODULES:
        value = import_module(f"isp_mech.{name}")
    else:
        raise AttributeError(f"module 'isp_mech' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if TYPE_CHECKING:
    from isp_mech import causal, figures, models, scaling, tracing
    from isp_mech.causal import locate, verify
    from isp_mech.contrasts import contrast, contrast_names
    from isp_mech.contrasts.from_task import pairs_from_task
    from isp_mech.contrasts.neqa import neqa_from_files
    from isp_mech.contrasts.pair_files import read_pairs, write_pairs
    from isp_mech.errors import InputError
    from isp_mech.families import Family, Size, family, family_names
    from isp_mech.models import Model, load_model
    from isp_mech.report import show, write_report
    from isp_mech.runs.explain import explain
    from isp_mech.runs.run_directory import RunDirectory
    from isp_mech.scaling import shape_of_curve
    from isp_mech.scaling.evaluator_files import read_results
    from isp_mech.scaling.item_flips import flips
    from isp_mech.scaling.published_results import published
    from isp_mech.scoring import score
    from isp_mech.sites import Site, parse_site
    from isp_mech.tables import Run, Table, concat, read_table
    from isp_mech.tasks import Item, Pair, PairSet, Prompt, Task, check_one_factor, read_task, write_task
    from isp_mech.tasks.released_files import release_of, released_files
    from isp_mech.tracing import load_lens, trace, train_lens
