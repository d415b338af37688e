"""The networks of variational diffusion models (arXiv:2107.00630) from checkpoints of their JAX program.

They are of the DDPM family at one resolution (`NCSNpp`), are given powers of x as further channels, and
return the noise less x. The file is Flax's msgpack of the program's TrainState (`ckpt-N.flax`).
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from score_jax._check import check
from score_jax.convert.assemble import Slot, assemble, find, leaves, same, template, tensors
from score_jax.convert.flax_file import read_flax_msgpack
from score_jax.convert.score_sde import Loaded
from score_jax.model import Model
from score_jax.nets import NCSNpp
from score_jax.parametrization import TimeInput
from score_jax.sde import LinearLogSNR

POWERS = (6, 7)
MOST_BLOCKS, MOST_CHANNELS = 128, 1 << 14
NET = "score_model"
BLOCK = {
    "GroupNorm_0": "norm0", "conv1": "conv0", "cond_proj": "label", "GroupNorm_1": "norm1",
    "conv2": "conv1", "nin_shortcut": "skip/map",
}  # fmt: skip
ATTENTION = {
    "GroupNorm_0": "norm", "q": "query/map", "k": "key/map", "v": "value/map", "proj_out": "out/map",
}  # fmt: skip
ENDS = {
    "dense0": "embed0", "dense1": "embed1", "conv_in": "first", "GroupNorm_0": "last_norm",
    "conv_out": "last",
}  # fmt: skip


def _network(weights: Mapping[str, np.ndarray]) -> tuple[NCSNpp, int]:
    """(the network that the tensors belong to, the channels of an image)."""
    first, last = (np.shape(weights.get(f"{name}/kernel", 0)) for name in ("conv_in", "conv_out"))
    ok = len(first) == len(last) == 4 and max(first + last) <= MOST_CHANNELS
    check(
        "its convolutions conv_in and conv_out", (first, last), ok, "kernels of two axes of space"
    )
    channels, width = last[3], first[3]
    names = {name.partition("/")[0] for name in weights}
    blocks = sum(name.startswith("down.block_") for name in names)
    check("its number of blocks", blocks, 1 <= blocks <= MOST_BLOCKS, f"from 1 to {MOST_BLOCKS}")
    more = first[2] - channels
    known = (0, 2 * channels * len(POWERS))
    check("its number of further channels", more, more in known, f"one of {known}")
    attends = "down.attn_0" in names
    net = NCSNpp(
        channels=width, channel_mult=(1,), num_blocks=blocks, block="ddpm", skip_rescale=False,
        attention=(32,) if attends else (), attend_every_block=attends, norm_groups=32,
        fourier_powers=POWERS if more else (), add_input=True,
    )  # fmt: skip
    return net, channels


def _modules(net: NCSNpp) -> Iterator[tuple[str, str, dict[str, str]]]:
    """(its name there, its name here, the names of its layers) of all modules that there may be."""
    yield "", "", ENDS
    last = net.num_blocks
    for i in range(last + 1):
        attention = f"dec0_{i}_attention" if i < last else "dec0_attention"
        yield f"down.block_{i}/", f"enc0_{i}/", BLOCK
        yield f"down.attn_{i}/", f"enc0_{i}_attention/", ATTENTION
        yield f"up.block_{i}/", f"dec0_{i}/", BLOCK
        yield f"up.attn_{i}/", f"{attention}/", ATTENTION
    yield "mid.block_1/", "mid0/", BLOCK
    yield "mid.attn_1/", "mid_attention/", ATTENTION
    yield "mid.block_2/", "mid1/", BLOCK


def _in_our_form(weights: dict[str, np.ndarray], width: int) -> dict[str, np.ndarray]:
    """The tensors without the map of the conditioning, which is zero, and with biases of zero."""
    made = dict(weights)
    kernel = made.get("dense0/kernel")
    if kernel is not None and kernel.ndim == 2 and len(kernel) == width + 1:
        made["dense0/kernel"] = kernel[:-1]
    for name, value in weights.items():
        if name.endswith("cond_proj/kernel"):
            made[name.replace("kernel", "bias")] = np.zeros(value.shape[-1:], np.float32)
    return made


def from_vdm(path: str | Path, *, ema: bool = True, size: int = 32) -> Loaded:
    """The model of a checkpoint of google-research/vdm: (model, params, info).

    The network sees only the log-SNR, as its place between -13.3 and 5, which the published
    configurations share: the model is on `LinearLogSNR`, and what schedule was learned does not matter to
    it. `info` has the "module", the "shape" (h, w, c) of an image, the "step" and, of a learned linear
    schedule, "gamma", its two ends. The conditioning, which is zero without augmentation, is left out.

    Args:
      path: the file `ckpt-N.flax`.
      ema: the averaged weights, or those of the last step.
      size: of the images, which the file does not contain.

    Raises ValueError, naming file and tensor, if the file cannot be read or is of another network;
    OSError if it cannot be opened.

    >>> model, params, info = from_vdm("ckpt-1.flax")
    """
    file = read_flax_msgpack(path)
    field = "ema_params" if ema else "params"
    tree = find(file, (field, NET))
    if tree is None:
        raise ValueError(f"{path} has no {field}/{NET}: it is no checkpoint of VDM")
    weights = tensors({"/".join(names): value for names, value in leaves(tree).items()}, path)
    try:
        net, channels = _network(weights)
    except ValueError as error:
        raise ValueError(f"{path} is no checkpoint of VDM: {error}") from None
    net = net.clone(attention=(size,) if net.attention else ())
    shapes = template(net, (size, size, channels), classes=False)
    plan = {}
    for there, here, layers in _modules(net):
        for source, target in layers.items():
            place = tuple(f"{here}{target}".split("/"))
            for leaf in find(shapes, place) or ():
                plan[f"{there}{source}/{leaf}"] = Slot((*place, leaf), same)
    params = assemble(shapes, plan, _in_our_form(weights, net.channels), path)
    info: dict[str, Any] = {
        "module": net, "shape": (size, size, channels), "step": find(file, ("step",)), "ema": ema
    }  # fmt: skip
    scale, start = (find(file, (field, "gamma", name)) for name in ("w", "b"))
    if scale is not None and start is not None:
        low = float(np.ravel(start)[0])
        info["gamma"] = (low, low + abs(float(np.ravel(scale)[0])))
    return Model(LinearLogSNR(), net.apply, TimeInput(1000.0)), params, info
