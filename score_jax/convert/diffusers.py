"""Folders of diffusers' `UNet2DModel`: NCSN++ (`google/ncsnpp-*`), DDPM (`google/ddpm-*`), the default.

NCSN++ has skips between images of all sizes (`SkipDownBlock2D`), as published for 256 and
1024 pixels. DDPM is the first one, with attention after every block on the way up.
"""

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from score_jax._check import brief, is_number
from score_jax._files import reading
from score_jax.convert.assemble import (
    Slot,
    Tree,
    assemble,
    find,
    listed,
    same,
    template,
    tensors,
    transposed,
)
from score_jax.convert.diffusers_unet import (
    FIELDS,
    is_usual,
    joined,
    usual_modules,
    usual_network,
)
from score_jax.convert.schedulers import Process, read_scheduler
from score_jax.convert.score_sde import (
    CONV,
    DENSE,
    NORM,
    ONE,
    Layer,
    Leaf,
    Loaded,
    Part,
    default_model,
)
from score_jax.convert.torch_file import read_torch
from score_jax.model import Model
from score_jax.nets import DDPM, NCSNpp, UNet
from score_jax.nets.layers import default_groups
from score_jax.parametrization import NOISE, TIMESTEP_NOISE, IndexInput
from score_jax.types import SDE

Module = tuple[str, str, tuple[Part, ...]]  # its name there, its name here, its layers

MAP = Layer((Leaf("weight", ("map", "kernel"), transposed), Leaf("bias", ("map", "bias"))), ())
FREQUENCY = Layer((Leaf("weight", ("frequency",), same),), ())
CLASSES = Layer((Leaf("weight", ("embedding",), same),), ())
BLOCK = (
    Part("norm1", NORM, "norm0"), Part("conv1", CONV, "conv0"),
    Part("time_emb_proj", DENSE, "label"), Part("norm2", NORM, "norm1"),
    Part("conv2", CONV, "conv1"), Part("conv_shortcut", ONE, "skip"),
)  # fmt: skip
ATTENTION = (
    Part("group_norm", NORM, "norm"), Part("to_q", MAP, "query"), Part("to_k", MAP, "key"),
    Part("to_v", MAP, "value"), Part("to_out.0", MAP, "out"),
)  # fmt: skip
# Names of versions before 0.17, which the published files use.
RENAMED = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}

DEFAULTS = {
    "act_fn": "silu", "add_attention": True, "attention_head_dim": 8, "attention_legacy_order": False,
    "attn_norm_num_groups": None, "center_input_sample": False, "class_embed_type": None,
    "downsample_padding": 1, "downsample_type": "conv", "dropout": 0.0, "flip_sin_to_cos": True,
    "freq_shift": 0, "in_channels": 3, "layers_per_block": 2, "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2D", "norm_eps": 1e-5, "norm_num_groups": 32,
    "num_class_embeds": None, "out_channels": 3, "resnet_time_scale_shift": "default",
    "sample_size": None, "time_embedding_type": "positional", "upsample_type": "conv",
}  # fmt: skip
LONGEST = 1 << 24  # bytes of a JSON file
MOST_LEVELS, MOST_BLOCKS, MOST_CHANNELS, LARGEST = 16, 64, 1 << 16, 1 << 16
# The largest whole number of a field, and whether it may be null.
COUNTS = {
    "in_channels": (MOST_CHANNELS, False), "out_channels": (MOST_CHANNELS, False),
    "layers_per_block": (MOST_BLOCKS, False), "norm_num_groups": (MOST_CHANNELS, True),
    "attention_head_dim": (MOST_CHANNELS, True), "num_class_embeds": (LARGEST, True),
}  # fmt: skip
# diffusers has this number of groups in the norms of attention, and in those before it on the way up,
# where score_sde has min(channels // 4, 32).
GROUPS = 32
# The fields' values that both networks need, and those that each needs.
BOTH: dict[str, tuple[Any, ...]] = {
    "act_fn": ("silu", "swish"), "add_attention": (True,), "attention_head_dim": (None,),
    "attention_legacy_order": (False,), "class_embed_type": (None,), "downsample_type": ("conv",),
    "mid_block_type": ("UNetMidBlock2D",), "norm_eps": (1e-6,),
    "resnet_time_scale_shift": ("default",), "upsample_type": ("conv",),
    "attn_norm_num_groups": (None,),
}  # fmt: skip
KINDS: dict[tuple[str, ...], dict[str, tuple[Any, ...]]] = {
    ("SkipDownBlock2D", "AttnSkipDownBlock2D", "SkipUpBlock2D", "AttnSkipUpBlock2D"): {
        "time_embedding_type": ("fourier",), "norm_num_groups": (None,), "num_class_embeds": (None,),
    },
    ("DownBlock2D", "AttnDownBlock2D", "UpBlock2D", "AttnUpBlock2D"): {
        "time_embedding_type": ("positional",), "flip_sin_to_cos": (False,), "freq_shift": (1,),
        "downsample_padding": (0,),
    },
}  # fmt: skip
SKIP, PLAIN = KINDS


def _is_count(value: Any, most: int) -> bool:
    return type(value) is int and 1 <= value <= most


def _is_size(value: Any) -> bool:
    sides = value if isinstance(value, list) and len(value) == 2 else [value]
    return value is None or all(_is_count(side, LARGEST) for side in sides)


def _check_kinds(config: Mapping[str, Any], path: Path) -> None:
    """Raise ValueError, naming the field, for a number or a list of another kind or size."""
    widths = config.get("block_out_channels", (224, 448, 672, 896))
    ok = isinstance(widths, list | tuple) and 0 < len(widths) <= MOST_LEVELS
    ok = ok and all(_is_count(w, MOST_CHANNELS) for w in widths)
    rules = {"block_out_channels": (ok, f"a list of at most {MOST_LEVELS} channels")}
    for field in ("down_block_types", "up_block_types"):
        names = config.get(field)
        ok = isinstance(names, list) and 0 < len(names) <= MOST_LEVELS
        ok = ok and all(isinstance(name, str) for name in names or ())
        rules[field] = (ok, f"a list of at most {MOST_LEVELS} names")
    for field, (most, optional) in COUNTS.items():
        ok = _is_count(config[field], most) or (optional and config[field] is None)
        rules[field] = (ok, f"a whole number from 1 to {most}{' or null' * optional}")
    for field in ("dropout", "mid_block_scale_factor", "norm_eps"):
        rules[field] = (is_number(config[field]), "a number")
    rules["sample_size"] = (_is_size(config["sample_size"]), f"one or two of 1 to {LARGEST}")
    for field, (ok, allowed) in rules.items():
        if not ok:
            got = brief(config.get(field))
            raise ValueError(f"{field} of {path} must be {allowed}, got {got}")


def _check_fields(config: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    """The names of the network's kinds of blocks; ValueError for fields that they do not have here."""
    types = {*config.get("down_block_types", ()), *config.get("up_block_types", ())}
    names = next((names for names in KINDS if types and types <= set(names)), None)
    if names is None:
        raise ValueError(
            f"{path} has blocks {sorted(types)}; known are those of NCSN++ {SKIP} and of DDPM {PLAIN}"
        )
    usual = names is PLAIN and is_usual(config)
    for field, allowed in (FIELDS if usual else BOTH | KINDS[names]).items():
        if config[field] not in allowed:
            got = brief(config[field])
            raise ValueError(f"{field} of {path} must be one of {allowed}, got {got}")
    if usual:
        return names
    scale = math.sqrt(2) if names is SKIP else 1
    if not math.isclose(config["mid_block_scale_factor"], scale, rel_tol=1e-6):
        raise ValueError(
            f"mid_block_scale_factor of {path} must be {scale}, got "
            f"{config['mid_block_scale_factor']}"
        )
    if config["in_channels"] != config["out_channels"]:
        raise ValueError(
            f"in_channels and out_channels of {path} must be equal, got "
            f"{config['in_channels']} and {config['out_channels']}"
        )
    return names


def _attended(config: Mapping[str, Any], names: tuple[str, ...], path: Path) -> list[bool]:
    """At which levels there is attention; ValueError unless up and down agree."""
    down = [kind == names[1] for kind in config["down_block_types"]]
    up = [kind == names[3] for kind in config["up_block_types"]]
    if down != up[::-1] or len(down) != len(config["block_out_channels"]):
        raise ValueError(
            f"{path} must have as many blocks down as up and attention at the same levels, got "
            f"{config['down_block_types']} and {config['up_block_types']}"
        )
    return down


def network(config: Mapping[str, Any], path: Path) -> tuple[Any, tuple[int, ...]]:
    """The network of a configuration, and the shape of its images."""
    _check_kinds(config, path)
    names = _check_fields(config, path)
    attended = _attended(config, names, path)
    widths = config["block_out_channels"]
    usual = usual_network(config, attended, path) if names is PLAIN and is_usual(config) else None
    if usual is None and any(w % widths[0] for w in widths):
        raise ValueError(
            f"block_out_channels of {path} must be multiples of the first, got {widths}"
        )
    size = config["sample_size"]
    if size is None:
        raise ValueError(f"sample_size of {path} is needed to tell where there is attention")
    height, width = (size, size) if isinstance(size, int) else size
    if usual is not None:
        return usual, (height, width, config["in_channels"])
    fields = {
        "channels": widths[0],
        "channel_mult": tuple(w // widths[0] for w in widths),
        "num_blocks": config["layers_per_block"],
        "attention": tuple(
            max(height, width) >> n for n, attends in enumerate(attended) if attends
        ),
        "dropout": float(config["dropout"]),
        "centered": not config["center_input_sample"],
        "num_classes": config["num_class_embeds"],
    }
    shape = (height, width, config["in_channels"])
    if names is PLAIN:
        return DDPM(**fields, norm_groups=config["norm_num_groups"], attend_every_block=True), shape
    same_groups = all(
        default_groups(w) == GROUPS for w, attends in zip(widths, attended, strict=True) if attends
    )
    fields |= {"attention_groups": None if same_groups else GROUPS}
    return NCSNpp(
        **fields, block="biggan", embedding="fourier", fir=True, progressive="output_skip",
        progressive_input="input_skip", combine="sum", skip_rescale=True, scale_by_sigma=True,
    ), shape  # fmt: skip


def _modules(module: Any) -> Iterator[Module]:
    """(name there, name here, layers) of all that either network may have."""
    last = len(module.channel_mult) - 1
    one = lambda there, here, layer: (there, here, (Part("", layer, ""),))
    yield one("time_proj", "fourier", FREQUENCY)
    yield one("time_embedding.linear_1", "embed0", DENSE)
    yield one("time_embedding.linear_2", "embed1", DENSE)
    yield one("class_embedding", "classes", CLASSES)
    yield one("conv_in", "first", CONV)
    for level in range(last + 1):
        down, up = f"down_blocks.{level}", f"up_blocks.{last - level}"
        for i in range(module.num_blocks):
            yield f"{down}.resnets.{i}", f"enc{level}_{i}", BLOCK
            yield f"{down}.attentions.{i}", f"enc{level}_{i}_attention", ATTENTION
        for i in range(module.num_blocks + 1):
            yield f"{up}.resnets.{i}", f"dec{level}_{i}", BLOCK
            yield f"{up}.attentions.{i}", f"dec{level}_{i}_attention", ATTENTION
        only = module.num_blocks if module.attend_every_block else 0
        yield f"{up}.attentions.{only}", f"dec{level}_attention", ATTENTION
        if not isinstance(module, DDPM):
            yield f"{down}.resnet_down", f"down{level}", BLOCK
            yield one(f"{down}.skip_conv", f"input{level}_combine", CONV)
            yield f"{up}.resnet_up", f"up{level}", BLOCK
            yield one(f"{up}.skip_norm" if level else "conv_norm_out", f"output{level}_norm", NORM)
            yield one(f"{up}.skip_conv" if level else "conv_out", f"output{level}_conv", CONV)
        else:
            yield f"{down}.downsamplers.0", f"down{level}", (Part("conv", CONV, "conv"),)
            yield f"{up}.upsamplers.0", f"up{level}", (Part("conv", CONV, "conv"),)
    for i in (0, 1):
        yield f"mid_block.resnets.{i}", f"mid{i}", BLOCK
    yield "mid_block.attentions.0", "mid_attention", ATTENTION
    yield one("conv_norm_out", "last_norm", NORM)
    yield one("conv_out", "last", CONV)


def make_plan(module: Any, shapes: Tree) -> dict[str, Slot]:
    """{name there: place here} of the tensors of a network."""
    plan: dict[str, Slot] = {}
    for there, here, parts in (
        usual_modules(module) if isinstance(module, UNet) else _modules(module)
    ):
        for part in parts:
            path = tuple(filter(None, (*here.split("/"), part.target)))
            if find(shapes, path) is not None:
                for leaf in part.layer.torch:
                    name = ".".join(filter(None, (there, part.source, leaf.source)))
                    plan[name] = Slot((*path, *leaf.target), leaf.move)
    return plan


def safetensors_of(path: str | Path) -> Any:
    """The package that reads and writes the file; ImportError, naming the extra, without it."""
    try:
        import safetensors.numpy
    except ImportError:
        raise ImportError(
            f'{path} needs safetensors: pip install "score_jax[weights]"', name="safetensors"
        ) from None
    return safetensors


def read_safetensors(path: str | Path) -> dict[str, np.ndarray]:
    """Read a `.safetensors` file as a dictionary of NumPy arrays; ValueError if it is damaged.

    >>> weights = read_safetensors("unet/diffusion_pytorch_model.safetensors")
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} is not a file")
    package = safetensors_of(path)
    with reading(path), package.safe_open(path, framework="numpy") as file:
        return {name: _tensor(file, name) for name in file.keys()}  # noqa: SIM118


def _tensor(file: Any, name: str) -> np.ndarray:
    try:
        return np.asarray(file.get_tensor(name))
    except AttributeError:  # of NumPy, which has no such type
        kind = file.get_slice(name).get_dtype()
        raise ValueError(
            f"its tensor {brief(name)} has the type {kind}, which NumPy does not know"
        ) from None


READERS = {".safetensors": read_safetensors, ".bin": read_torch}
STEM = "diffusion_pytorch_model"
# The files of weights, the first of which is read: whole, in half precision, or in several parts.
FILES = tuple(
    f"{STEM}{precision}{ending}{index}"
    for precision in ("", ".fp16") for ending in READERS for index in ("", ".index.json")
)  # fmt: skip


def _parts(index: Path) -> dict[str, Any]:
    """The tensors of the files that an index names, which lie beside it."""
    places = _read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(v, str) for v in places.values()):
        raise ValueError(f"{index} has no weight_map of names and files")
    found: dict[str, Any] = {}
    for name in sorted(set(places.values())):
        file = index.with_name(name) if name and Path(name).name == name else None
        if file is None or file.suffix not in READERS:
            raise ValueError(f"{index} names {brief(name)}, which is no file of weights beside it")
        found |= tensors(READERS[file.suffix](file), file)
    missing = [name for name in places if name not in found]
    if missing:
        raise ValueError(f"the files of {index} lack tensors that it names: {listed(missing)}")
    return found


def _read_weights(folder: Path) -> tuple[Path, dict[str, Any]]:
    found = [folder / name for name in FILES if (folder / name).is_file()]
    if not found:
        raise ValueError(f"{folder} has none of {list(FILES)}")
    read = READERS.get(found[0].suffix, _parts)
    weights: dict[str, Any] = {}
    for name, value in tensors(read(found[0]), found[0]).items():
        parts = [RENAMED.get(part, part) for part in name.split(".")]
        weights[".".join(parts)] = value
    # The frequencies may have two names for one tensor.
    double = weights.pop("time_proj.W", None)
    if double is not None and not np.array_equal(
        weights.setdefault("time_proj.weight", double), double
    ):
        raise ValueError(f"time_proj.W and time_proj.weight of {found[0]} differ")
    return found[0], weights


def _read_json(path: Path) -> dict[str, Any]:
    with reading(path, "JSON"):
        if path.stat().st_size > LONGEST:
            raise ValueError(f"it has more than {LONGEST:,} bytes")
        found = json.loads(path.read_text())
        if not isinstance(found, dict):
            raise ValueError(f"it must hold an object, got {brief(found)}")
    return found


def from_diffusers(folder: str | Path, sde: SDE | None = None) -> Loaded:
    """The model of a diffusers folder of a `UNet2DModel`: (model, params, info).

    The folder has `unet/config.json` or `config.json` and beside it
    `diffusion_pytorch_model.safetensors` or `.bin`, also in half precision (`.fp16.safetensors`) or in
    parts with an index. The SDE, the prediction and the variance are those
    of the scheduler in `scheduler/` or the folder itself; `sde` is needed if there is none, and gives
    `default_model`. The weights are the averaged ones where the authors saved those; the file does not
    say.

    `info` has the scheduler's numbers (`read_scheduler`), the "module", the "shape" (h, w, c) of an
    image and the "config". The levels of attention are kept as sizes of images of that shape: for
    other sizes, change the module's `attention`.

    Raises ValueError, naming file and field or tensor, for other kinds of networks, for weights that
    do not fit exactly, and for a folder without scheduler and `sde`; OSError for files that cannot be
    opened.

    >>> model, params, info = from_diffusers("ddpm-cifar10-32")
    >>> info["betas"].shape
    (1000,)
    """
    folder = Path(folder)
    home = folder / "unet" if (folder / "unet").is_dir() else folder
    path = home / "config.json"
    config = _read_json(path)
    process = _process(folder)
    module, shape = network(DEFAULTS | config, path)
    file, weights = _read_weights(home)
    if isinstance(module, UNet):
        with reading(file, "a UNet2DModel"):
            weights = joined(weights, module)
    shapes = template(module, shape, classes=bool(module.num_classes))
    params = assemble(shapes, make_plan(module, shapes), weights, file)
    info = {"module": module, "shape": shape, "config": config}
    if process is not None:
        return model_of(module, process), params, info | process.info
    if sde is None:
        raise ValueError(f"{folder} has no scheduler_config.json, which has the SDE: give sde")
    model = default_model(module, sde)
    if model.parametrization is TIMESTEP_NOISE:  # of score_sde's program
        model = dataclasses.replace(model, parametrization=NOISE)
    return model, params, info


def _process(folder: Path) -> Process | None:
    """The process of the folder's scheduler, if there is one."""
    for place in (folder / "scheduler", folder):
        path = place / "scheduler_config.json"
        if path.is_file():
            return read_scheduler(_read_json(path), path)
    return None


def model_of(module: Any, process: Process) -> Model:
    """The model of a network and the process of its scheduler."""
    model = default_model(module, process.sde)
    if process.parametrization is None:
        return model
    return dataclasses.replace(
        model, noise_input=IndexInput(), parametrization=process.parametrization,
        variance=process.variance,
    )  # fmt: skip
