"""Where the tensors of NCSN and NCSNv2 lie in checkpoints of score_sde's JAX program.

The program counts the modules of a class in the order in which it calls them; here they have names
(`score_jax.nets.ncsnv2`). The names of NCSN's classes begin with "Cond" or "Conditional", because its
norms are conditioned on the noise level.
"""

import re
from typing import Any

from score_jax.convert.assemble import Slot, Tree, leaves, same
from score_jax.nets import NCSN
from score_jax.nets.ncsnv2 import STAGES

LEAVES = {"embedding": "Embed_0/embedding"}
AS_THEY_ARE = {"kernel", "bias", "embedding"}  # the others are scales and shifts of norms
BLOCKS = {"fuse": "MSFBlock_0", "pool": "CRPBlock_0"}


def _flat(w: Any) -> Any:
    """The scale or shift of a norm, (1, ..., c) there."""
    return w.reshape(-1)


def _inside(name: str, norm: str) -> str:
    """A layer of a unit: conv{i}_{j} and norm{i}_{j} of pairs, or conv{i} and norm{i}."""
    kind, first, second = re.fullmatch(r"(conv|norm)(\d+)(?:_(\d+))?", name).groups()  # type: ignore[union-attr]
    number = int(first) if second is None else 2 * (int(first) - 1) + int(second) - 1
    names = {"norm": norm, "conv": "Conv"}
    return f"{names[kind]}_{number}"


def _residual(module: Any, path: tuple[str, ...], norm: str) -> str:
    """A layer of the backbone's residual blocks, which pool if they halve the resolution."""
    downs = STAGES[module.variant][0]
    levels = {"1": (0, 0), **{name: (n + 1, spacing) for n, (name, _, spacing) in enumerate(downs)}}
    level, _, place = path[0].removeprefix("res").partition("_")
    number, spacing = levels[level]
    pooled = int(place) == 0 and spacing == 1
    names = {"norm1": f"{norm}_0", "norm2": f"{norm}_1", "conv1": "Conv_0"}
    names |= {"conv2": "ConvMeanPool_0/Conv_0" if pooled else "Conv_1"}
    names |= {"shortcut": "ConvMeanPool_1/Conv_0" if pooled else "Conv_2"}
    return f"ResidualBlock_{2 * number + int(place)}/{names[path[1]]}"


def _refine(module: Any, path: tuple[str, ...], norm: str, prefix: str, adapts: int) -> str:
    """A layer of a refining block."""
    number = [name for name, _ in STAGES[module.variant][1]].index(path[0].removeprefix("refine"))
    places = {"output": adapts} | {f"adapt{n}": n for n in range(adapts)}
    unit = BLOCKS[path[1]] if path[1] in BLOCKS else f"RCUBlock_{places[path[1]]}"
    return f"RefineBlock_{number}/{prefix}{unit}/{_inside(path[2], norm)}"


def refinenet_plan(module: Any, shapes: Tree) -> dict[str, Slot]:
    """{name there: place here} of all tensors of an NCSN or NCSNv2."""
    first = isinstance(module, NCSN)
    norm = "ConditionalInstanceNorm2dPlus" if first else "InstanceNorm2dPlus"
    residual, prefix = ("Conditional", "Cond") if first else ("", "")
    ends = {"first": "Conv_0", "last": "Conv_1", "last_norm": f"{norm}_0"}
    plan: dict[str, Slot] = {}
    for path in leaves(shapes):
        if path[0] in ends:
            there = ends[path[0]]
        elif path[0].startswith("res"):
            there = residual + _residual(module, path, norm)
        else:
            adapts = sum(name.startswith("adapt") for name in shapes[path[0]])
            there = prefix + _refine(module, path, norm, prefix, adapts)
        leaf = path[-1]
        move = same if leaf in AS_THEY_ARE else _flat
        plan[f"{there}/{LEAVES.get(leaf, leaf)}"] = Slot(path, move)
    return plan
