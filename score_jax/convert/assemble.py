"""From named tensors to a tree of parameters, with every tensor accounted for."""

import itertools
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from score_jax._check import brief
from score_jax._math import placed

Move = Callable[[np.ndarray], np.ndarray]
Tree = dict[str, Any]


class Slot(NamedTuple):
    """Where a tensor goes in the tree, and how its axes are moved on the way."""

    path: tuple[str, ...]
    move: Move


def same(w: np.ndarray) -> np.ndarray:
    """The axes as they are."""
    return w


def transposed(w: np.ndarray) -> np.ndarray:
    """The matrix of a linear map: (o, i) -> (i, o)."""
    return w.T


def outward(w: np.ndarray) -> np.ndarray:
    """The kernel of a convolution: (o, i, *k) -> (*k, i, o)."""
    return np.moveaxis(w, (1, 0), (-2, -1))


def pointwise(w: np.ndarray) -> np.ndarray:
    """The matrix of a convolution of size 1: (o, i, 1, ...) -> (i, o)."""
    return outward(w).reshape(w.shape[1::-1])


def inner(w: np.ndarray) -> np.ndarray:
    """The matrix of a convolution of size 1 that has its channels last: (1, ..., i, o) -> (i, o)."""
    return w.reshape(w.shape[-2:])


def _inward(w: np.ndarray) -> np.ndarray:
    return np.moveaxis(w, (-2, -1), (1, 0))


def _to_point(w: np.ndarray) -> np.ndarray:
    return w.T[:, :, None, None]


# The way back of every move of a tensor of PyTorch with two axes of space.
BACK: dict[Move, Move] = {
    same: same, transposed: transposed, outward: _inward, pointwise: _to_point,
}  # fmt: skip
# Fields of a network that matter only at the start, in training or to the precision.
FREE = {"dropout", "init_scale", "fourier_scale", "dtype", "remat", "parent", "name"}


def template(module: nn.Module, x: tuple[int, ...], *, classes: bool, **inputs: Any) -> Tree:
    """The shapes of a network's parameters for an example of this shape; nothing is computed.

    `classes` says whether the network is conditioned on classes, `inputs` what else it is given.
    """
    y = (jnp.zeros((1,), jnp.int32),) if classes else ()
    shapes = jax.eval_shape(
        lambda key: module.init(key, jnp.zeros((1, *x)), jnp.ones((1,)), *y, **inputs),
        jax.random.key(0),
    )
    return dict(shapes["params"])


def find(tree: Any, path: tuple[str, ...]) -> Any:
    """The part of a tree at a path; None if it has none."""
    for name in path:
        if not isinstance(tree, Mapping) or name not in tree:
            return None
        tree = tree[name]
    return tree


def leaves(tree: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """All leaves of nested dictionaries by their paths."""
    if not isinstance(tree, Mapping):
        return {path: tree}
    found: dict[tuple[str, ...], Any] = {}
    for name, part in tree.items():
        found |= leaves(part, (*path, str(name)))
    return found


def tensors(tree: Any, where: str | Path) -> dict[str, np.ndarray]:
    """The named arrays of a state dict; ValueError, naming the file, for anything else in it."""
    if not isinstance(tree, Mapping):
        raise ValueError(f"{where} holds {brief(tree)}, not a state dict")
    for name, value in tree.items():
        if not isinstance(value, np.ndarray):
            raise ValueError(f"{brief(name)} of {where} must be a tensor, got {brief(value)}")
    return {str(name): value for name, value in tree.items()}


# Entries of a checkpoint that hold a state dict, the averaged ones first, and of those that hold one of
# the two. "ema" of lucidrains' program is a state dict of its wrapper, whose average is "ema_model.".
AVERAGES = ("ema", "ema_model", "model_ema", "ema_state_dict", "params_ema", "ema_params")
WEIGHTS = ("state_dict", "model_state_dict", "model", "net", "network", "module", "unet", "params")
# What wrappers put before every name: DataParallel and DDP, torch.compile, the average and the process
# of lucidrains, Lightning's modules.
PREFIXES = ("module.", "_orig_mod.", "ema_model.", "model.", "net.", "unet.", "diffusion_model.")


def unwrapped(
    file: Any, where: str | Path, *, ema: bool = True
) -> tuple[dict[str, Any], list[str]]:
    """The tensors of a network in whatever a program has wrapped it, and what was taken off.

    The tensors may lie in an entry such as "state_dict", "model" or, for the average, "ema"; and their
    names may have a common beginning such as "module." (DataParallel), "_orig_mod." (torch.compile) or
    "ema_model." and "model." (lucidrains). Other tensors beside those with the beginning, such as the
    betas of a process, are left out. `ema` says which entry is taken if there are both kinds. Raises
    ValueError, naming the file, if there are no tensors.
    """
    said: list[str] = []
    for _ in range(4):
        if not isinstance(file, Mapping):
            raise ValueError(f"{where} holds {brief(file)}, not a state dict")
        order = (*AVERAGES, *WEIGHTS) if ema else (*WEIGHTS, *AVERAGES)
        found = next((k for k in order if isinstance(file.get(k), Mapping) and file[k]), None)
        if found is None and any(isinstance(value, np.ndarray) for value in file.values()):
            break
        if found is None:
            raise ValueError(f"{where} has no weights; it holds {listed(file) or 'nothing'}")
        said.append(found)
        file = file[found]
    weights = {str(name): value for name, value in file.items()}
    for _ in range(4):
        prefix = next((p for p in PREFIXES if any(n.startswith(p) for n in weights)), None)
        if prefix is None:
            break
        said.append(prefix)
        weights = {n.removeprefix(prefix): v for n, v in weights.items() if n.startswith(prefix)}
    return weights, said


def listed(names: Collection[Any]) -> str:
    """Some names, and how many more there are, for a message."""
    shown = [str(n)[:80] for n in itertools.islice(names, 4)]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return ", ".join(shown) + more


def _moved(move: Move, tensor: np.ndarray) -> np.ndarray | None:
    try:
        return move(tensor)
    except ValueError:  # the tensor does not have the axes to move
        return None


def assemble(
    shapes: Tree,
    plan: Mapping[str, Slot],
    weights: Mapping[str, Any],
    where: str | Path,
    unused: Collection[str] = (),
) -> Tree:
    """Put tensors where the plan says: {"params": tree} in float32.

    Raises ValueError, naming file and tensor, for a tensor that is missing, has another shape than the
    network's or holds no floating-point numbers, for a tensor that the network does not use unless it
    is in `unused`, and for parameters without a tensor.
    """
    missing = [name for name in plan if name not in weights]
    if missing:
        raise ValueError(f"{where} lacks tensors that the network needs: {listed(missing)}")
    extra = [name for name in weights if name not in plan and name not in unused]
    if extra:
        raise ValueError(f"{where} has tensors that the network does not use: {listed(extra)}")
    wanted = leaves(shapes)
    empty = set(wanted) - {slot.path for slot in plan.values()}
    if empty:
        names = ["/".join(path) for path in sorted(empty)]
        raise ValueError(f"{where} has no tensors for parameters of the network: {listed(names)}")
    tree: Tree = {}
    for name, slot in plan.items():
        tensor = weights[name]
        if not isinstance(tensor, np.ndarray) or not jnp.issubdtype(tensor.dtype, jnp.floating):
            kind = getattr(tensor, "dtype", type(tensor).__name__)
            raise ValueError(f"{name} of {where} must be a floating-point tensor, got {kind}")
        shape = wanted[slot.path].shape
        value = _moved(slot.move, tensor)
        if value is None or value.shape != shape:
            raise ValueError(
                f"{name} of {where} has shape {tensor.shape}, which does not fit "
                f"{'/'.join(slot.path)} of shape {shape}"
            )
        place = tree
        for part in slot.path[:-1]:
            place = place.setdefault(part, {})
        place[slot.path[-1]] = placed(value, jnp.float32)
    return {"params": tree}


def disassemble(params: Tree, plan: Mapping[str, Slot], program: str) -> dict[str, np.ndarray]:
    """The tensors of which `assemble` makes these parameters, float32, in the order of the plan.

    Raises ValueError for parameters that the plan has no tensor for; `program` is named in it.
    """
    own = leaves(params["params"])
    left = own.keys() - {slot.path for slot in plan.values()}
    if left:
        names = ["/".join(path) for path in sorted(left)]
        raise ValueError(f"params cannot be written for {program}, which has no {listed(names)}")
    moved = {name: BACK[slot.move](np.asarray(own[slot.path])) for name, slot in plan.items()}
    return {name: np.ascontiguousarray(value, np.float32) for name, value in moved.items()}
