"""Build a run from its config, load one from its folder, write one."""

import dataclasses
import functools
import json
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from score_jax import __version__, checkpoints, losses, training
from score_jax._check import check_classes
from score_jax._files import replacing, write_json, write_npz, write_text
from score_jax._hosts import agreed
from score_jax.convert.pretrained import CHECKPOINTS, MODEL_FILE
from score_jax.convert.records import Ingredients
from score_jax.convert.records import to_json as ingredients_to_json
from score_jax.model import Model
from score_jax.nets.layers import KEPT
from score_jax.score import NetworkScore
from score_jax.types import IndexSampler, Loss, Params, PRNGKey

from .parts import datasets, describe, fitted, fitting, objectives, run_folder, teachers, upgrade
from .parts.fitted import NOTHING, Fitted
from .run_config import Config, differences, flatten, from_json, to_json, to_record

CONFIG_FILE = run_folder.CONFIG_FILE
DATA_FILE = run_folder.DATA_FILE
ORIGIN_FILE = "origin.json"  # of the weights that a run started from
CONDITIONS = "conditions.npz"  # some conditions of the test split, for samples without the data
SNAPSHOTS = "averages"
METRICS = "metrics.jsonl"
# Fields that each host may have of its own.
OF_A_HOST = ("data.path", "data.test_path", "data.workers", "data.processes")


@dataclasses.dataclass(frozen=True)
class Run:
    """All parts of a run, built from its config."""

    config: Config
    source: datasets.RunData
    ingredients: Ingredients
    optimizer: optax.GradientTransformation
    # The files of what experiments.compare fitted to this run.
    fitted: Fitted = NOTHING

    @functools.cached_property
    def model(self) -> Model:
        """The network joined to its process."""
        return self.ingredients.model()

    @property
    def net(self) -> Any:
        """The network."""
        return self.ingredients.net

    @property
    def sde(self) -> Any:
        """The forward process."""
        return self.ingredients.sde

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return self.source.shape

    @property
    def num_classes(self) -> int | None:
        """How many classes the network is conditioned on, or None."""
        return self.source.num_classes if self.config.class_conditional else None

    @property
    def null_class(self) -> int | None:
        """The class that stands for no label, of a network trained with hidden labels, or None."""
        return self.num_classes if self.config.loss.label_dropout else None

    @functools.cached_property
    def decoder(self) -> losses.Decoder:
        """The log-mass of a grey level, or the density of data without levels."""
        levels, (low, high) = self.source.levels, self.config.data.range
        if levels is None:
            return losses.density_decoder
        return losses.discretized_gaussian(levels, low=low, high=high)

    @functools.cached_property
    def index_sampler(self) -> IndexSampler | None:
        """The sampler of the indices of a noise schedule in training, or None."""
        learned = self.config.loss.indices == "loss_second_moment"
        return losses.loss_second_moment(self.sde.n) if learned else None

    @functools.cached_property
    def loss(self) -> Loss:
        """The loss in training, with dropout."""
        remat = self.config.train.remat
        net = self.net if remat == "none" else self.net.clone(remat=True)
        loss = self._loss_on(dataclasses.replace(self.model, apply=net.apply), train=True)
        loss = objectives.with_precision(loss, self.config.train.matmul_precision)
        if remat != "full":
            return loss
        # Only the outputs of the blocks are kept, not the values computed from them.
        return jax.checkpoint(loss, policy=jax.checkpoint_policies.save_only_these_names(KEPT))

    @functools.cached_property
    def test_loss(self) -> Loss:
        """The loss on held-out data."""
        return self._loss_on(self.model, train=False)

    def _loss_on(self, model: Model, *, train: bool) -> Loss:
        return objectives.make_loss(
            self.config, model, decoder=self.decoder, teacher=self.teacher,
            null_class=self.null_class, train=train,
        )  # fmt: skip

    @functools.cached_property
    def teacher(self) -> losses.Teacher | None:
        """The probability flow that is distilled in training, or None."""
        c = self.config.loss
        if c.teacher is None:
            return None
        return teachers.read(c.teacher, c.teacher_preset, self.ingredients)

    @functools.cached_property
    def shapes(self) -> training.TrainState:
        """The shapes of the state."""
        return jax.eval_shape(lambda key: initial_state(self, key), jax.random.key(0))

    def init_params(self, key: PRNGKey) -> Params:
        """Draw the parameters of the network."""
        x = jnp.zeros((1, *self.shape))
        batch = {"y": jnp.zeros((1,), jnp.int32)}
        if self.source.cond is not None:
            batch["cond"] = jnp.zeros((1, *self.source.cond.shape))
        given = self.source.given(batch)
        if self.config.data.low_res_factor:
            given["low_res"] = self.source.reduced(x)
        return self.with_uncertainty(jax.jit(self.net.init)(key, x, jnp.ones((1,)), **given))

    def with_uncertainty(self, params: Params) -> Params:
        """The parameters with those of a learned weight of the loss, untrained unless they have them."""
        return losses.Uncertainty().init() | params if self.config.loss.uncertainty else params

    def score(self, params: Params, y: Any = None, low_res: Any = None) -> NetworkScore:
        """The score of the parameters and what the network is given: labels or vectors y, fields."""
        if self.net_is_given_images and low_res is None:
            raise ValueError(
                "this network is conditioned on images or fields, which have to be given: "
                "Model.score(params, low_res=...)"
            )
        if y is not None and self.null_class is not None:
            check_classes(y, self.null_class + 1)
            # A class outside, as only a compiled program can have it, counts as no class.
            y = jnp.where((y >= 0) & (y < self.null_class), y, self.null_class)
        return self.model.score(params, y, **({} if low_res is None else {"low_res": low_res}))

    @property
    def net_is_given_images(self) -> bool:
        """Whether the network is conditioned on small images or on fields of the data's size."""
        cond = self.source.cond
        field = cond is not None and len(cond.shape) > 1
        return field or self.config.data.low_res_factor is not None


def in_precision(run: Run, precision: str | None) -> Run:
    """The run with its network computing in float32 or bfloat16; None: as it was trained."""
    if precision is None:
        return run
    if not hasattr(run.net, "dtype"):
        raise ValueError(
            f"--precision {precision}: net.kind={type(run.net).__name__!r} has no dtype"
        )
    net = run.net.clone(dtype=jnp.dtype(precision))
    return dataclasses.replace(run, ingredients=dataclasses.replace(run.ingredients, net=net))


def build(config: Config, record: Mapping[str, Any] | None = None) -> Run:
    """Build every part of a run; ValueError where the config does not fit the data.

    record: what is known of the data (`load_record`), which then need not be there.
    """
    return of_data(config, datasets.run_data(config, record))


def begin(config: Config, workdir: pathlib.Path) -> tuple[Run, list[str]]:
    """(the run, notes about its data): as it began in a folder, or its data surveyed for a new run.

    The first of several hosts decides. Raises ValueError for data that are not those of the folder.
    """
    there = lambda: [load_record(workdir), (workdir / CONFIG_FILE).is_file()]
    record, old = agreed(there, only_first=True)

    def begun() -> tuple[Run, list[str]]:
        if record is None and not old:
            source, notes = datasets.run_data(config).surveyed()
            return of_data(config, source), notes
        # An older run has no record of its data, and never standardised them.
        run = build(config, record)
        run.source.splits  # noqa: B018  # opened here, where a host with other data stops all of them
        source = run.source.described() if record is None else run.source
        return of_data(config, source), []

    run, notes = agreed(begun)
    check_alike(run)
    return run, notes


def check_alike(run: Run) -> None:
    """Raise HostsDiffer, on all hosts, unless they have one config, one version and the same data."""
    if not training.several_hosts():
        return
    own = {name: value for name, value in flatten(run.config).items() if name not in OF_A_HOST}
    # Means and deviations of the data may differ in their rounding on another processor.
    record = json.dumps(describe.flat({"the data's": run.source.to_record()}))
    data = json.loads(record, parse_float=lambda text: float(f"{float(text):.5g}"))
    training.check_same(json.loads(json.dumps(versions() | own)) | data)


def versions() -> dict[str, str]:
    """The versions that must be the same on all hosts."""
    return {"score_jax": __version__, "jax": jax.__version__, "numpy": np.__version__}


def of_data(config: Config, source: datasets.RunData) -> Run:
    """Build every part of a run on its data."""
    classes = source.num_classes if config.class_conditional else None
    if classes is not None and config.loss.label_dropout:
        classes += 1  # the class of hidden labels
    ingredients = Ingredients(
        fitting.resolved(config, source, classes), config.sde, config.noise_input,
        config.parametrization, config.variance,
    )  # fmt: skip
    return Run(config, source, ingredients, objectives.make_optimizer(config))


def make_step(run: Run, axis_name: str | None = None) -> training.TrainStep:
    """The training step of a run: for one device or global arrays, or mapped over an axis."""
    return training.make_train_step(
        run.loss,
        run.optimizer,
        ema_decay=run.config.optim.ema_decay,
        prepare=functools.partial(run.source.prepare, training=True),
        axis_name=axis_name,
        index_sampler=run.index_sampler,
        averages=objectives.make_averages(run.config),
        microbatches=run.config.train.microbatches,
    )


def make_state(run: Run, key: PRNGKey, params: Params) -> training.TrainState:
    """The state of a run before its first step, from parameters that are given."""
    averages = tuple(objectives.make_averages(run.config))
    return training.init_state(
        key, params, run.optimizer, index_sampler=run.index_sampler, averages=averages
    )


def initial_state(run: Run, key: PRNGKey | None = None) -> training.TrainState:
    """Draw the parameters and make the state of step 0; everything follows from config.seed."""
    key = jax.random.key(run.config.seed) if key is None else key
    params_key, state_key = jax.random.split(key)
    return make_state(run, state_key, run.init_params(params_key))


def save_config(workdir: pathlib.Path, config: Config, *, allow_changes: bool = False) -> None:
    """Write config.json; ValueError with the differences if the folder holds another run's.

    With `allow_changes` the differences are printed, and the new config takes the place of the old.
    """
    path = workdir / CONFIG_FILE
    if path.exists():
        old = load_config(workdir)
        note = edited(workdir, old)
        if note and not allow_changes:
            raise ValueError(f"{note}: restore it, or go on with the change by --allow-changes")
        changed = [note] if note else []
        changed += differences(old, config)
        if changed and not allow_changes:
            raise ValueError(
                f"workdir {str(workdir)!r} holds a run with another config "
                f"({'; '.join(changed)}): choose another --workdir or the same fields, or go on "
                "with the change by --allow-changes"
            )
        for line in changed:
            print(f"changed: {line}", file=sys.stderr)
    elif workdir.exists() and not workdir.is_dir():
        raise ValueError(f"workdir {str(workdir)!r} is a file, not a folder")
    else:
        _check_left(workdir, config, allow_changes)
    workdir.mkdir(parents=True, exist_ok=True)
    write_text(path, to_json(config))


def _check_left(workdir: pathlib.Path, config: Config, allow_changes: bool) -> None:
    """Raise ValueError for what a run left that has lost its config: it would be another run's."""
    found = newest_config(workdir)
    if found is not None:
        step, saved = found
        changed = differences(saved, config)
        if changed and not allow_changes:
            raise ValueError(
                f"workdir {str(workdir)!r} has no {CONFIG_FILE}, but the checkpoint of step {step} of a "
                f"run with another config ({'; '.join(changed)}): choose another --workdir or the "
                "same fields, or go on with the change by --allow-changes"
            )
    elif any((workdir / SNAPSHOTS).glob("step_*")):
        raise ValueError(
            f"workdir {str(workdir)!r} has snapshots ({SNAPSHOTS}) of a run whose config and checkpoints "
            "are gone: remove them, or choose another --workdir"
        )


def save(workdir: pathlib.Path, run: Run, *, allow_changes: bool = False) -> None:
    """Write config.json (`save_config`), data.json, and model.json for `sj.load_pretrained`."""
    save_config(workdir, run.config, allow_changes=allow_changes)
    write_json(workdir / DATA_FILE, run.source.to_record())
    if run.source.kept is not None:
        write_npz(workdir / CONDITIONS, cond=run.source.kept)
    write_text(workdir / MODEL_FILE, ingredients_to_json(run.ingredients))


def load_config(workdir: pathlib.Path) -> Config:
    """Read the config of a run folder; ValueError that names the folder if there is none.

    A config of version 0.1 is converted.
    """
    path = run_folder.check_run(workdir)
    try:
        return from_json(upgrade.upgraded(path.read_text()))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def load_record(workdir: pathlib.Path) -> Any:
    """What data.json says of the data of a run, or None where there is none (older folders).

    Raises ValueError that names the file where it cannot be read.
    """
    path = workdir / DATA_FILE
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def check_new(name: str, folder: pathlib.Path) -> None:
    """Raise ValueError naming the option if there is more than an empty folder at its path."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"--{name} {str(folder)!r} exists already: choose another name")


def newest_config(workdir: pathlib.Path) -> tuple[int, Config] | None:
    """(step, config) of the newest checkpoint whose config can be read, or None without any."""
    if not (workdir / CHECKPOINTS).is_dir():
        return None
    with checkpoints.open_checkpoints(workdir / CHECKPOINTS, read_only=True) as store:
        return _newest_config(store)


def _newest_config(store: checkpoints.Checkpoints) -> tuple[int, Config] | None:
    """`newest_config` with the checkpoints open."""
    for step in reversed(store.steps()):
        try:
            return step, from_json(upgrade.upgraded(json.dumps(store.extra(step))))
        except (ValueError, checkpoints.CheckpointError):
            continue
    return None


def edited(workdir: pathlib.Path, config: Config) -> str | None:
    """One line if the folder's config differs from that of its newest checkpoint, otherwise None."""
    return _edited(workdir, config, newest_config(workdir))


def _edited(workdir: pathlib.Path, config: Config, newest: tuple[int, Config] | None) -> str | None:
    """`edited` of the newest config of the checkpoints."""
    if newest is None:
        return None
    step, saved = newest
    changed = differences(saved, config)
    if not changed:
        return None
    return (
        f"{workdir / CONFIG_FILE} is not the config of its newest checkpoint, of step {step} "
        f"({'; '.join(changed)})"
    )


def forget(workdir: pathlib.Path) -> None:
    """Remove what the start of a run has written, as long as nothing was trained."""
    for name in (CONFIG_FILE, DATA_FILE, CONDITIONS, ORIGIN_FILE, MODEL_FILE):
        (workdir / name).unlink(missing_ok=True)
    metrics = workdir / METRICS
    if metrics.is_file() and not metrics.stat().st_size:
        metrics.unlink()
    for folder in (workdir / CHECKPOINTS, workdir / SNAPSHOTS, workdir):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def load(workdir: pathlib.Path, step: int | None = None) -> tuple[Run, Params, int]:
    """Read a run folder: (run, EMA parameters, step), the newest or those of a step.

    It needs nothing but that folder. A config.json that was edited since the newest checkpoint is
    mentioned on stderr. Raises ValueError for a folder without checkpoints, and without that of `step`.
    """
    config = load_config(workdir)
    run = build(config, load_record(workdir))
    if (workdir / CONDITIONS).is_file():
        with np.load(workdir / CONDITIONS, allow_pickle=False) as file:
            kept = dataclasses.replace(run.source, kept=file["cond"])
        run = dataclasses.replace(run, source=kept)
    run = dataclasses.replace(run, fitted=fitted.found_in(workdir))
    template = jax.eval_shape(run.init_params, jax.random.key(0))
    with checkpoints.open_checkpoints(workdir / CHECKPOINTS, read_only=True) as store:
        note = _edited(workdir, config, _newest_config(store))
        if note:
            print(f"note: {note}", file=sys.stderr)
        if step is not None and step not in store.steps():
            raise ValueError(
                f"workdir {str(workdir)!r} has checkpoints {store.steps()}, none of {step}"
            )
        if step is not None:
            return run, store.read(step, "ema_params"), step
        found = store.restore_field(template)
    if found is None:
        raise ValueError(f"workdir {str(workdir)!r} holds no checkpoint: train it first")
    return run, found.state, found.step


def write(
    workdir: pathlib.Path, run: Run, params: Params, step: int, notes: dict[str, Any]
) -> None:
    """Write the folder of a run whose weights are given, whole or not at all.

    `notes`: JSON values by the names of the files that they go to.
    """
    state = make_state(run, jax.random.key(run.config.seed), run.with_uncertainty(params))
    with replacing(workdir) as part:
        save(part, run)
        for name, value in notes.items():
            write_json(part / name, value)
        with checkpoints.open_checkpoints(part / CHECKPOINTS, keep=1) as store:
            store.save(step, state, extra=to_record(run.config))
