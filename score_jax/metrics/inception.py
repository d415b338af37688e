"""The Inception network of the FID (2015-12-05), not the `inception_v3` of torchvision.

It has 1008 classes and no auxiliary head. Its average pools do not count the padding, and the last
block has a max pool instead. Rethinking the Inception architecture: arXiv:1512.00567; the network as
published: github.com/mseitzer/pytorch-fid.

Batch norm is folded into the convolutions (`weights.read_inception`). The 1x1 convolutions that
read the same input are one convolution, and the average pools follow theirs, which is the same map:
the weights of a pool sum to one.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

POOL, LOGITS, SPATIAL = "pool", "logits", "spatial"
WIDTHS = {"64": 64, "192": 192, "768": 768, POOL: 2048, LOGITS: 1008, SPATIAL: 2023}
SPATIAL_CHANNELS = 7  # of Mixed_6d.branch1x1, 17 x 17 (sFID, arXiv:2103.03841)

Maps = Float[Array, "b h w c"]
Out = Float[Array, "b i j k"]


def _average(x: Maps) -> Maps:
    """3x3 average with stride 1 over the entries inside the map, one axis after the other."""
    for axis in (1, 2):
        size = x.shape[axis]
        padded = jnp.pad(x, [(1, 1) if i == axis else (0, 0) for i in range(4)])
        total = sum(jax.lax.slice_in_dim(padded, i, i + size, axis=axis) for i in range(3))
        inside = np.array([min(i + 1, size - 1) - max(i - 1, 0) + 1 for i in range(size)])
        weight = jnp.asarray(1 / inside, x.dtype)
        x = total * weight.reshape([size if i == axis else 1 for i in range(4)])
    return x


def _max(x: Maps, strides: int = 2) -> Out:
    """3x3 maximum, inside the map with stride 2, padded with stride 1; slices, as they are faster."""
    for axis in (1, 2):
        if strides == 1:
            pad = [(1, 1) if i == axis else (0, 0) for i in range(4)]
            x = jnp.pad(x, pad, constant_values=-jnp.inf)
        last = x.shape[axis] - 2
        first, *rest = (jax.lax.slice_in_dim(x, i, last + i, strides, axis=axis) for i in range(3))
        x = jnp.maximum(jnp.maximum(first, rest[0]), rest[1])
    return x


class Unit(nn.Module):
    """Convolution with a bias (of the folded batch norm), then ReLU.

    A 3x3 convolution without padding (`valid`) is one with padding, cut: on a CPU, XLA runs the
    padded form 1.4 to 7 times as fast. The kept numbers are the same. A 1x1 convolution is a matrix
    product, also for speed.
    """

    features: int
    kernel: tuple[int, int] = (1, 1)
    strides: int = 1
    valid: bool = False
    dtype: Any = jnp.float32
    relu: bool = True

    @nn.compact
    def __call__(self, x: Maps) -> Out:
        """Map x (b, h, w, c) to (b, h', w', features)."""
        _, h, w, _ = x.shape
        if self.valid and self.strides == 2:  # even sizes make "SAME" start at the first pixel
            x = jnp.pad(x, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)))
        options: dict[str, Any] = {
            "dtype": self.dtype,
            "precision": jax.lax.Precision.HIGHEST,
            "name": "conv",
        }
        if self.kernel == (1, 1):
            y = nn.Dense(self.features, **options)(x)
        else:
            y = nn.Conv(self.features, self.kernel, self.strides, "SAME", **options)(x)
        if self.valid:
            first = 1 if self.strides == 1 else 0
            high, wide = ((n - 3) // self.strides + 1 for n in (h, w))
            y = y[:, first : first + high, first : first + wide]
        return nn.relu(y) if self.relu else y


class Block(nn.Module):
    """Parallel branches of the same input, joined along the channels.

    `first` are the widths of the branches' 1x1 convolutions (the pool's last, if `pool`), `rest` the
    convolutions that follow in each, as (name, width, kernel, strides).
    """

    dtype: Any = jnp.float32

    def unit(self, name: str, x: Any, features: int, kernel: tuple[int, int], **kwargs: Any) -> Any:
        """One convolution of a branch."""
        return Unit(features, kernel, dtype=self.dtype, name=name, **kwargs)(x)

    def pointwise(self, x: Any, widths: Sequence[int]) -> list[Any]:
        """All 1x1 convolutions of x at once; without ReLU, which the pool's has after its average."""
        y = Unit(sum(widths), dtype=self.dtype, relu=False, name="pointwise")(x)
        ends = [sum(widths[: i + 1]) for i in range(len(widths) - 1)]
        return jnp.split(y, ends, axis=-1)


class BlockA(Block):
    """Mixed_5b, 5c, 5d."""

    pool: int = 64

    @nn.compact
    def __call__(self, x: Maps) -> Out:
        """Map x (b, 35, 35, c) to (b, 35, 35, 224 + pool)."""
        one, five, three, pool = self.pointwise(x, (64, 48, 64, self.pool))
        five = self.unit("branch5x5_2", nn.relu(five), 64, (5, 5))
        three = self.unit("branch3x3dbl_2", nn.relu(three), 96, (3, 3))
        three = self.unit("branch3x3dbl_3", three, 96, (3, 3))
        return jnp.concatenate([nn.relu(one), five, three, nn.relu(_average(pool))], -1)


class BlockB(Block):
    """Mixed_6a."""

    @nn.compact
    def __call__(self, x: Maps) -> Out:
        """Map x (b, 35, 35, 288) to (b, 17, 17, 768)."""
        once = self.unit("branch3x3", x, 384, (3, 3), strides=2, valid=True)
        twice = self.unit("branch3x3dbl_1", x, 64, (1, 1))
        twice = self.unit("branch3x3dbl_2", twice, 96, (3, 3))
        twice = self.unit("branch3x3dbl_3", twice, 96, (3, 3), strides=2, valid=True)
        return jnp.concatenate([once, twice, _max(x)], -1)


class BlockC(Block):
    """Mixed_6b, 6c, 6d, 6e; returns the branch of the 1x1 convolution besides."""

    width: int = 128

    @nn.compact
    def __call__(self, x: Maps) -> tuple[Out, Any]:
        """Map x (b, 17, 17, 768) to the same shape, and branch1x1 (b, 17, 17, 192)."""
        w = self.width
        one, seven, double, pool = self.pointwise(x, (192, w, w, 192))
        seven = self.unit("branch7x7_2", nn.relu(seven), w, (1, 7))
        seven = self.unit("branch7x7_3", seven, 192, (7, 1))
        double = self.unit("branch7x7dbl_2", nn.relu(double), w, (7, 1))
        double = self.unit("branch7x7dbl_3", double, w, (1, 7))
        double = self.unit("branch7x7dbl_4", double, w, (7, 1))
        double = self.unit("branch7x7dbl_5", double, 192, (1, 7))
        one = nn.relu(one)
        return jnp.concatenate([one, seven, double, nn.relu(_average(pool))], -1), one


class BlockD(Block):
    """Mixed_7a."""

    @nn.compact
    def __call__(self, x: Maps) -> Out:
        """Map x (b, 17, 17, 768) to (b, 8, 8, 1280)."""
        three, seven = map(nn.relu, self.pointwise(x, (192, 192)))
        three = self.unit("branch3x3_2", three, 320, (3, 3), strides=2, valid=True)
        seven = self.unit("branch7x7x3_2", seven, 192, (1, 7))
        seven = self.unit("branch7x7x3_3", seven, 192, (7, 1))
        seven = self.unit("branch7x7x3_4", seven, 192, (3, 3), strides=2, valid=True)
        return jnp.concatenate([three, seven, _max(x)], -1)


class BlockE(Block):
    """Mixed_7b and 7c; the last one pools by the maximum, before its convolution."""

    last: bool = False

    @nn.compact
    def __call__(self, x: Maps) -> Out:
        """Map x (b, 8, 8, c) to (b, 8, 8, 2048)."""
        if self.last:
            one, three, double = self.pointwise(x, (320, 384, 448))
            pool = self.unit("branch_pool", _max(x, 1), 192, (1, 1))
        else:
            one, three, double, pool = self.pointwise(x, (320, 384, 448, 192))
            pool = nn.relu(_average(pool))
        one, three, double = nn.relu(one), nn.relu(three), nn.relu(double)
        double = self.unit("branch3x3dbl_2", double, 384, (3, 3))
        halves = [
            self.unit(f"{name}{half}", value, 384, kernel)
            for name, value in (("branch3x3_2", three), ("branch3x3dbl_3", double))
            for half, kernel in (("a", (1, 3)), ("b", (3, 1)))
        ]
        return jnp.concatenate([one, *halves, pool], -1)


class Inception(nn.Module):
    """The network of the FID; `outputs` are names of `WIDTHS`; only the layers they need run."""

    outputs: tuple[str, ...] = (POOL,)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"]) -> dict[str, Float[Array, "b k"]]:
        """Map images in the range of the network, about [-1, 1], to the outputs, in float32."""
        found: dict[str, Any] = {}
        mean = lambda x: x.astype(jnp.float32).mean((1, 2))

        def unit(name: str, x: Any, features: int, kernel: tuple[int, int], **options: Any) -> Any:
            return Unit(features, kernel, dtype=self.dtype, name=name, **options)(x)

        x = unit("Conv2d_1a_3x3", x, 32, (3, 3), strides=2, valid=True)
        x = unit("Conv2d_2a_3x3", x, 32, (3, 3), valid=True)
        x = _max(unit("Conv2d_2b_3x3", x, 64, (3, 3)))
        found["64"] = mean(x)
        x = unit("Conv2d_3b_1x1", x, 80, (1, 1))
        x = _max(unit("Conv2d_4a_3x3", x, 192, (3, 3), valid=True))
        found["192"] = mean(x)
        for name, pool in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
            x = BlockA(self.dtype, pool, name=name)(x)
        x = BlockB(self.dtype, name="Mixed_6a")(x)
        for name, width in (
            ("Mixed_6b", 128),
            ("Mixed_6c", 160),
            ("Mixed_6d", 160),
            ("Mixed_6e", 192),
        ):
            x, one = BlockC(self.dtype, width, name=name)(x)
            if name == "Mixed_6d":
                flat = one[..., :SPATIAL_CHANNELS].astype(jnp.float32)
                found[SPATIAL] = flat.reshape(len(x), -1)
        found["768"] = mean(x)
        x = BlockD(self.dtype, name="Mixed_7a")(x)
        x = BlockE(self.dtype, name="Mixed_7b")(x)
        x = BlockE(self.dtype, last=True, name="Mixed_7c")(x)
        found[POOL] = mean(x)
        fc = nn.Dense(1008, use_bias=False, precision=jax.lax.Precision.HIGHEST, name="fc")
        found[LOGITS] = fc(found[POOL])
        return {name: found[name] for name in self.outputs}
