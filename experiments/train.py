"""Train a score model: `python -m experiments.train --config digits_vp --workdir runs/x`."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import pathlib
import re
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from tqdm import tqdm

from . import cli
from .late import late
from .parts.extras import of_weights

with late():
    import jax

    from score_jax import checkpoints, training
    from score_jax._files import remove_left
    from score_jax._hosts import agreed
    from score_jax.types import Params

    from . import runs
    from .parts import loggers, mapping, origins, sampling
    from .reports import dry_run, levels, pictures
    from .reports.held_out import held_out
    from .reports.small_fid import SmallFID
    from .run_config import Config, to_record


def describe(run: runs.Run, params: Params) -> str:
    """A one-line description of the training."""
    devices = jax.devices()
    hosts = f" of {jax.process_count()} hosts" if training.several_hosts() else ""
    return (
        f"{type(run.net).__name__} with {dry_run.count(params):,} parameters, "
        f"examples of shape {run.shape}, "
        f"batch {run.config.train.batch_size} on {len(devices)} {devices[0].platform} device(s){hosts}"
    )


def attention_note(run: runs.Run, params: Params) -> list[str]:
    """A line if the sizes at which the network should attend do not occur on the run's data."""
    sizes = getattr(run.net, "attention", ())
    own = [name for name in params["params"] if name.endswith("_attention")]
    if not sizes or own != ["mid_attention"]:
        return []
    return [f"net.attention={sizes} are sizes that do not occur here: only the middle attends"]


class Trained(NamedTuple):
    """A run that was trained, and the result of `training.fit`."""

    run: runs.Run
    result: training.FitResult


def train(
    config: Config,
    workdir: pathlib.Path,
    *,
    progress: bool | None = None,
    allow_changes: bool = False,
    stall_seconds: float | None = None,
    log: Sequence[str] = (),
    init: origins.Start | None = None,
    profile: tuple[int, int] | None = None,
) -> Trained:
    """Train or resume the run in `workdir`.

    Of several hosts the first reads and writes the folder; `log` names what else it logs to. A new
    run starts from the weights of `init`, which every host reads; `profile` are the first and the last
    step of a trace. Raises ValueError for a config that does not fit the folder, unless
    `allow_changes`, for weights that do not fit, and FolderLocked where another run has the folder. A
    run that cannot make its first step leaves nothing.
    """
    fresh = not (workdir / runs.CONFIG_FILE).exists()
    try:
        return _train(config, workdir, progress, allow_changes, stall_seconds, log, init, profile)
    except Exception:
        if fresh and training.is_first() and not _has_steps(workdir):
            runs.forget(workdir)
        raise


def _has_steps(workdir: pathlib.Path) -> bool:
    """Whether a run has saved or logged anything."""
    metrics = workdir / runs.METRICS
    logged = metrics.is_file() and metrics.stat().st_size > 0
    return logged or any((workdir / runs.CHECKPOINTS).glob("step_*"))


def _train(
    config: Config,
    workdir: pathlib.Path,
    progress: bool | None,
    allow_changes: bool,
    stall_seconds: float | None,
    log: Sequence[str],
    init: origins.Start | None,
    profile: tuple[int, int] | None,
) -> Trained:
    mapping.check_devices(config)
    (run, notes), c = runs.begin(config, workdir), config.train
    # Whatever the config does not allow is found before anything is written.
    step, (state, origin) = mapping.mapped_step(run), start_of(run, workdir, init)
    first = training.is_first()
    small_fid = None if c.fid_every is None else SmallFID(run)
    trace = [_trace(profile, workdir)] if profile is not None else []
    with contextlib.ExitStack() as stack:
        begin = lambda: _begin(run, workdir, stack, allow_changes)
        agreed(begin, only_first=True)
        if first:
            if origin is not None:
                origins.write(workdir, origin)
                notes += origins.said(origin)
            lines = [*notes, describe(run, state.params), *dry_run.share_note(run)]
            print("\n".join([run.source.report(), *lines]))
            print("".join(f"{line}\n" for line in attention_note(run, state.params)), end="")
        # Hosts that hold a part of the state each write theirs; otherwise the first has all of it.
        apart = training.divided_over_hosts(step.form(state))
        store = _open(stack, workdir / runs.CHECKPOINTS, c.keep, apart)
        snapshots = None
        if c.snapshot_every is not None:
            snapshots = _open(stack, workdir / runs.SNAPSHOTS, None, apart)
        shared = training.several_hosts() and not apart
        batches = run.source.batches(
            c.batch_size,
            seed=config.seed,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        stack.enter_context(contextlib.closing(batches))
        result = training.fit(
            state,
            step,
            batches,
            steps=c.steps,
            hooks=[
                *trace,
                *_hooks(run, workdir, snapshots),
                training.Every(c.fid_every, small_fid),
                *(_loggers(config, workdir, log) if first else []),
                training.Progress(progress if first else False),
            ],
            checkpoints=training.SharedCheckpoints(store) if shared else store,
            saving=_saving(run),
            nonfinite_limit=c.nonfinite_limit,
            ahead=c.ahead,
            stall_seconds=stall_seconds,
        )
    return Trained(run, result)


def _begin(
    run: runs.Run, workdir: pathlib.Path, stack: contextlib.ExitStack, allow_changes: bool
) -> None:
    """Hold the folder, and write what the run is."""
    if not workdir.is_file():
        stack.enter_context(training.locked(workdir))
        remove_left(workdir, every=True)
    runs.save(workdir, run, allow_changes=allow_changes)


def _open(
    stack: contextlib.ExitStack, folder: pathlib.Path, keep: int | None, apart: bool
) -> checkpoints.Checkpoints | None:
    """The checkpoints in a folder: of all hosts together, or of the first alone and None elsewhere."""

    def opened() -> checkpoints.Checkpoints | None:
        if not apart and not training.is_first():
            return None
        return checkpoints.open_checkpoints(folder, keep=keep, together=apart)

    store: checkpoints.Checkpoints | None = opened() if apart else agreed(opened)
    return store if store is None else stack.enter_context(store)


def _trace(profile: tuple[int, int], workdir: pathlib.Path) -> training.Trace:
    """The hook that writes the trace, on the first host."""
    return training.Trace(workdir / "profile" if training.is_first() else None, *profile)


def start_of(
    run: runs.Run, workdir: pathlib.Path, init: origins.Start | None
) -> tuple[training.TrainState, Any]:
    """(the state of step 0, the record of the weights that it has, or None if they are drawn)."""
    start = origins.due(workdir, init) if training.is_first() else None
    if training.several_hosts():
        fields = training.share(None if start is None else dataclasses.asdict(start))
        start = None if fields is None else origins.Start(**fields)
    return (runs.initial_state(run), None) if start is None else origins.state_of(run, start)


def _loggers(config: Config, workdir: pathlib.Path, log: Sequence[str]) -> list[training.Hook]:
    """The hooks of what else training logs to."""
    record = to_record(config)
    return [loggers.LOGGERS[name](workdir, record, config.train.log_every) for name in log]


def _saving(run: runs.Run) -> training.Saving:
    """The `Saving` of a config."""
    c = run.config.train
    test_loss = c.checkpoint_metric == "test_loss"
    return training.Saving(
        c.checkpoint_every,
        extra=to_record(run.config),
        metric=functools.partial(_test_loss, run) if test_loss else None,
        stop_on_error=c.save_error == "stop",
    )


def _hooks(run: runs.Run, workdir: pathlib.Path, snapshots: Any) -> list[training.Hook]:
    """The hooks of a config: all hosts compute, and the first writes the files."""
    c, metrics = run.config.train, workdir / runs.METRICS
    return [
        training.MetricsFile(metrics if training.is_first() else None, c.log_every),
        training.Usage(c.sample_every, functools.partial(dry_run.flops_of, run)),
        training.Snapshots(snapshots, c.snapshot_every, c.save_error == "stop"),
        training.Every(c.sample_every, functools.partial(_draw_pictures, run, workdir)),
        training.Every(c.sample_every, functools.partial(_test_levels, run)),
    ]


def _test_levels(run: runs.Run, step: int, state: Any) -> dict[str, Any] | None:
    """The loss of the averaged parameters on held-out data, in all and by noise level."""
    del step
    if run.source.test is None:
        return None
    found = held_out(run, state.ema_params, **_held_out_options(run))
    return {"test_loss": found.loss, "test_loss_by_level": found.by_level}


def _held_out_options(run: runs.Run) -> dict[str, Any]:
    """The same examples and the same noise at every step, a microbatch at once, as in training."""
    c = run.config.train
    key, chunk = jax.random.key(run.config.seed), c.batch_size // c.microbatches
    return {"key": key, "most": 512, "chunk": chunk}


def _test_loss(run: runs.Run, step: int, state: Any) -> float:
    """The loss of the averaged parameters on held-out data."""
    del step
    return held_out(run, state.ema_params, **_held_out_options(run)).loss


def _draw_pictures(run: runs.Run, workdir: pathlib.Path, step: int, state: Any) -> None:
    agreed(lambda: _check_there(workdir), only_first=True)
    key, quick = jax.random.key(run.config.seed + 1), sampling.quick(run.config.sample)
    path = workdir / "pictures" / f"samples_{step:07d}.png"
    try:
        options: dict[str, Any] = {"progress": False, "devices": jax.devices()}
        drawn = sampling.draw(run, state.ema_params, key, 64, quick, **options)
    except ArithmeticError as error:  # of a young network
        if training.is_first():
            print(f"no picture {path}: {error}", file=sys.stderr)
        return
    if training.is_first() and pictures.save_samples(run, drawn.x, path):
        tqdm.write(f"wrote {path}", file=sys.stderr)  # above the bar, if there is one


def _check_there(workdir: pathlib.Path) -> None:
    """Raise FileNotFoundError if the run's folder is gone, which a picture would make anew."""
    if not (workdir / runs.CONFIG_FILE).is_file():
        raise FileNotFoundError(f"{workdir} was removed while the run in it was training")


def draw_curves(run: runs.Run, workdir: pathlib.Path) -> None:
    """Draw the loss, in all and by noise level, over the steps of a run."""
    pictures.save_loss(workdir / runs.METRICS, workdir / "loss.png")
    levels.save_levels(run, workdir / runs.METRICS, workdir / "loss_by_level.png")


def ending(result: training.FitResult) -> str:
    """How a training ended, in a line: the step, and the speed where any was measured."""
    rate = result.steps_per_second
    facts = [f"{rate:.1f} steps a second"] if math.isfinite(rate) else []
    facts += [f"{result.skipped} steps skipped"] if result.skipped else []
    how = "stopped at" if result.interrupted else "trained to"
    return f"{how} step {result.step}" + (f" ({', '.join(facts)})" if facts else "")


def steps_of(flag: str, text: str) -> tuple[int, int]:
    """The steps of a text "first:last"; ValueError naming the flag for another text."""
    found = re.fullmatch(r"(\d{1,9}):(\d{1,9})", text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise ValueError(
            f"{flag} must be first:last, two steps from 1 such as 100:110, got {text!r}"
        )
    return int(found[1]), int(found[2])


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `python -m experiments.train`."""
    args, config = cli.parse_config("experiments.train", "Train a score model.", argv)
    profile = None if args.profile is None else steps_of("--profile", args.profile)
    init = origins.Start.of_flags(args.init, args.init_preset, args.init_raw, args.init_anew)
    needs = {"plots": None if args.dry_run else "the pictures of a run"}
    needs |= {"weights": of_weights("--init", args.init)}
    needs |= {str(name): f"--log {name}" for name in args.log}
    cli.start(hosts=args.hosts, data=not args.dry_run and config.data, extras=needs)
    config = mapping.with_batch_per_device(config, args.per_device)
    workdir = pathlib.Path(args.workdir)
    if args.dry_run:
        run = runs.build(config)
        if init is not None:
            print("\n".join(origins.said(origins.state_of(run, init)[1])))
        dry_run.report(run, functools.partial(runs.initial_state, run))
        return
    run, result = train(
        config,
        workdir,
        allow_changes=args.allow_changes,
        stall_seconds=args.hosts.stall_seconds if training.several_hosts() else None,
        log=args.log,
        init=init,
        profile=profile,
    )
    if training.is_first():
        draw_curves(run, workdir)
        print(f"{ending(result)}: {workdir}")
    if result.interrupted:
        sys.exit(cli.INTERRUPTED)


if __name__ == "__main__":
    cli.main(main)
