"""Presets on the embedded data: scikit-learn's digits and the two moons."""

import dataclasses
from typing import Any

from experiments.config import Config
from experiments.parts.fields import DataConfig, LossConfig, OptimConfig, TrainConfig
from experiments.parts.nets import MLPConfig, NCSNppConfig
from experiments.parts.process import SDEConfig
from experiments.parts.sample_config import SampleConfig

_digits = Config()


def _for_likelihood(kind: Any, t0: float) -> Config:
    """For bits per dimension (arXiv:2101.09258): weighted by g(t)^2, times in proportion to it.

    At t0 the noise is a tenth of a grey level's width. Below it there is nothing to learn but uniform
    cells; down to t = 1e-5 a fifth (VP) or half (sub-VP) of every batch would go there.
    """
    return dataclasses.replace(
        _digits,
        sde=SDEConfig(kind=kind, t0=t0),
        loss=LossConfig(weighting="likelihood", times="importance"),
        # What the times leave of the weight is about 20 for all of them; the clip grows with it.
        optim=OptimConfig(grad_clip=20.0),
        sample=dataclasses.replace(_digits.sample, t0=max(t0, _digits.sample.t0)),
    )


PRESETS: dict[str, Config] = {
    "digits_vp": _digits,
    "digits_vp_likelihood": _for_likelihood("vp", 1e-3),
    "digits_subvp": dataclasses.replace(_digits, sde=SDEConfig(kind="subvp")),
    "digits_subvp_likelihood": _for_likelihood("subvp", 0.025),
    "digits_ve": dataclasses.replace(
        _digits,
        # As the authors' VE networks: data in [0, 1], told of sigma, output divided by sigma.
        # The largest distance between two digits is about 5 (arXiv:2006.09011, technique 1).
        data=DataConfig(range=(0.0, 1.0)),
        sde=SDEConfig(kind="ve", sigma_min=0.01, sigma_max=5.0),
        net=NCSNppConfig(output="score", label="std", embedding="fourier"),
    ),
    "digits_vp_conditional": dataclasses.replace(
        # Some labels are hidden, so that it can be guided without a classifier.
        _digits,
        net=dataclasses.replace(_digits.net, conditional=True),
        loss=LossConfig(label_dropout=0.1),
    ),
    "two_moons_vp": Config(
        data=DataConfig(name="two_moons"),
        net=MLPConfig(width=128, num_blocks=3),
        train=TrainConfig(
            steps=5_000, batch_size=512, steps_per_call=50, sample_every=2_500,
            checkpoint_every=2_500,
        ),
        sample=SampleConfig(steps=200),
    ),
}  # fmt: skip
