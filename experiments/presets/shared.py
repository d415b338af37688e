"""Fields of presets from the published runs of the library."""

import dataclasses
from typing import Any

from score_jax.convert.published import PUBLISHED

from ..config import SampleConfig
from ..run_config import DERIVED

# Of rectified flow, whose paths are nearly straight.
FLOW_SAMPLE = SampleConfig(sampler="dpmpp_2m", grid="uniform", steps=30)


def published(name: str) -> dict[str, Any]:
    """Network and process of a published run as fields of a config."""
    found = {f.name: getattr(PUBLISHED[name], f.name) for f in dataclasses.fields(PUBLISHED[name])}
    net = found["net"]
    fields = {f.name: f.default for f in dataclasses.fields(net) if f.name in DERIVED}
    return found | {"net": net.clone(**fields)}
