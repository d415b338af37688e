"""Checkpoints: what comes back is what was saved, or an error that says why; never other values."""

import functools
import json
import logging
import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from score_jax.checkpoints import CheckpointError, open_checkpoints, restore_params
from score_jax.training import TrainState, init_state


@functools.cache
def make_state(seed, width=5):
    keys = jax.random.split(jax.random.key(seed), 3)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))
    params = {
        "params": {
            "Dense_0": {
                "kernel": jax.random.normal(keys[0], (3, width)),
                "bias": jax.random.normal(keys[1], (width,), jnp.bfloat16),
            }
        },
    }
    return init_state(keys[2], params, optimizer)


def words(state):
    raw = jax.tree.map(
        lambda a: jax.random.key_data(a) if jnp.issubdtype(a.dtype, jax.dtypes.prng_key) else a,
        state,
    )
    return jax.tree.leaves(raw)


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    return all(
        x.dtype == y.dtype and x.shape == y.shape and np.asarray(x).tobytes() == np.asarray(y).tobytes()
        for x, y in zip(words(a), words(b), strict=True)
    )  # fmt: skip


class Iterator:
    def __init__(self, state):
        self.state = state

    def get_state(self):
        return self.state

    def set_state(self, state):
        self.state = state


@pytest.mark.parametrize("data", [{"next_index": 7, "deep": {"a": [1, 2]}}, b"\x00\xff bytes"])
def test_round_trip_of_everything(tmp_path, data):
    state = make_state(0)
    with open_checkpoints(tmp_path / "a" / "b") as checkpoints:
        assert checkpoints.restore_latest(state) is None and checkpoints.latest_step() is None
        assert checkpoints.save(3, state, data_iterator=Iterator(data), extra={"lr": (1, 2.5)})
        assert not checkpoints.save(3, make_state(1))
    iterator = Iterator(None)
    with open_checkpoints(tmp_path / "a" / "b") as checkpoints:
        template = jax.eval_shape(lambda: make_state(1))
        found = checkpoints.restore_latest(template, data_iterator=iterator)
        assert same(found.state, state)
        assert same(checkpoints.restore(3, make_state(1)).state, state)
    assert found.step == 3 and found.extra == {"lr": [1, 2.5]}
    assert found.data == data and iterator.state == data
    assert jax.random.key_impl(found.state.key) == jax.random.key_impl(state.key)
    meta = json.loads((tmp_path / "a/b/step_00000003/meta/metadata").read_text())["content"]
    assert meta["format_version"] == 2 and meta["package_version"]


def test_other_generators_of_keys(tmp_path):
    state = {"key": jax.random.key(5, impl="rbg")}
    with open_checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state)
        found = checkpoints.restore_latest(jax.eval_shape(lambda: state))
    assert same(found.state, state) and found.state["key"].dtype == state["key"].dtype


def test_saved_on_one_set_of_devices_read_on_another(tmp_path):
    first, second = jax.local_devices()[:2]
    mesh = jax.sharding.Mesh(np.array([first, second]), ("d",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("d"))
    x = np.arange(8.0, dtype=np.float32).reshape(4, 2)
    with open_checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jax.device_put(x, sharding)})
        plain = checkpoints.restore(1, {"x": jax.ShapeDtypeStruct((4, 2), jnp.float32)}).state["x"]
        template = {"x": jax.ShapeDtypeStruct((4, 2), jnp.float32, sharding=sharding)}
        split = checkpoints.restore(1, template).state["x"]
    assert plain.devices() == {first} and split.sharding == sharding
    np.testing.assert_array_equal(plain, x)
    np.testing.assert_array_equal(split, x)


def test_a_donated_state_does_not_reach_into_a_save(tmp_path):
    state, host = {"x": jnp.zeros(300_000)}, np.zeros(300_000, np.float32)
    bump = jax.jit(lambda s: jax.tree.map(lambda a: a + 1, s), donate_argnums=0)
    with open_checkpoints(tmp_path, keep=10) as checkpoints:
        for step in range(5):
            checkpoints.save(step, state | {"host": host})
            host += 3
            for _ in range(3):
                state = bump(state)
        for step in range(5):
            saved = checkpoints.restore(step, state | {"host": host}).state
            for name in saved:
                np.testing.assert_array_equal(saved[name], np.full(300_000, 3.0 * step))


def test_keeps_the_newest_and_leaves_strangers_alone(tmp_path):
    state = {"x": jnp.ones(2)}
    for stray in ("100", "notes", "step_x", "step_00000009.orbax-checkpoint-tmp-1"):
        (tmp_path / stray).mkdir()
    (tmp_path / "7").write_text("a file")
    with open_checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, state)
        checkpoints.wait()
        assert checkpoints.steps() == [2, 3]
        assert checkpoints.restore_latest(state).step == 3
        with pytest.raises(ValueError, match="step 1 is older than the newest"):
            checkpoints.save(1, state)
        with pytest.raises(ValueError, match="step must be >= 0"):
            checkpoints.save(-1, state)
        with pytest.raises(CheckpointError, match=r"step 1 .* does not exist; there are \[2, 3\]"):
            checkpoints.restore(1, state)
    assert {"100", "notes", "step_x", "7"} <= {path.name for path in tmp_path.iterdir()}


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    """A folder with steps 1 and 2, small enough to damage byte by byte."""
    folder = tmp_path_factory.mktemp("two_steps")
    with open_checkpoints(folder) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, make_state(step), extra={"step": step})
    return folder


def newest_files(folder):
    return sorted(path for path in (folder / "step_00000002").rglob("*") if path.is_file())


def flip(data, rng):
    at = rng.integers(len(data))
    return data[:at] + bytes([data[at] ^ (1 << rng.integers(8))]) + data[at + 1 :]


DAMAGE = {
    "flipped": flip,
    "truncated": lambda data, rng: data[: rng.integers(len(data))],
    "emptied": lambda data, rng: b"",
}


@pytest.mark.parametrize("turn", [0, 1])
def test_damage_never_loads_other_values(two_steps, tmp_path, turn, rng, caplog):
    """Every file in two of four ways; `benchmarks.faults` damages all in all ways."""
    fell_back, ways = 0, [*DAMAGE, "removed"]
    for number, file in enumerate(newest_files(two_steps)):
        how = ways[(number + 2 * turn) % len(ways)]
        folder = tmp_path / str(number)
        shutil.copytree(two_steps, folder)
        damaged = folder / file.relative_to(two_steps)
        if how in DAMAGE:
            damaged.write_bytes(DAMAGE[how](damaged.read_bytes(), rng))
        else:
            damaged.unlink()
        with open_checkpoints(folder) as checkpoints:
            found = checkpoints.restore_latest(make_state(0))
        assert same(found.state, make_state(found.step)) and found.extra == {"step": found.step}
        fell_back += found.step == 1
        params = restore_params(folder, make_state(0).ema_params)
        assert any(same(params, make_state(step).ema_params) for step in (1, 2))
    assert fell_back >= 4
    assert "skipped a checkpoint" in caplog.text


def largest_data_file(folder):
    return max((folder / "step_00000002" / "state").rglob("d/*"), key=lambda p: p.stat().st_size)


def test_a_flipped_byte_in_the_values_names_the_leaf(tmp_path):
    # Incompressible values without a checksum of Orbax' own: only ours can see this.
    state = {"w": jax.random.normal(jax.random.key(0), (64, 64)), "v": jnp.ones(2)}
    with open_checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"w": jnp.zeros((64, 64)), "v": jnp.ones(2)})
        checkpoints.save(2, state)
    file = largest_data_file(tmp_path)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
    with open_checkpoints(tmp_path) as checkpoints:
        with pytest.raises(CheckpointError, match="step 2") as caught:
            checkpoints.restore(2, state)
        assert "\n" not in str(caught.value)
        found = checkpoints.restore_latest(state)
        assert found.step == 1
        # Training goes on: the damaged step is renamed, and the new one takes its place.
        checkpoints.save(2, state)
        checkpoints.wait()
        assert checkpoints.restore_latest(state).step == 2
        assert (tmp_path / "damaged_step_00000002").is_dir()


def test_a_checksum_that_differs_names_the_leaf(tmp_path, monkeypatch):
    state = {"w": jnp.ones(3), "v": jnp.ones(2)}
    with open_checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state)
        checkpoints.wait()
        restore = ocp.Checkpointer.restore

        def damaged(self, path, args):
            out = restore(self, path, args=args)
            return out | {"w": out["w"].at[1].add(1e-6)}

        monkeypatch.setattr(ocp.Checkpointer, "restore", damaged)
        with pytest.raises(CheckpointError, match="checksum of leaf 'w' differs"):
            checkpoints.restore(1, state)


def test_all_damaged_is_an_error_not_a_new_start(two_steps, tmp_path):
    folder = tmp_path / "all"
    shutil.copytree(two_steps, folder)
    for file in folder.rglob("metadata"):
        file.write_text("{}")
    with (
        open_checkpoints(folder) as checkpoints,
        pytest.raises(CheckpointError, match="none of the 2 checkpoints"),
    ):
        checkpoints.restore_latest(make_state(0))


def test_templates_that_do_not_fit(two_steps):
    state = make_state(0)
    dense = dict(state.params["params"]["Dense_0"])
    more = {"params": {"Dense_0": dense, "Dense_1": dense}}
    less = {"params": {"Dense_0": {"bias": dense["bias"]}}}
    cast = {"params": {"Dense_0": {**dense, "kernel": dense["kernel"].astype(jnp.bfloat16)}}}
    rest = (state.ema_params, state.opt_state, state.key)
    kernel = "params/params/Dense_0/kernel"
    with open_checkpoints(two_steps, read_only=True) as checkpoints:
        with pytest.raises(ValueError, match=r"Dense_0/bias.* bfloat16\[5\].* bfloat16\[6\]"):
            checkpoints.restore_latest(make_state(0, width=6))
        with pytest.raises(ValueError, match="no leaf 'params/params/Dense_1/bias'"):
            checkpoints.restore_latest(TrainState(state.step, more, *rest))
        with pytest.raises(ValueError, match=f"has the leaf '{kernel}', which the template lacks"):
            checkpoints.restore_latest(TrainState(state.step, less, *rest))
        with pytest.raises(ValueError, match=rf"{kernel}.* float32\[3, 5\].* bfloat16\[3, 5\]"):
            checkpoints.restore_latest(TrainState(state.step, cast, *rest))


def test_a_newer_format_is_refused_in_words(tmp_path, monkeypatch):
    monkeypatch.setattr("score_jax.checkpoints.store.FORMAT_VERSION", 3)
    with open_checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jnp.ones(1)})
    monkeypatch.undo()
    with (
        open_checkpoints(tmp_path) as checkpoints,
        pytest.raises(ValueError, match=r"has format 3.*install a newer score_jax"),
    ):
        checkpoints.restore_latest({"x": jnp.ones(1)})


def test_params_for_inference_need_only_the_folder(two_steps, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in two_steps.rglob("*")}
    expected = make_state(2)
    assert same(restore_params(two_steps), expected.ema_params)
    assert same(restore_params(str(two_steps), expected.ema_params), expected.ema_params)
    assert same(restore_params(two_steps, field="params"), expected.params)
    assert {path: path.stat().st_mtime_ns for path in two_steps.rglob("*")} == before
    with pytest.raises(ValueError, match="no leaves under 'nonsense'"):
        restore_params(two_steps, field="nonsense")
    with pytest.raises(ValueError, match="float32"):
        restore_params(two_steps, make_state(0, width=6).ema_params)
    with pytest.raises(CheckpointError, match="no checkpoint folder"):
        restore_params(tmp_path / "missing")
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        restore_params(tmp_path)


def test_folders_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="is a file"):
        open_checkpoints(tmp_path / "file")
    with pytest.raises(CheckpointError, match="cannot open the checkpoint folder") as caught:
        open_checkpoints(tmp_path / "file" / "below")
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="keep must be >= 1"):
        open_checkpoints(tmp_path, keep=0)


def test_a_full_disk_damages_nothing(tmp_path):
    """The limit on file sizes stands for a full disk: writing fails in the middle."""
    state = {"x": jax.random.normal(jax.random.key(0), (100_000,))}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with open_checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, {"x": jnp.ones(100_000)})
        checkpoints.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        try:
            checkpoints.save(2, state)
            with pytest.raises(CheckpointError, match=r"cannot save.*File too large") as caught:
                checkpoints.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert "\n" not in str(caught.value)
        assert checkpoints.latest_step() == 1
        assert not list(tmp_path.glob("*tmp*"))  # which would keep the space
        assert checkpoints.restore_latest(state).step == 1
        checkpoints.save(2, state)
        checkpoints.wait()
        assert checkpoints.steps() == [2]
    with open_checkpoints(tmp_path) as checkpoints:
        np.testing.assert_array_equal(checkpoints.restore_latest(state).state["x"], state["x"])


def test_orbax_is_quiet_about_its_doings(tmp_path, caplog):
    with caplog.at_level(logging.INFO), open_checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jnp.ones(1)})
    assert [r for r in caplog.records if "orbax" in r.pathname] == []
