"""Faults of checkpoints found by injection: each is told in a line, and nothing good is lost for it."""

import errno
import mmap
import os
import shutil
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from score_jax.checkpoints import (
    CheckpointError,
    DamagedCheckpoint,
    leaves,
    memory,
    open_checkpoints,
    restore_params,
)
from score_jax.training import Run, Snapshots, init_state


def make_state(seed):
    keys = jax.random.split(jax.random.key(seed), 2)
    params = {"params": {"kernel": jax.random.normal(keys[0], (3, 5))}}
    return init_state(keys[1], params, optax.chain(optax.clip(1.0), optax.adam(1e-3)))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with steps 1 and 2."""
    folder = tmp_path_factory.mktemp("saved")
    with open_checkpoints(folder) as store:
        for step in (1, 2):
            store.save(step, make_state(step))
    return folder


@pytest.fixture
def copied(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "c")
    return tmp_path / "c"


DTYPES = ["uint8", "bool", "float16", "bfloat16", "float32", "int32", "float64", "complex128"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_shares_of_the_checksum_add_up_however_an_array_is_divided(dtype, rng):
    x = rng.normal(size=(4, 6, 8))
    x = x > 0 if dtype == "bool" else (x * 100).astype(jnp.dtype(dtype))
    whole = leaves.partial_sum(x, (0, 0, 0))
    for cuts in ((2, 1, 1), (1, 3, 4), (4, 6, 2)):
        parts = [n // c for n, c in zip(x.shape, cuts, strict=True)]
        total = 0
        for place in np.ndindex(cuts):
            start = [i * n for i, n in zip(place, parts, strict=True)]
            part = x[tuple(slice(i, i + n) for i, n in zip(start, parts, strict=True))]
            total += leaves.partial_sum(part, start)
        assert total % 2**64 == whole
    words = x.reshape(-1).view(np.uint8)
    for at in rng.integers(len(words), size=20):  # one bit
        bit = np.uint8(1 << (0 if dtype == "bool" else rng.integers(8)))
        words[at] ^= bit
        assert leaves.partial_sum(x, (0, 0, 0)) != whole
        words[at] ^= bit
    for moved in (np.roll(x, 1, axis=1), x[::-1], np.zeros_like(x)):
        assert leaves.partial_sum(moved, (0, 0, 0)) != whole


def test_a_save_that_cannot_start_leaves_no_threads(copied, monkeypatch):
    """Each would wait five minutes for the folder, and the process with it."""
    mkdir = os.mkdir

    def full(path, *args, **kwargs):
        if "orbax-checkpoint-tmp" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        mkdir(path, *args, **kwargs)

    with open_checkpoints(copied) as store:
        monkeypatch.setattr(os, "mkdir", full)
        with pytest.raises(CheckpointError, match=r"cannot save step 3 .*No space left") as caught:
            store.save(3, make_state(3))
        assert "\n" not in str(caught.value)
        alive = [t.name for t in threading.enumerate() if t.name == "write_metadata_after_commits"]
        assert not alive and store.steps() == [1, 2]
        monkeypatch.undo()
        store.save(3, make_state(3))
    assert sorted(p.name for p in copied.iterdir()) == [f"step_0000000{i}" for i in (1, 2, 3)]


def test_what_a_failed_save_abandons_is_not_printed(copied, monkeypatch):
    """TensorStore tells Orbax's event loop of each part that was not written, when it is closed."""
    seen = []
    hook = seen.append
    monkeypatch.setattr(sys, "unraisablehook", hook)
    lose = lambda text: sys.unraisablehook(
        SimpleNamespace(object=None, exc_value=RuntimeError(text))
    )
    first, second = open_checkpoints(copied), open_checkpoints(copied, read_only=True)
    lose("Event loop is closed")
    lose("another")
    first.close()  # in the order of opening
    lose("Event loop is closed")
    second.close()
    assert sys.unraisablehook is hook
    lose("Event loop is closed")
    assert [str(one.exc_value) for one in seen] == ["another", "Event loop is closed"]


def test_a_folder_that_was_removed_is_not_made_anew(copied):
    with open_checkpoints(copied) as store:
        shutil.rmtree(copied)
        with pytest.raises(CheckpointError, match=r"step 3 .* was removed or replaced while"):
            store.save(3, make_state(3))
        assert not copied.exists()
        copied.mkdir()  # by another run
        with pytest.raises(CheckpointError, match="was removed or replaced"):
            store.save(3, make_state(3))
    assert not any(copied.iterdir())


def test_a_copied_step_is_not_believed_at_its_name(copied, caplog):
    shutil.copytree(copied / "step_00000002", copied / "step_00000009")
    with open_checkpoints(copied) as store:
        assert store.restore_latest(make_state(0)).step == 2
        assert "holds the checkpoint of step 2: it was copied or renamed" in caplog.text
        with pytest.raises(DamagedCheckpoint, match="rename it to step_00000002"):
            store.restore(9, make_state(0))
        store.save(3, make_state(3))
        assert store.steps() == [1, 2, 3]


def test_any_field_is_read_without_a_template(copied):
    state = make_state(2)
    adam = restore_params(copied, field="opt_state")[1][0]
    assert adam["count"] == 0 and not adam["mu"]["params"]["kernel"].any()
    assert restore_params(copied, field="step") == state.step
    words = restore_params(copied, field="key")
    np.testing.assert_array_equal(words, jax.random.key_data(state.key))
    with open_checkpoints(copied) as store:
        for field in ("opt_state", "nothing"):
            try:
                store.restore_field(field=field)
            except ValueError as error:
                assert "no leaves under 'nothing'" in str(error)
        with pytest.raises(ValueError, match="opt_state"):
            store.restore_field({"wrong": jnp.ones(2)}, field="opt_state")
        store.save(3, make_state(3))
        assert store.steps() == [1, 2, 3]


REASONS = {
    "permissions": PermissionError(errno.EACCES, "Permission denied"),
    "tensorstore": ValueError("INTERNAL: Failed to open file [os_error_code='24']"),
    "memory": MemoryError(),
    "device": jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"),
}


@pytest.mark.parametrize("reason", REASONS)
def test_what_cannot_be_reached_is_not_taken_for_damage(copied, reason, monkeypatch):
    """An older step in its place would lose updates, and the good one would be renamed."""

    def fail(self, path, args):
        raise REASONS[reason]

    with open_checkpoints(copied) as store:
        monkeypatch.setattr(ocp.Checkpointer, "restore", fail)
        with pytest.raises(CheckpointError, match="cannot read the checkpoint of step 2") as caught:
            store.restore_latest(make_state(0))
        assert not isinstance(caught.value, DamagedCheckpoint)
        monkeypatch.undo()
        store.save(3, make_state(3))
        assert store.steps() == [1, 2, 3]


def test_snapshots_of_a_run_that_is_gone_do_not_count(copied, caplog):
    with open_checkpoints(copied, keep=None) as store:
        Snapshots(store, 1).start(mock.Mock(spec=Run, start=1))
        assert store.steps() == [1]
        store.save(2, make_state(5))
        Snapshots(store, 1).start(mock.Mock(spec=Run, start=0))
        assert store.steps() == []
    assert sorted(p.name for p in copied.iterdir()) == [
        "later_step_00000001", "later_step_00000002", "later_step_00000002_2"
    ]  # fmt: skip
    assert "set aside, as training starts before it" in caplog.text


def test_memory_beside_the_state_is_bounded(tmp_path):
    """No compressed second copy is written, and one leaf or a gigabyte is read at a time."""
    with open_checkpoints(tmp_path) as store:
        store.save(1, {"params": jnp.zeros(2**18)})
    assert sum(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file()) > 2**20
    leaf = lambda n: jax.ShapeDtypeStruct((n, 10**6), jnp.float32)
    with mock.patch.object(ocp, "PyTreeCheckpointHandler") as handler:
        for tree in ({"a": leaf(3), "b": leaf(2)}, {"a": leaf(100), "b": leaf(600)}):
            memory.reader(None, tree)
    assert [call.kwargs["restore_concurrent_gb"] for call in handler.call_args_list] == [1, 3]


@pytest.mark.skipif(memory._trim() is None, reason="another C library than glibc")
def test_memory_that_is_free_is_handed_back():
    """glibc keeps the space of arrays below 32 MB, here 96 MB under the last, which is still used."""
    resident = lambda: int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE
    np.ones(2**24, np.uint8)  # once it is freed, glibc takes smaller ones from its heap
    arrays = [np.ones(2**22, np.uint8) for _ in range(25)]
    del arrays[:24]
    before = resident()
    memory.give_back()
    assert before - resident() > 64 * 2**20
