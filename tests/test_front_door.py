"""What `import score_jax` gives: curated names, lazy submodules, and the way from old names to new."""

import importlib

import pytest

import score_jax
from score_jax._renamed import RENAMED


def test_submodules_are_reachable_and_listed():
    for name in ("nets", "training", "losses", "checkpoints", "viz"):
        assert name in dir(score_jax)
        assert getattr(score_jax, name) is importlib.import_module(f"score_jax.{name}")
    assert "load_pretrained" in dir(score_jax)


OLD = [(module, name) for module, names in RENAMED.items() for name in names]


@pytest.mark.parametrize(("module", "name"), OLD, ids=lambda v: v)
def test_an_old_name_gives_the_new_one(module, name):
    """And the new one, where it is a dotted name, exists."""
    home = importlib.import_module(f"score_jax.{module}".rstrip("."))
    new = RENAMED[module][name]
    with pytest.raises(AttributeError, match="has no attribute") as error:
        getattr(home, name)
    assert new in str(error.value)
    for word in new.replace(",", " ").split():
        if word.startswith("score_jax."):
            path, _, last = word.rpartition(".")
            assert hasattr(importlib.import_module(path), last), word


def test_a_name_that_never_was_has_no_hint():
    with pytest.raises(AttributeError, match=r"has no attribute 'nothing'$"):
        score_jax.nothing  # noqa: B018
