"""Small real models for every test: made from configs, random weights, nothing downloaded."""

from __future__ import annotations

import gc
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from pathlib import Path

from jaxtyping import install_import_hook

# shapes in annotations are checked in every test, in the modules that have any
_PACKAGE = Path(__file__).parents[1] / "isp_mech"
_SHAPED = [path for path in _PACKAGE.rglob("*.py") if "from jaxtyping import" in path.read_text(encoding="utf-8")]
_NAMES = [".".join(path.relative_to(_PACKAGE.parent).with_suffix("").parts) for path in _SHAPED]
install_import_hook(_NAMES, "beartype.beartype")

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402
from small_models import ARCHITECTURES, DIFFERENT, byte_tokenizer, make_hf  # noqa: E402

from isp_mech.tasks import Pair, PairSet, compose  # noqa: E402

settings.register_profile("short", max_examples=50, deadline=None)
settings.register_profile("long", max_examples=400, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "short"))


def pytest_collection_finish():
    """What is imported by now stays: to collect garbage after each model need not look through all of it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tokenizer():
    return byte_tokenizer()


@pytest.fixture(scope="session")
def make_model(tokenizer):
    """``make_model("llama")``: a Model over random weights; the same call gives the same object."""
    from isp_mech.models import wrap_model

    made = {}

    def make(architecture: str, seed: int = 0):
        key = (architecture, seed)
        if key not in made:
            made[key] = wrap_model(make_hf(architecture, seed=seed), tokenizer, name=architecture)
        return made[key]

    return make


@pytest.fixture(params=ARCHITECTURES)
def model(request, make_model):
    return make_model(request.param)


@pytest.fixture(params=[a if a in DIFFERENT else pytest.param(a, marks=pytest.mark.slow) for a in ARCHITECTURES])
def some_model(request, make_model):
    """The architectures that differ most; the others in the long run alone."""
    return make_model(request.param)


@pytest.fixture(scope="session")
def pairs() -> PairSet:
    """Pairs with completions of one and of several tokens, of equal and of unequal lengths, some of
    which begin alike."""
    completions = [(" 4", " 3"), (" pango", " part"), (" a man", " many men"), (" 4", " part")]
    made = []
    for i in range(8):
        answer, lure = completions[i % len(completions)]
        question = [("Q: What is ", ""), ("the first digit", "question"), (f" of pi{'!' * i}? A:", "")]
        conflict = compose([(f"Redefine pi as {462 + i}. ", "definition"), *question])
        made.append(Pair(f"p{i}", compose(question), conflict, answer, lure, "definition"))
    return PairSet("redefine", tuple(made))


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Two checkpoints of one shape, the smaller one first."""
    made = []
    for name, layers, width in (("small", 2, 16), ("large", 3, 32)):
        folder = tmp_path_factory.mktemp("models") / name
        make_hf("neox", layers=layers, width=width, length=512).save_pretrained(folder)
        byte_tokenizer().save_pretrained(folder)
        made.append(folder)
    return made
