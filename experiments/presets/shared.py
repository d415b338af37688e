"""Fields of presets from the published runs of the library."""

import dataclasses
from typing import Any

from score_jax.convert.published import PUBLISHED

from ..config import LossConfig, SampleConfig
from ..run_config import DERIVED

# Of rectified flow, whose paths are nearly straight.
FLOW_SAMPLE = SampleConfig(sampler="dpmpp_2m", grid="uniform", steps=30)

# Improved consistency training (arXiv:2310.14189).
CONSISTENCY_LOSS = LossConfig(
    objective="consistency", reduction="pseudo_huber", times="log_normal", log_sigma_mean=-1.1,
    log_sigma_std=2.0, t0=0.002,
)  # fmt: skip
CONSISTENCY_SAMPLE = SampleConfig(sampler="consistency", steps=2, t0=0.002)


def published(name: str) -> dict[str, Any]:
    """Network and process of a published run as fields of a config."""
    found = {f.name: getattr(PUBLISHED[name], f.name) for f in dataclasses.fields(PUBLISHED[name])}
    net = found["net"]
    fields = {f.name: f.default for f in dataclasses.fields(net) if f.name in DERIVED}
    return found | {"net": net.clone(**fields)}
