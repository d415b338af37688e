"""Training: the state, one pure step, its optimiser and averages, and the mappings onto devices.

    key_n = fold_in(key, n)         all randomness of step n is a function of n
    g     = grad loss(params, key_n, prepare(batch)), averaged over the devices
    params <- params + optimizer(clip(g))
    ema    <- d_n ema + (1 - d_n) params,   d_n = min(d, (1 + n) / (10 + n))         (1)

The step is one function of `(state, batch)`. `scan_steps` makes n of them one program; `jit_step`,
`pmap_step`, `shard_map_step` and `global_step` put either on devices as a `MappedStep`, which is
what `fit` drives.

>>> optimizer = make_optimizer(learning_rate=2e-4, warmup=1000)
>>> step = make_train_step(loss, optimizer, ema_decay=0.999, axis_name="devices")
>>> state = init_state(jax.random.key(0), params, optimizer)
>>> with open_checkpoints("run/checkpoints") as checkpoints:
...     result = fit(state, pmap_step(scan_steps(step, 10)), batches, steps=5000,
...                  hooks=[MetricsFile("run/metrics.jsonl"), Progress()], checkpoints=checkpoints)
"""

from score_jax._files import FolderLocked as FolderLocked
from score_jax._files import locked as locked
from score_jax._renamed import renamed as _renamed
from score_jax.training.ema import Decay as Decay
from score_jax.training.ema import Profile as Profile
from score_jax.training.ema import combination as combination
from score_jax.training.ema import combine as combine
from score_jax.training.ema import ema_decay_at as ema_decay_at
from score_jax.training.ema import exponential as exponential
from score_jax.training.ema import post_hoc as post_hoc
from score_jax.training.ema import power as power
from score_jax.training.ema import power_gamma as power_gamma
from score_jax.training.hooks import Every as Every
from score_jax.training.hooks import Hook as Hook
from score_jax.training.hooks import MetricsFile as MetricsFile
from score_jax.training.hooks import Progress as Progress
from score_jax.training.hooks import Report as Report
from score_jax.training.hooks import Saving as Saving
from score_jax.training.hooks import Snapshots as Snapshots
from score_jax.training.hosts import STALLED as STALLED
from score_jax.training.hosts import HostsDiffer as HostsDiffer
from score_jax.training.hosts import LostHost as LostHost
from score_jax.training.hosts import SharedCheckpoints as SharedCheckpoints
from score_jax.training.hosts import Watchdog as Watchdog
from score_jax.training.hosts import check_same as check_same
from score_jax.training.hosts import divided_over_hosts as divided_over_hosts
from score_jax.training.hosts import is_first as is_first
from score_jax.training.hosts import leave_at_once as leave_at_once
from score_jax.training.hosts import leave_soon as leave_soon
from score_jax.training.hosts import several_hosts as several_hosts
from score_jax.training.hosts import share as share
from score_jax.training.joining import connect as connect
from score_jax.training.loop import FitResult as FitResult
from score_jax.training.loop import fit as fit
from score_jax.training.mappings import MappedStep as MappedStep
from score_jax.training.mappings import global_step as global_step
from score_jax.training.mappings import jit_step as jit_step
from score_jax.training.mappings import pmap_step as pmap_step
from score_jax.training.mappings import replicate as replicate
from score_jax.training.mappings import shard_map_step as shard_map_step
from score_jax.training.mappings import split_batch as split_batch
from score_jax.training.mappings import unreplicate as unreplicate
from score_jax.training.meshes import ShardingOf as ShardingOf
from score_jax.training.meshes import Share as Share
from score_jax.training.meshes import divided as divided
from score_jax.training.meshes import division as division
from score_jax.training.meshes import make_mesh as make_mesh
from score_jax.training.meshes import replicated as replicated
from score_jax.training.meshes import rows_of as rows_of
from score_jax.training.meshes import share_of as share_of
from score_jax.training.optimizers import inverse_sqrt as inverse_sqrt
from score_jax.training.optimizers import make_optimizer as make_optimizer
from score_jax.training.optimizers import projected as projected
from score_jax.training.optimizers import warmed_up as warmed_up
from score_jax.training.run import NonFiniteLoss as NonFiniteLoss
from score_jax.training.run import Run as Run
from score_jax.training.state import TrainState as TrainState
from score_jax.training.state import init_state as init_state
from score_jax.training.step import Prepare as Prepare
from score_jax.training.step import TrainStep as TrainStep
from score_jax.training.step import make_train_step as make_train_step
from score_jax.training.step import scan_steps as scan_steps
from score_jax.training.usage import Trace as Trace
from score_jax.training.usage import Usage as Usage

__getattr__ = _renamed(__name__)
