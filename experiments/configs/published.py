"""What the authors report for their runs, by preset: data, from which the docs make their table."""

from typing import NamedTuple


class Figures(NamedTuple):
    """Published figures of a run; None where none was given.

    fid, inception: of samples by the run's own sampler (Table 3 of the paper); fid_ode, bpd: by the
    probability-flow ODE, uniformly dequantised (Table 2).
    """

    source: str
    fid: float | None = None
    inception: float | None = None
    fid_ode: float | None = None
    bpd: float | None = None


_SONG = "arXiv:2011.13456, tables 2 and 3; README of yang-song/score_sde_pytorch"
_NICHOL = "arXiv:2102.09672, abstract and table 3 (variational bound, not the ODE's likelihood)"
_DHARIWAL = "arXiv:2105.05233, table 5 (IDDPM, 250 steps)"

PUBLISHED: dict[str, Figures] = {
    "ve_cifar10_ncsnpp": Figures(_SONG, 2.45, 9.73),
    "ve_cifar10_ncsnpp_continuous": Figures(_SONG, 2.38, 9.83),
    "ve_cifar10_ncsnpp_deep_continuous": Figures(_SONG, 2.20, 9.89),
    "vp_ddpm_cifar10": Figures(_SONG, 3.24, None, 3.37, 3.28),
    "vp_ddpm_cifar10_continuous": Figures(_SONG, None, None, 3.69, 3.21),
    "vp_cifar10_ddpmpp": Figures(_SONG, 2.78, 9.64),
    "vp_cifar10_ddpmpp_continuous": Figures(_SONG, 2.55, 9.58, 3.93, 3.16),
    "vp_cifar10_ddpmpp_deep_continuous": Figures(_SONG, 2.41, 9.68, 3.08, 3.13),
    "subvp_cifar10_ddpm_continuous": Figures(_SONG, None, None, 3.56, 3.05),
    "subvp_cifar10_ddpmpp_continuous": Figures(_SONG, 2.61, 9.56, 3.16, 3.02),
    "subvp_cifar10_ddpmpp_deep_continuous": Figures(_SONG, 2.41, 9.57, 2.92, 2.99),
    "iddpm_cifar10_vlb": Figures(_NICHOL, bpd=2.94),
    "iddpm_imagenet64_vlb": Figures(_NICHOL, bpd=3.53),
    "iddpm_imagenet64_cond": Figures(_DHARIWAL, 2.92),
}
