"""Train a score model: `python -m experiments.train --config digits_vp --workdir runs/x`."""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import jax

from experiments import build as builder
from experiments import cli, dry_run, pictures, sampling
from experiments.configs import Config
from score_jax import _xla, checkpoints, data, training

CHECKPOINTS = "checkpoints"
METRICS = "metrics.jsonl"


def start() -> None:
    """Prepare JAX for a command: compiler options for this CPU, and the cache of programs."""
    _xla.tune_cpu()
    _xla.enable_compilation_cache()


def initial_state(exp: builder.Experiment, key: Any = None) -> training.TrainState:
    """Draw the parameters and make the state of step 0; everything follows from config.seed."""
    key = jax.random.key(exp.config.seed) if key is None else key
    params_key, state_key = jax.random.split(key)
    return training.init_state(
        state_key,
        exp.init_params(params_key),
        exp.optimizer,
        index_sampler=exp.process.index_sampler,
    )


def describe(exp: builder.Experiment) -> str:
    """One line of what is trained."""
    shapes = jax.eval_shape(exp.init_params, jax.random.key(0))
    devices = jax.local_devices()
    return (
        f"{exp.config.net.kind} with {dry_run.count(shapes):,} parameters, "
        f"{len(exp.train.x):,} examples of shape {exp.shape}, "
        f"batch {exp.config.train.batch_size} on {len(devices)} {devices[0].platform} device(s)"
    )


def train(config: Config, workdir: pathlib.Path, *, progress: bool | None = None) -> Any:
    """Train, or go on with, the run in `workdir`; returns the result of `training.fit`."""
    exp = builder.build(config)
    c = config.train
    devices = jax.local_devices()
    if c.batch_size % len(devices):
        raise ValueError(
            f"train.batch_size must be divisible by the {len(devices)} devices, got {c.batch_size}"
        )
    cli.save_config(workdir, config)
    print(describe(exp))
    step = training.make_train_step(
        exp.loss,
        exp.optimizer,
        ema_decay=config.optim.ema_decay,
        prepare=exp.prepare,
        axis_name="devices",
        index_sampler=exp.process.index_sampler,
    )
    mapped = training.pmap_step(training.scan_steps(step, c.steps_per_call))
    iterator = data.batches(exp.train, c.batch_size, seed=config.seed)
    with checkpoints.open_checkpoints(workdir / CHECKPOINTS, keep=c.keep) as store:
        return training.fit(
            initial_state(exp),
            mapped,
            iterator,
            steps=c.steps,
            checkpoints=store,
            checkpoint_every=c.checkpoint_every,
            extra=dataclasses.asdict(config),
            metrics_path=workdir / METRICS,
            log_every=c.log_every,
            sample_every=c.sample_every,
            on_sample=functools.partial(_draw_pictures, exp, workdir),
            progress=progress,
        )


def _draw_pictures(exp: builder.Experiment, workdir: pathlib.Path, step: int, state: Any) -> None:
    config = exp.config.sample
    quick = sampling.quick(config)
    drawn = sampling.draw(
        exp, state.ema_params, jax.random.key(exp.config.seed + 1), 64, quick, progress=False
    )
    folder = workdir / "pictures"
    folder.mkdir(exist_ok=True)
    pictures.save_samples(exp, drawn.x, folder / f"samples_{step:07d}.png")


def restore(workdir: pathlib.Path) -> tuple[builder.Experiment, Any, int]:
    """Read a run folder: (experiment, EMA parameters, step); it needs nothing but that folder."""
    exp = builder.build(cli.load_config(workdir))
    template = jax.eval_shape(exp.init_params, jax.random.key(0))
    with checkpoints.open_checkpoints(workdir / CHECKPOINTS, read_only=True) as store:
        params, step = store.restore_params(template), store.latest_step()
    if params is None:
        raise ValueError(f"workdir {str(workdir)!r} holds no checkpoint: train it first")
    return exp, params, int(step or 0)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `python -m experiments.train`."""
    args = cli.parse_config("experiments.train", "Train a score model.", argv)
    start()
    if args.dry_run:
        exp = builder.build(args.cfg)
        dry_run.report(exp, functools.partial(initial_state, exp))
        return
    workdir = pathlib.Path(args.workdir)
    result = train(args.cfg, workdir)
    pictures.save_loss(workdir / METRICS, workdir / "loss.png")
    how = "stopped at" if result.interrupted else "trained to"
    print(f"{how} step {result.step} ({result.steps_per_second:.1f} steps a second): {workdir}")


if __name__ == "__main__":
    cli.main(main)
