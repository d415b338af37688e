"""Weights of score_sde (arXiv:2011.13456), of its PyTorch and of its JAX program, for our networks.

PyTorch keeps the modules in a list (`all_modules.7.Conv_0.weight`); Flax counts those of a class
(`ResnetBlockBigGANpp_2/Conv_0/kernel`), also those without weights. Both are in the order in which
the program makes them, so that one list of modules serves both.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np

from score_jax._check import brief
from score_jax.convert.assemble import (
    AVERAGES,
    Move,
    Slot,
    Tree,
    assemble,
    find,
    inner,
    leaves,
    listed,
    outward,
    pointwise,
    same,
    template,
    tensors,
    transposed,
    unwrapped,
)
from score_jax.convert.flax_file import read_flax_msgpack
from score_jax.convert.refinenets import refinenet_plan
from score_jax.convert.torch_file import read_torch
from score_jax.model import Model
from score_jax.nets import DDPM, NCSN, NCSNpp, NCSNv2
from score_jax.nets.layers import noise_levels
from score_jax.parametrization import (
    SCORE,
    SMALL,
    TIMESTEP_NOISE,
    IndexInput,
    LevelInput,
    LogSigmaInput,
    NoiseInput,
    StdInput,
    TimeInput,
    edm,
)
from score_jax.sde import NoiseSchedule
from score_jax.types import SDE

Loaded = tuple[Model, Tree, dict[str, Any]]


class Leaf(NamedTuple):
    """A tensor of a layer: its name there, its place here, and the way."""

    source: str
    target: tuple[str, ...]
    move: Move = same


class Layer(NamedTuple):
    """The tensors of a kind of layer in the two programs."""

    torch: tuple[Leaf, ...]
    flax: tuple[Leaf, ...]


class Part(NamedTuple):
    """A layer within a module: its name there, its kind, its name here ("": the module itself)."""

    source: str
    layer: Layer
    target: str


class Entry(NamedTuple):
    """A module, in the order in which the authors' programs make them."""

    target: str
    kind: str  # its class in the Flax program, which names it
    parts: tuple[Part, ...]
    listed: bool = True  # in PyTorch's list; some without weights are not


BIAS = Leaf("bias", ("bias",))
DENSE = Layer((Leaf("weight", ("kernel",), transposed), BIAS), (Leaf("kernel", ("kernel",)), BIAS))
CONV = Layer((Leaf("weight", ("kernel",), outward), BIAS), (Leaf("kernel", ("kernel",)), BIAS))
FIR = Layer(CONV.torch, (Leaf("weight", ("kernel",)), BIAS))
NORM = Layer((Leaf("weight", ("scale",)), BIAS), (Leaf("scale", ("scale",)), BIAS))
FOURIER = Layer((Leaf("W", ("frequency",)),), (Leaf("W", ("frequency",)),))
NIN = Layer(*((Leaf("W", ("map", "kernel")), Leaf("b", ("map", "bias"))),) * 2)
ONE = Layer(  # a convolution of size 1, which is a linear map here
    (Leaf("weight", ("map", "kernel"), pointwise), Leaf("bias", ("map", "bias"))),
    (Leaf("kernel", ("map", "kernel"), inner), Leaf("bias", ("map", "bias"))),
)

BLOCK = (
    Part("GroupNorm_0", NORM, "norm0"), Part("Conv_0", CONV, "conv0"),
    Part("Dense_0", DENSE, "label"), Part("GroupNorm_1", NORM, "norm1"),
    Part("Conv_1", CONV, "conv1"),
)  # fmt: skip
ATTENTION = (
    Part("GroupNorm_0", NORM, "norm"), Part("NIN_0", NIN, "query"), Part("NIN_1", NIN, "key"),
    Part("NIN_2", NIN, "value"), Part("NIN_3", NIN, "out"),
)  # fmt: skip


class Kinds(NamedTuple):
    """The modules of one of the authors' networks."""

    block: str
    skip: Part
    attention: str
    resample: bool  # resolution changes in modules of their own, rather than in blocks


DDPM_KINDS = Kinds("ResnetBlockDDPM", Part("NIN_0", NIN, "skip"), "AttnBlock", True)
NCSNPP_KINDS = {
    "ddpm": Kinds("ResnetBlockDDPMpp", Part("NIN_0", NIN, "skip"), "AttnBlockpp", True),
    "biggan": Kinds("ResnetBlockBigGANpp", Part("Conv_2", ONE, "skip"), "AttnBlockpp", False),
}


def _layer(target: str, kind: str, layer: Layer) -> Entry:
    return Entry(target, kind, (Part("", layer, ""),))


def _entries(module: Any, shapes: Tree) -> Iterator[Entry]:
    """All modules in the authors' order; `shapes` has those of the optional ones that there are."""
    kinds = DDPM_KINDS if isinstance(module, DDPM) else NCSNPP_KINDS[module.block]
    move = Part("Conv2d_0", FIR, "conv") if module.fir else Part("Conv_0", CONV, "conv")
    block = lambda name: Entry(name, kinds.block, (*BLOCK, kinds.skip))
    attention = lambda name: Entry(name, kinds.attention, ATTENTION)
    down = lambda name: Entry(name, "Downsample", (move,)) if kinds.resample else block(name)
    up = lambda name: Entry(name, "Upsample", (move,)) if kinds.resample else block(name)
    present = lambda entries: [entry for entry in entries if entry.target in shapes]
    last = len(module.channel_mult) - 1

    yield from present([
        _layer("fourier", "GaussianFourierProjection", FOURIER),
        _layer("embed0", "Dense", DENSE), _layer("embed1", "Dense", DENSE),
        _layer("first", "Conv", CONV),
    ])  # fmt: skip
    for level in range(last + 1):
        for i in range(module.num_blocks):
            yield block(f"enc{level}_{i}")
            yield from present([attention(f"enc{level}_{i}_attention")])
        if level != last:
            yield down(f"down{level}")
            if f"input{level}_combine" in shapes:
                yield Entry("", "Downsample", (), listed=False)
                yield Entry(f"input{level}_combine", "Combine", (Part("Conv_0", CONV, ""),))
            yield from present([Entry(f"input{level}", "Downsample", (move,))])
    yield from (block("mid0"), attention("mid_attention"), block("mid1"))
    for level in range(last, -1, -1):
        yield from (block(f"dec{level}_{i}") for i in range(module.num_blocks + 1))
        yield from present([attention(f"dec{level}_attention")])
        if level != last and f"output{level}_norm" in shapes:
            yield Entry("", "Upsample", (), listed=False)
        yield from present([
            Entry(f"output{level}", "Upsample", (move,)),
            _layer(f"output{level}_norm", "GroupNorm", NORM),
            _layer(f"output{level}_conv", "Conv", CONV),
        ])  # fmt: skip
        if level:
            yield up(f"up{level}")
    yield from present([_layer("last_norm", "GroupNorm", NORM), _layer("last", "Conv", CONV)])


def _torch_names(entries: Iterable[Entry]) -> Iterator[tuple[str, Entry]]:
    for index, entry in enumerate(entry for entry in entries if entry.listed):
        yield f"all_modules.{index}", entry


def _flax_names(entries: Iterable[Entry]) -> Iterator[tuple[str, Entry]]:
    made: Counter[str] = Counter()
    for entry in entries:
        yield f"{entry.kind}_{made[entry.kind]}", entry
        made[entry.kind] += 1


class Dialect(NamedTuple):
    """The names and the layout of the tensors of one of the two programs."""

    names: Callable[[Iterable[Entry]], Iterator[tuple[str, Entry]]]
    leaves: Callable[[Layer], tuple[Leaf, ...]]
    separator: str


TORCH = Dialect(_torch_names, lambda layer: layer.torch, ".")
FLAX = Dialect(_flax_names, lambda layer: layer.flax, "/")


def make_plan(dialect: Dialect, module: Any, shapes: Tree) -> tuple[dict[str, Slot], set[str]]:
    """({name there: place here}, names of tensors that the authors' program makes and never uses)."""
    plan: dict[str, Slot] = {}
    unused = set()
    for name, entry in dialect.names(_entries(module, shapes)):
        for part in entry.parts:
            path = tuple(filter(None, (entry.target, part.target)))
            for leaf in dialect.leaves(part.layer):
                source = dialect.separator.join(filter(None, (name, part.source, leaf.source)))
                if find(shapes, path) is not None:
                    plan[source] = Slot((*path, *leaf.target), leaf.move)
                elif part.layer is DENSE:
                    # PyTorch makes the maps of the noise input even where they are not used.
                    unused.add(source)
    return plan, unused


def _sizes(module: Any) -> list[int]:
    """Image sizes with different levels of attention; a file does not contain the size."""
    levels = range(len(module.channel_mult))
    step = 2 ** levels[-1]
    sizes = {size << level for size in module.attention for level in levels}
    nowhere = step * (1 + max([*module.attention, 0]))
    return [*sorted(size for size in sizes if size % step == 0), nowhere]


def _misfits(plan: Mapping[str, Slot], shapes: Tree, weights: Mapping[str, Any]) -> int:
    """The number of tensors whose size is not that of the plan."""
    wanted = leaves(shapes)
    return sum(
        np.size(weights[name]) != math.prod(wanted[slot.path].shape)
        for name, slot in plan.items()
        if name in weights
    )


def _best_plan(
    dialect: Dialect,
    module: Any,
    weights: Mapping[str, Any],
    channels: int,
    size: int | None,
    path: str | Path,
) -> tuple[dict[str, Slot], set[str], Tree]:
    """The plan, over the sizes that the image may have, that fits the tensors best."""
    found: dict[tuple[str, ...], tuple[int, Any]] = {}
    for side in _sizes(module) if size is None else [size]:
        shapes = template(module, (side, side, channels), classes=bool(module.num_classes))
        plan, unused = make_plan(dialect, module, shapes)
        left_over = len((set(weights) - unused) ^ set(plan)) + _misfits(plan, shapes, weights)
        found[tuple(sorted(shapes))] = (left_over, (plan, unused, shapes))
    fitting = [names for names, (left_over, _) in found.items() if not left_over]
    if len(fitting) > 1:
        raise ValueError(f"{path} fits images of several sizes: give size")
    return min(found.values(), key=lambda item: item[0])[1]


def default_model(module: Any, sde: SDE) -> Model:
    """The model of a network as score_sde trains it on an SDE.

    A network that divides its output by sigma returns the score and is given sigma, or an index of its
    `sigmas`; NCSN returns the score and is given an index of its levels. A network with the embedding
    "plain_fourier" has EDM's preconditioning, as in OpenAI's fork. Every other network returns the
    noise and is given t * 999, or the index of a timestep (`TIMESTEP_NOISE`: between two timesteps the
    authors' programs divide by the std of the one before).

    >>> model = default_model(NCSNpp(), VP())
    """
    if getattr(module, "embedding", None) == "plain_fourier":
        return Model(sde, module.apply, LogSigmaInput(), edm())
    if isinstance(module, NCSN) and module.sigmas is None:
        return Model(sde, module.apply, LevelInput(module.num_levels), SCORE)
    if getattr(module, "scale_by_sigma", False):
        levels: NoiseInput = LevelInput(module.sigmas[2]) if module.sigmas else StdInput()
        return Model(sde, module.apply, levels, SCORE)
    if isinstance(sde, NoiseSchedule):
        return Model(sde, module.apply, IndexInput(), TIMESTEP_NOISE, SMALL)
    return Model(sde, module.apply, TimeInput())


def checked(module: nn.Module, kinds: tuple[type, ...] = (NCSNpp,)) -> Any:
    """The network; ValueError unless it is one of the kinds that score_sde has."""
    if not isinstance(module, kinds):
        names = " or ".join([*(kind.__name__ for kind in kinds), DDPM.__name__])
        raise ValueError(f"module must be one of {names}, got {type(module).__name__}")
    return module


def _check_sigmas(module: Any, sigmas: Any, path: str | Path) -> None:
    """Raise ValueError unless the file's noise levels are those that the network uses."""
    if module.sigmas is None:
        return
    own = noise_levels(module.sigmas)
    if np.shape(sigmas) != own.shape or not np.allclose(sigmas, own, rtol=1e-4):
        raise ValueError(f"sigmas of {path} are not the network's {module.sigmas}")


def _entry(tree: Any, names: tuple[str, ...], path: str | Path) -> Any:
    found = find(tree, names)
    if found is None:
        known = listed(tree) if isinstance(tree, Mapping) else brief(tree)
        raise ValueError(f"{path} has no {'/'.join(names)!r}; it holds {known}")
    return found


def _averaged(file: Any, weights: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """The weights with the averaged ones in their place: a list in the order of the parameters."""
    shadows = _entry(file, ("ema", "shadow_params"), path)
    if not isinstance(shadows, list) or not all(isinstance(s, np.ndarray) for s in shadows):
        raise ValueError(f"ema/shadow_params of {path} must be a list of tensors")
    # Buffers and the random frequencies, which have no gradient, are not averaged.
    fixed = {"sigmas", *(n for n in weights if n.endswith(".W") and n.count(".") == 2)}
    names = [name for name in weights if name not in fixed]
    if len(shadows) != len(names):
        raise ValueError(
            f"ema/shadow_params of {path} has {len(shadows)} tensors for {len(names)} parameters"
        )
    averaged = dict(weights)
    for index, (name, shadow) in enumerate(zip(names, shadows, strict=True)):
        if np.shape(shadow) != np.shape(weights[name]):
            raise ValueError(
                f"ema/shadow_params/{index} of {path} has shape {np.shape(shadow)}, "
                f"but {name} has {np.shape(weights[name])}"
            )
        averaged[name] = shadow
    return averaged


def from_score_sde_pytorch(
    path: str | Path, module: nn.Module, sde: SDE, *, ema: bool = True, size: int | None = None
) -> Loaded:
    """A network with the weights of a `.pth` of score_sde_pytorch: (model, params, info).

    Args:
      path: the file: {"model": state dict, with or without "module.", "ema": ..., "step": ...}, or one
        of a fork: the names of its wrappers are taken off.
      module: the `NCSNpp` or `DDPM` whose fields are those of the file's configuration.
      sde: the SDE it was trained on, which the file does not name; see `default_model`.
      ema: the averaged weights, or those of the last step.
      size: of the images; found from the file if None.

    `info` has "step", "ema", "unwrapped" (the wrappers) and, where the file has them, "sigmas", its
    noise levels. Raises ValueError, naming file and tensor, if the file cannot be read or does not fit
    the network exactly; OSError if it cannot be opened.

    >>> model, params, info = from_score_sde_pytorch("checkpoint_8.pth", NCSNpp(fir=True), VP())
    """
    net = checked(module)
    file = read_torch(path)
    # The average is a list in this program, and the state dict of a fork's.
    own = not ema or find(file, ("ema", "shadow_params")) is not None
    found, said = unwrapped(file, path, ema=not own)
    weights = tensors(found, path)
    if ema and own:
        weights = _averaged(file, weights, path)
    elif ema and not set(said) & set(AVERAGES):
        raise ValueError(f"{path} has no average of its weights: ema=False takes those it has")
    info = {"step": find(file, ("step",)), "ema": ema, "unwrapped": said}
    if "sigmas" in weights:
        info["sigmas"] = weights.pop("sigmas")
        _check_sigmas(net, info["sigmas"], path)
    kernels = (w for w in weights.values() if np.ndim(w) == 4)
    channels = next((w.shape[1] for w in kernels), 0)
    params = _convert(TORCH, net, weights, path, channels, size)
    return default_model(net, sde), params, info


def from_score_sde_jax(
    path: str | Path, module: nn.Module, sde: SDE, *, ema: bool = True, size: int | None = None
) -> Loaded:
    """A network with the weights of a `checkpoint_N` of the JAX score_sde: (model, params, info).

    The file is Flax's msgpack of the program's State of 2021, of which that of score_flow
    (arXiv:2101.09258) is alike, or of the State of OpenAI's consistency models (arXiv:2303.01469).
    Arguments, `info` and errors are as in `from_score_sde_pytorch`, and the module may also be an `NCSN`
    or `NCSNv2`.

    >>> model, params, info = from_score_sde_jax("checkpoint_8", NCSNpp(fir=True), VP())
    """
    net = checked(module, (NCSNpp, NCSN, NCSNv2))
    file = read_flax_msgpack(path)
    last = (
        ("params",) if isinstance(file, Mapping) and "params" in file else ("optimizer", "target")
    )
    tree = _entry(file, ("params_ema",) if ema else last, path)
    tree = tree["params"] if isinstance(tree, Mapping) and set(tree) == {"params"} else tree
    weights = tensors({"/".join(names): value for names, value in leaves(tree).items()}, path)
    shape = np.shape(weights.get("Conv_0/kernel", 0))
    channels = shape[2] if len(shape) == 4 else 0
    info = {"step": find(file, ("step",)), "ema": ema}
    if isinstance(net, NCSNpp):
        params = _convert(FLAX, net, weights, path, channels, size)
    else:
        # Any size that can be halved: no parameter depends on it.
        shapes = template(net, (16, 16, channels or 3), classes=False)
        params = assemble(shapes, refinenet_plan(net, shapes), weights, path)
    return default_model(net, sde), params, info


def _convert(
    dialect: Dialect,
    module: Any,
    weights: dict[str, Any],
    path: str | Path,
    channels: int,
    size: int | None,
) -> Tree:
    if not channels:
        raise ValueError(f"{path} has no convolution, so it is not a network of score_sde")
    plan, unused, shapes = _best_plan(dialect, module, weights, channels, size, path)
    return assemble(shapes, plan, weights, path, unused)
