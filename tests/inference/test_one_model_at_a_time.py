"""The memory of one model is free before the next is loaded, in every verb."""

from __future__ import annotations

import weakref

import pytest

import isp_mech as im
from isp_mech.models import loading


@pytest.fixture
def held(monkeypatch):
    """Which models that were loaded are still there when the next one is loaded."""
    loaded, found = [], []
    load = loading.load_model

    def spy(*args, **options):
        found.extend(name for name, model in loaded if model() is not None)
        model = load(*args, **options)
        loaded.append((model.name, weakref.ref(model.hf)))
        return model

    monkeypatch.setattr(loading, "load_model", spy)
    return found


@pytest.mark.parametrize(
    "verb",
    [
        lambda pairs, models: im.score(pairs, models, trace=True),
        lambda pairs, models: im.trace(pairs, models),
        lambda pairs, models: im.locate(pairs, models),
        lambda pairs, models: im.causal.edges(pairs, models, [im.Site(0, "mlp"), im.Site(1, "mlp")]),
        lambda pairs, models: im.causal.scale_sites([im.Site(0, "mlp")], pairs, models, alphas=(0.5,)),
        lambda pairs, models: im.tracing.head_classes(pairs, models),
    ],
)
def test_a_list_of_folders_is_loaded_one_by_one(pairs, folders, held, verb):
    verb(pairs.take(range(4)), [str(folder) for folder in reversed(folders)])
    assert held == []


def test_models_that_the_user_holds_stay(pairs, folders):
    model = im.load_model(folders[0])
    scores = im.score(pairs.take(range(2)), [model, folders[1]])
    assert list(dict.fromkeys(scores.scores.frame["model"])) == ["small", "large"]
    assert im.score(pairs.take(range(2)), model).scores.frame["logprob"].notna().all()


def test_for_a_model_that_was_given_loaded_no_garbage_is_looked_for(pairs, folders, monkeypatch):
    asked = []
    monkeypatch.setattr("isp_mech.inference.batches.let_go", lambda: asked.append(1))
    im.score(pairs.take(range(2)), im.load_model(folders[0]))
    assert not asked
    im.score(pairs.take(range(2)), folders[0])
    assert len(asked) == 1
