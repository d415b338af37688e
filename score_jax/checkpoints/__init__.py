"""Checkpoints of everything a run needs, by Orbax, that never load damaged values silently.

A folder holds steps, `step_00000100/`, each with two items: `state`, any pytree of arrays (typed keys
included) in Orbax's standard layout, and `meta`, JSON: format and package version, the state of the
data iterator, the caller's value (a config), and the shape, dtype and CRC-32 of every leaf. The
checksums are needed because Orbax loads a flipped byte without complaint. A step is written beside
its place and renamed, so a killed save leaves nothing that counts as a checkpoint.

>>> with open_checkpoints("runs/x/checkpoints", keep=3) as checkpoints:
...     checkpoints.save(100, state, data_iterator=batches, extra={"lr": 1e-4})
...     found = checkpoints.restore_latest(state)  # Restored(step=100, state, data, extra) or None
>>> ema_params = restore_params("runs/x/checkpoints")
"""

from score_jax.checkpoints.errors import CheckpointError as CheckpointError
from score_jax.checkpoints.errors import DamagedCheckpoint as DamagedCheckpoint
from score_jax.checkpoints.store import FORMAT_VERSION as FORMAT_VERSION
from score_jax.checkpoints.store import Checkpoints as Checkpoints
from score_jax.checkpoints.store import open_checkpoints as open_checkpoints
from score_jax.checkpoints.store import restore_params as restore_params
from score_jax.types import Restored as Restored
