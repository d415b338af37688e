"""Train the classifier of noisy data that guides a run: `--workdir runs/x`."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import tyro

from score_jax._files import write_json

from . import cli
from .config import ClassifierConfig
from .late import late
from .reports import tables

with late():
    import jax
    import jax.numpy as jnp

    from score_jax import checkpoints, training
    from score_jax.losses import classifier_loss

    from . import runs
    from .parts import guiding


EVERY = 10
MOST = 2_000  # test examples on which the accuracy is measured


@dataclasses.dataclass(frozen=True)
class Args:
    """Train a classifier of the run's data at all its noise levels, and report its accuracy."""

    # Folder of a run made by experiments.train; the classifier is written to WORKDIR/classifier.
    workdir: str
    # The classifier.
    classifier: Annotated[ClassifierConfig, tyro.conf.OmitArgPrefixes] = dataclasses.field(
        default_factory=ClassifierConfig
    )


def prepare(run: runs.Run) -> Any:
    """Prepare raw batches for the loss, with their labels."""
    return dataclasses.replace(run.source, labelled=True).prepare


def accuracies(run: runs.Run, net: Any, params: Any, times: Sequence[float]) -> Any:
    """The fraction of test examples that are classified correctly, at each of some times."""
    held_out = run.source.examples(MOST)
    x0, y = run.source.from_data(jax.random.key(0), held_out["x"]), np.asarray(held_out["y"])

    @jax.jit
    def right(key: Any, t: Any) -> Any:
        mean, std = run.sde.marginal(x0, t)
        x = mean + std * jax.random.normal(key, x0.shape, x0.dtype)
        logits = net.apply(
            params, x, jnp.broadcast_to(guiding.noise_input(run)(run.sde, t), (len(y),))
        )
        return (logits.argmax(axis=1) == y).mean()

    keys = jax.random.split(jax.random.key(1), len(times))
    return [float(right(k, jnp.float32(t))) for k, t in zip(keys, times, strict=True)]


def fit(workdir: pathlib.Path, c: ClassifierConfig, progress: bool | None = None) -> Any:
    """Train the classifier of a run; (network, parameters, result of `training.fit`)."""
    run = runs.build(runs.load_config(workdir), runs.load_record(workdir))
    net = guiding.make_classifier(run, c)
    folder = workdir / guiding.FOLDER
    folder.mkdir(exist_ok=True)
    known = {**dataclasses.asdict(c), "num_classes": run.source.num_classes}
    params_key, state_key = jax.random.split(jax.random.key(c.seed))
    x = jnp.zeros((1, *run.shape))
    params = jax.jit(net.init)(params_key, x, jnp.zeros(1))
    optimizer = training.make_optimizer(learning_rate=c.lr, warmup=min(100, c.steps))
    loss = classifier_loss(
        run.sde, net.apply, noise_input=guiding.noise_input(run), t0=run.config.loss.t0
    )
    step = training.make_train_step(loss, optimizer, prepare=prepare(run))
    steps = -(-c.steps // EVERY) * EVERY
    with (
        training.locked(folder),
        checkpoints.open_checkpoints(folder / "checkpoints", keep=1) as store,
        contextlib.closing(run.source.batches(c.batch_size, seed=c.seed)) as batches,
    ):
        write_json(folder / guiding.CONFIG_FILE, known)
        result = training.fit(
            training.init_state(state_key, params, optimizer),
            training.jit_step(training.scan_steps(step, EVERY)),
            batches,
            steps=steps,
            checkpoints=store,
            saving=training.Saving(max(EVERY, steps // (5 * EVERY) * EVERY)),
            hooks=[training.MetricsFile(folder / runs.METRICS), training.Progress(progress)],
        )
    return run, net, result


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `python -m experiments.train_classifier`."""
    args = cli.parse(Args, "experiments.train_classifier", argv)
    cli.start(args.workdir, data=True)
    workdir = pathlib.Path(args.workdir)
    run, net, result = fit(workdir, args.classifier)
    times = [share * run.sde.t1 for share in (0.01, 0.1, 0.25, 0.5, 0.75)]
    _, params = guiding.load_classifier(run, workdir)
    found = accuracies(run, net, params, times)
    print(
        tables.table(
            [["t", *(f"{t:g}" for t in times)], ["accuracy", *(f"{a:.1%}" for a in found)]]
        )
    )
    print(f"trained to step {result.step}: {workdir / guiding.FOLDER}")


if __name__ == "__main__":
    cli.main(main)
