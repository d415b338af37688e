"""Networks of this library as a `.pth` of score_sde_pytorch: the way back of `from_score_sde_pytorch`."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from score_jax._check import brief, check
from score_jax.convert.assemble import disassemble
from score_jax.convert.records import Ingredients
from score_jax.convert.score_sde import TORCH, checked, default_model, make_plan
from score_jax.convert.torch_writer import write_torch
from score_jax.nets import DDPM
from score_jax.nets.layers import noise_levels
from score_jax.parametrization import NOISE, TIMESTEP_NOISE, IndexInput
from score_jax.sde import NoiseSchedule
from score_jax.types import Params

PROGRAM = "score_sde_pytorch"
# Fields that must have our classes' defaults. The authors' networks without a noise input have maps of
# it that they never use, and that ours lack.
FIXED = (
    "norm_groups", "attention_groups", "attend_every_block", "dims", "super_resolution", "cond_size",
    "augment_size", "condition_first", "num_classes", "noise_conditional", "padding", "fourier_powers",
    "add_input", "patch",
)  # fmt: skip
FIXED_OF_DDPM = ("block", "embedding", "fir", "progressive", "progressive_input", "skip_rescale")


def _check_network(module: Any) -> None:
    """Raise ValueError, naming the field, for a network that the authors' programs do not have."""
    defaults = {field.name: field.default for field in dataclasses.fields(module)}
    for name in FIXED + FIXED_OF_DDPM * isinstance(module, DDPM):
        value = getattr(module, name)
        check(f"net.{name}", value, value == defaults[name], f"{defaults[name]!r} for {PROGRAM}")
    known = ("positional", "fourier")
    check("net.embedding", module.embedding, module.embedding in known, f"one of {known}")


def _check_process(given: Ingredients) -> None:
    """Raise ValueError for a noise input or an output that the authors' programs would not use."""
    wanted = default_model(given.net, given.sde)
    own_input, own_output = given.noise_input, given.parametrization
    if isinstance(given.sde, NoiseSchedule):
        # What lies between two timesteps is not a fact of the weights.
        if isinstance(own_input, IndexInput) and own_input.top in (None, given.sde.n):
            own_input = IndexInput()
        own_output = TIMESTEP_NOISE if own_output is NOISE else own_output
    for name, own, theirs in (
        ("noise_input", own_input, wanted.noise_input),
        ("parametrization", own_output, wanted.parametrization),
    ):
        if own != theirs:
            theirs = getattr(theirs, "name", theirs)
            own = getattr(own, "name", own)
            raise ValueError(f"{name} must be {theirs} for {PROGRAM}, got {brief(own)}")


def to_score_sde_pytorch(
    path: str | Path,
    ingredients: Ingredients,
    params: Params,
    *,
    averages: Params | None = None,
    step: int = 0,
    decay: float = 0.9999,
) -> None:
    """Write a `.pth` that score_sde_pytorch and `from_score_sde_pytorch` read, whole or not at all.

    Args:
      path: the file.
      ingredients: the network, an `NCSNpp` or `DDPM`, and its process, which must be what
        `default_model` gives. The file holds neither: the reader's configuration must say the same.
      params: the parameters of the last step.
      averages: the averaged parameters; those of the last step if None.
      step: updates made.
      decay: of the average.

    The file has "model" (names with "module.", as the program saves them), "ema" and "step", and no
    state of an optimiser. It is read by `torch.load(path, weights_only=True)`. Raises ValueError for
    networks and processes that the program does not have.

    >>> to_score_sde_pytorch("checkpoint_1.pth", ingredients, params, averages=ema_params, step=1000)
    """
    net = checked(ingredients.net)
    _check_network(net)
    _check_process(ingredients)
    averages = params if averages is None else averages
    raw, average = (
        disassemble(tree, make_plan(TORCH, net, tree["params"])[0], PROGRAM)
        for tree in (params, averages)
    )
    # The random frequencies have no gradient, so that the program does not average them.
    fixed = {name for name in raw if name.endswith(".W") and name.count(".") == 2}
    shadows = [value for name, value in average.items() if name not in fixed]
    levels = {} if net.sigmas is None else {"sigmas": np.asarray(noise_levels(net.sigmas))}
    write_torch(path, {
        "model": {f"module.{name}": value for name, value in (levels | raw).items()},
        "ema": {"decay": float(decay), "num_updates": int(step), "shadow_params": shadows},
        "step": int(step),
    })  # fmt: skip
