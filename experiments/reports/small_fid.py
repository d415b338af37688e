"""The Frechet distance of a few samples during training, to follow a run and not to publish."""

import logging
import math
from typing import Any

import jax
import numpy as np

from score_jax import metrics
from score_jax._hosts import share_of
from score_jax.metrics import Moments

from ..parts import drawing, feature_networks, images, sampling
from ..parts.feature_networks import NetworkConfig
from ..parts.images import Images
from ..runs import Run

MOST_REFERENCE = 10_000  # training images of the reference
_log = logging.getLogger(__name__)


class SmallFID:
    """`call(step, state)`: the distance of train.fid_num samples of the averages to training images.

    The number of samples is part of its name, "fid_1000" or "frechet_1000", because distances of
    different numbers are not comparable. Samples are drawn in at most 100 steps, with the same noise
    every time. All hosts call this together: they share the samples and the images.

    Raises ValueError where no network is given, or the data are not images with grey levels.
    """

    def __init__(self, run: Run) -> None:
        c = run.config.train
        if not (c.inception or c.features):
            hint = feature_networks.need_inception("--train.fid-every")
            raise ValueError(f"{hint} as --train.inception, or --train.features")
        config = NetworkConfig(inception=c.inception, features=c.features)
        self._network = feature_networks.make(config)[0]
        self._run, self._num, self._batch = run, c.fid_num, config.feature_chunk
        found = images.of_split(run.source, "train")
        self._train = found._replace(n=min(found.n, MOST_REFERENCE))
        self._reference: Moments | None = None

    @property
    def name(self) -> str:
        """The name of the number in metrics.jsonl."""
        return f"{self._network.frechet}_{self._num}"

    def __call__(self, step: int, state: Any) -> dict[str, float]:
        """Draw, compute features, compare; NaN, with a warning, where samples are not finite."""
        run = self._run
        if self._reference is None:
            self._reference = self._of_images(self._train)
        config = sampling.quick(run.config.sample)
        key = jax.random.key(run.config.seed + 3)
        y = sampling.classes(run, self._num)
        plan = drawing.Plan(run, state.ema_params, key, self._num, config, y)
        try:
            chunks = range(-(-self._num // plan.chunk))
            drawn = [
                drawing.as_stored(run, found.x)
                for _, found in drawing.draw_chunks(plan, chunks, devices=jax.devices())
            ]
        except ArithmeticError as error:
            _log.warning("no %s at step %d: %s", self.name, step, error)
            return {self.name: math.nan}
        mine = share_of(0, self._num)
        own = self._moments(np.concatenate(drawn)[mine.start : mine.stop])
        return {self.name: metrics.frechet(own, self._reference)}

    def _of_images(self, found: Images) -> Moments:
        mine = share_of(0, found.n)
        return self._moments(found.read(mine.start, mine.stop))

    def _moments(self, images: Any) -> Moments:
        """The moments of the features of all hosts' images, of which these are this host's."""
        features = metrics.extract(self._network.features, images, batch=self._batch)
        summaries = metrics.merge_hosts(metrics.collect(features))
        return summaries[self._network.main].moments
