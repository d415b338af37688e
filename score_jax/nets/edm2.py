r"""The magnitude-preserving U-Net of EDM2 (arXiv:2312.02696, configuration G, figure 21).

    encoder block   x = norm(map(resample(x)))     norm: over the channels of every place
    both            y = conv(silu(conv(silu(x)) (1 + gain map(embedding))));   sum(map(x), y)
    attention       softmax(q k^T / sqrt(c)) v  with q, k and v normalised;    sum(x, map(attended))

All operations are those of `score_jax.nets.magnitude`: independent entries of unit variance keep it, away
from the borders, where a convolution sees zeros, and from attention, which averages. There are no group
norms and no biases; a channel of ones beside x takes the place of the biases. The only free magnitudes
are the gains, which start at 0: the first prediction is 0, whatever the input.

Names of parameters: those of `NCSNpp` for the blocks (`enc{l}_{i}`, `down{l}`, `mid0`, `mid1`,
`dec{l}_{i}`, `up{l}`, `first`, `last`); in a block `conv0`, `conv1`, `label`, `skip`, `qkv`, `out`.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_jax._check import check, check_count
from score_jax.nets.blocks import Move, resize
from score_jax.nets.convolution import Volume
from score_jax.nets.layers import (
    Condition,
    Dropout,
    at_least_float32,
    attend,
    check_fields,
    check_inputs,
    check_size,
    kept,
    with_low_res,
)
from score_jax.nets.magnitude import (
    MPClasses,
    MPFourier,
    MPMap,
    mp_cat,
    mp_silu,
    mp_sum,
    normalised,
)
from score_jax.nets.periodic import ZEROS, Padding, Periodic, periodic_axes


class MPBlock(nn.Module):
    """Residual block with attention in `heads` heads (0: none): (b, ..., i), (b, e) -> (b, ..., o)."""

    features: int
    decoder: bool = False
    move: Move = "none"
    heads: int = 0
    dropout: float = 0.0
    residual_balance: float = 0.3
    attention_balance: float = 0.3
    clip: float | None = 256.0
    dtype: Any = None
    periodic: Periodic = ()

    def _map(self, name: str, features: int, size: int = 1, dtype: Any = None) -> MPMap:
        return MPMap(features, size, dtype, self.periodic if size > 1 else (), name=name)

    def _attend(self, x: Volume) -> Volume:
        b, c = x.shape[0], x.shape[-1]
        qkv = self._map("qkv", 3 * c, dtype=self.dtype)(x)
        # The channels are ordered head, channel, q/k/v, as in the published weights.
        qkv = qkv.reshape(b, -1, self.heads, c // self.heads, 3)
        q, k, v = jnp.moveaxis(normalised(qkv, (3,)), -1, 0)
        return self._map("out", c, dtype=self.dtype)(attend(q, k, v).reshape(x.shape))

    # `train` may be positional: nn.remat keeps only positional arguments out of the trace.
    @nn.compact
    def __call__(self, x: Volume, emb: Float[Array, "b e"], train: bool = False) -> Volume:
        """Transform x given the embedding."""
        features, dtype = self.features, self.dtype
        if self.move != "none":
            x = resize(x, self.move == "up", None)
        mapped = x.shape[-1] != features
        if not self.decoder:
            x = self._map("skip", features, dtype=dtype)(x) if mapped else x
            x = normalised(x, (x.ndim - 1,))
        y = self._map("conv0", features, 3, dtype)(mp_silu(x))
        gain = self.param("gain", nn.initializers.zeros, ())
        # In float32, because the gradient of the scale is a sum over all places.
        scale = 1 + self._map("label", features)(emb, gain)
        scale = jnp.expand_dims(scale, tuple(range(1, y.ndim - 1)))
        y = mp_silu((at_least_float32(y) * scale).astype(y.dtype))
        y = Dropout(self.dropout)(y, train=train)
        y = self._map("conv1", features, 3, dtype)(y)
        if self.decoder and mapped:
            x = self._map("skip", features, dtype=dtype)(x)
        x = mp_sum(x, y, self.residual_balance)
        if self.heads:
            x = mp_sum(x, self._attend(x), self.attention_balance)
        return kept(x if self.clip is None else jnp.clip(x, -self.clip, self.clip))


class EDM2(nn.Module):
    """EDM2's U-Net: (x (b, *size, c), noise input (b,), y (b,), low_res) -> (b, *size, out_channels).

    x should have unit variance, as it has under the parametrization `edm`; the noise input is then
    c_noise = log(sigma) / 4, `LogSigmaInput`. y and `low_res` are as for `UNet`; vectors y should have
    unit variance as well. Train it with the rows of its weights projected after every update
    (`score_jax.nets.unit_directions`, `score_jax.training.projected`), which `experiments.train` does.

    Raises ValueError for fields outside their range, x of another rank than `dims` says or of a size
    that cannot be halved, and missing or superfluous y or low_res.

    >>> net = EDM2(channels=32, channel_mult=(1, 2), num_blocks=1, num_head_channels=32)
    >>> params = net.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), jnp.zeros(1))
    """

    channels: int = 192  # of the first level, before `channel_mult`
    channel_mult: tuple[int, ...] = (1, 2, 3, 4)  # factor of every level's channels
    num_blocks: int = 3  # residual blocks per level
    attention_factors: tuple[int, ...] = (4, 8)  # down-sampling factors with self-attention
    num_head_channels: int = 64  # channels of every head of the attention
    dropout: float = 0.0  # probability, in the residual blocks
    residual_balance: float = 0.3  # share of a block's residual branch in its sum
    attention_balance: float = 0.3  # share of the attention in its sum
    concat_balance: float = 0.5  # share of the skip connections beside the main path
    label_balance: float = 0.5  # share of the classes or vectors beside the noise input
    clip: float | None = 256.0  # largest magnitude of an activation
    noise_mult: int | None = None  # factor of the noise input's channels; None: of the first level
    embedding_mult: int | None = None  # factor of the embedding's channels; None: the largest
    dims: int = 2  # axes of space, 1 to 3; of three, the first keeps its length
    out_channels: int | None = (
        None  # as many as x has if None; twice as many for a learned variance
    )
    num_classes: int | None = None  # number of classes, if conditioned on them
    cond_size: int | None = None  # length of the vector, if conditioned on one
    super_resolution: bool = False  # conditioned on an image of low resolution, or a field
    padding: tuple[Padding, ...] = ZEROS  # of all axes of space, or of each: circular if periodic
    remat: bool = False  # compute every block again in the backward pass: less memory, more time
    dtype: Any = None  # of the computation; parameters and output stay float32

    def _check(self, x: Array) -> None:
        check_fields(self, "channels", "num_blocks", "num_head_channels")
        for name in ("noise_mult", "embedding_mult"):
            if getattr(self, name) is not None:
                check_count(**{name: getattr(self, name)})
        for name in ("residual_balance", "attention_balance", "concat_balance", "label_balance"):
            check(name, getattr(self, name), 0 <= getattr(self, name) <= 1, "in [0, 1]")
        check("clip", self.clip, self.clip is None or self.clip > 0, "> 0 or None")
        check("dims", self.dims, self.dims in (1, 2, 3), "1, 2 or 3")
        periodic_axes(self.padding, self.dims)
        check_size(x.shape, self.dims, len(self.channel_mult) - 1)

    def _block(
        self, features: int, name: str, decoder: bool, attends: bool = False, move: Move = "none"
    ) -> MPBlock:
        each = self.num_head_channels
        ok = not attends or features % each == 0
        check("num_head_channels", each, ok, f"a divisor of {features} channels")
        make = nn.remat(MPBlock, static_argnums=(3,)) if self.remat else MPBlock
        return make(
            features, decoder, move, features // each if attends else 0, self.dropout,
            self.residual_balance, self.attention_balance, self.clip, self.dtype,
            periodic_axes(self.padding, self.dims), name=name,
        )  # fmt: skip

    def _embed(self, noise_input: Array, y: Array | None) -> Array:
        """The embedding of the noise input and of y, in float32."""
        widths = [self.channels * m for m in self.channel_mult]
        narrow = widths[0] if self.noise_mult is None else self.channels * self.noise_mult
        mult = self.embedding_mult
        width = max(widths) if mult is None else self.channels * mult
        emb = MPFourier(narrow, name="fourier")(noise_input)
        emb = MPMap(width, name="embed")(emb)
        if y is not None and self.num_classes is not None:
            emb = mp_sum(
                emb,
                MPClasses(self.num_classes, width, name="class_embedding")(y),
                self.label_balance,
            )
        elif y is not None:
            emb = mp_sum(emb, MPMap(width, name="vector")(y), self.label_balance)
        return mp_silu(emb)

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "..."],
        noise_input: Float[Array, " b"],
        y: Condition = None,
        *,
        low_res: Float[Array, "..."] | None = None,
        train: bool = False,
    ) -> Volume:
        """Predict from x, the noise input, the classes or vectors and the image of low resolution."""
        # Longer than most functions: the U shape is read best in one piece.
        self._check(x)
        check_inputs(x, noise_input, y, self.num_classes, self.cond_size)
        periodic, last = periodic_axes(self.padding, self.dims), len(self.channel_mult) - 1
        start = with_low_res(x, low_res, self.super_resolution, periodic)
        emb = self._embed(noise_input, y)
        conv = lambda features, name, dtype: MPMap(features, 3, dtype, periodic, name=name)

        h = jnp.concatenate([start, jnp.ones_like(start[..., :1])], axis=-1)
        skips = [h := conv(self.channels * self.channel_mult[0], "first", self.dtype)(h)]
        for level, mult in enumerate(self.channel_mult):
            attends = 2**level in self.attention_factors
            if level:
                h = self._block(h.shape[-1], f"down{level}", False, move="down")(h, emb, train)
                skips.append(h)
            for i in range(self.num_blocks):
                block = self._block(self.channels * mult, f"enc{level}_{i}", False, attends)
                skips.append(h := block(h, emb, train))

        for level, mult in reversed(list(enumerate(self.channel_mult))):
            attends = 2**level in self.attention_factors
            if level == last:
                h = self._block(h.shape[-1], "mid0", True, True)(h, emb, train)
                h = self._block(h.shape[-1], "mid1", True)(h, emb, train)
            else:
                h = self._block(h.shape[-1], f"up{level}", True, move="up")(h, emb, train)
            for i in range(self.num_blocks + 1):
                h = mp_cat(h, skips.pop(), self.concat_balance)
                block = self._block(self.channels * mult, f"dec{level}_{i}", True, attends)
                h = block(h, emb, train)

        gain = self.param("out_gain", nn.initializers.zeros, ())
        out_channels = self.out_channels or x.shape[-1]
        return MPMap(out_channels, 3, None, periodic, name="last")(h.astype(x.dtype), gain)
