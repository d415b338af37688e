"""The networks: one record a kind, so that a run's config holds what its network uses and no more."""

import dataclasses
from typing import Literal

from experiments.parts.fields import check

Label = Literal["time", "std", "index"]


@dataclasses.dataclass(frozen=True)
class NetConfig:
    """What all networks have."""

    # Channels of the finest level, or width of the hidden layers.
    width: int = 32
    # Dropout rate in the residual blocks.
    dropout: float = 0.0
    # What the network predicts; "score" means that it divides by sigma itself.
    output: Literal["noise", "score", "scaled_score", "denoised", "v"] = "noise"
    # Told of the time as t * 999, as sigma(t), or as the index of a noise level of the table.
    label: Label = "time"
    # Condition on the data's class labels.
    conditional: bool = False
    # Precision of the computation; parameters are float32 always.
    dtype: Literal["float32", "bfloat16"] = "float32"
    # Compute the residual blocks again in the backward pass: less memory, more time.
    remat: bool = False

    def __post_init__(self) -> None:
        check("net", self.width >= 4, "width", self.width, "at least 4")
        check("net", 0 <= self.dropout < 1, "dropout", self.dropout, "in [0, 1)")
        for name in ("num_blocks",):
            value = getattr(self, name, 1)
            check("net", value >= 1, name, value, "at least 1")
        mult = getattr(self, "channel_mult", (1,))
        ok = len(mult) > 0 and min(mult) > 0
        check("net", ok, "channel_mult", mult, "one or more positive numbers")


@dataclasses.dataclass(frozen=True)
class NCSNppConfig(NetConfig):
    """U-Net of the NCSN++ / DDPM++ family for images."""

    kind: Literal["ncsnpp"] = "ncsnpp"
    # Channel multiplier of every level.
    channel_mult: tuple[int, ...] = (1, 2)
    # Residual blocks per level.
    num_blocks: int = 1
    # Resolutions (the larger side) with self-attention.
    attention: tuple[int, ...] = (4,)
    # Embedding of the label: sines of fixed or of random frequencies.
    embedding: Literal["positional", "fourier"] = "positional"
    # Spread of the random frequencies.
    fourier_scale: float = 16.0
    # Residual block, after DDPM or after BigGAN.
    block: Literal["ddpm", "biggan"] = "biggan"
    # Resample with a FIR filter.
    fir: bool = False
    # Scale sums of residuals by 1 / sqrt(2).
    skip_rescale: bool = True
    # Images handed to every level on the way up, and down.
    progressive: Literal["none", "output_skip", "residual"] = "none"
    progressive_input: Literal["none", "input_skip", "residual"] = "none"
    # Join the images of every level by adding or side by side.
    combine: Literal["sum", "cat"] = "sum"
    # Told of the time at all.
    time_conditional: bool = True


@dataclasses.dataclass(frozen=True)
class DDPMConfig(NetConfig):
    """The U-Net of DDPM, as score_sde has it."""

    kind: Literal["ddpm"] = "ddpm"
    # Channel multiplier of every level.
    channel_mult: tuple[int, ...] = (1, 2, 2, 2)
    # Residual blocks per level.
    num_blocks: int = 2
    # Resolutions (the larger side) with self-attention.
    attention: tuple[int, ...] = (16,)
    # Told of the time at all.
    time_conditional: bool = True
    # Attention after every block on the way up (arXiv:2006.11239, diffusers), or a level's last.
    attend_every_block: bool = False


@dataclasses.dataclass(frozen=True)
class NCSNv2Config(NetConfig):
    """RefineNet of NCSNv2: 64, 128 or 256 pixels."""

    kind: Literal["ncsnv2"] = "ncsnv2"
    # Which of the three variants.
    variant: Literal[64, 128, 256] = 64


@dataclasses.dataclass(frozen=True)
class NCSNConfig(NetConfig):
    """RefineNet of the first NCSN, with norms conditioned on the noise level."""

    kind: Literal["ncsn"] = "ncsn"


@dataclasses.dataclass(frozen=True)
class UNetConfig(NetConfig):
    """U-Net of Improved DDPM and of guided-diffusion (ADM)."""

    kind: Literal["unet"] = "unet"
    # Channel multiplier of every level.
    channel_mult: tuple[float, ...] = (1.0, 2.0)
    # Residual blocks per level.
    num_blocks: int = 1
    # Factors of down-sampling (1, 2, 4, ...) at which there is self-attention.
    attention: tuple[int, ...] = (2,)
    # Heads of attention, or, if given, channels of a head.
    num_heads: int = 4
    head_channels: int | None = None
    # Heads on the way up, if they differ.
    num_heads_upsample: int | None = None
    # The embedding scales and shifts the norm, or is added.
    scale_shift: bool = True
    # Resample inside residual blocks (ADM).
    resample_in_blocks: bool = False
    # Order of queries, keys and values: heads outside (Improved DDPM) or inside.
    legacy_attention: bool = True
    # Groups of the norms; 32 in the published networks.
    groups: int = 32
    # Sees the image reduced by this factor, and brought to size again, beside x.
    super_resolution: int | None = None


@dataclasses.dataclass(frozen=True)
class SeriesConfig(NetConfig):
    """Convolutional U-Net along one axis, for series (b, l, c) and vectors."""

    kind: Literal["series"] = "series"


@dataclasses.dataclass(frozen=True)
class MLPConfig(NetConfig):
    """Residual MLP for vectors."""

    kind: Literal["mlp"] = "mlp"
    # Residual blocks.
    num_blocks: int = 1


AnyNet = (
    NCSNppConfig | DDPMConfig | NCSNv2Config | NCSNConfig | UNetConfig | SeriesConfig | MLPConfig
)
