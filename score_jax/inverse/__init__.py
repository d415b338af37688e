"""Inverse problems: what was measured, and samples of what it was measured of, with any sampler."""

from score_jax.inverse.hold import repaint as repaint
from score_jax.inverse.hold import replacement as replacement
from score_jax.inverse.measurement import Measurement as Measurement
from score_jax.inverse.measurement import consistent as consistent
from score_jax.inverse.measurement import exact_posterior as exact_posterior
from score_jax.inverse.measurement import measure as measure
from score_jax.inverse.measurement import measurement_logp as measurement_logp
from score_jax.inverse.methods import Conditional as Conditional
from score_jax.inverse.methods import Method as Method
from score_jax.inverse.methods import dps as dps
from score_jax.inverse.methods import measured_stds as measured_stds
from score_jax.inverse.methods import pigdm as pigdm
from score_jax.inverse.methods import projection as projection
from score_jax.inverse.methods import unconditional as unconditional
from score_jax.inverse.operators import BlockAverage as BlockAverage
from score_jax.inverse.operators import ChannelMix as ChannelMix
from score_jax.inverse.operators import Linear as Linear
from score_jax.inverse.operators import LinearOperator as LinearOperator
from score_jax.inverse.operators import Mask as Mask
from score_jax.inverse.operators import Matrix as Matrix
from score_jax.inverse.operators import Nonlinear as Nonlinear
from score_jax.inverse.operators import Operator as Operator
from score_jax.inverse.operators import SpectralOperator as SpectralOperator
from score_jax.inverse.operators import as_matrix as as_matrix
from score_jax.inverse.operators import dense as dense
from score_jax.inverse.operators import grayscale as grayscale
from score_jax.inverse.operators import matrix_of as matrix_of
from score_jax.inverse.sampling import Restorer as Restorer
from score_jax.inverse.sampling import edit as edit
from score_jax.inverse.sampling import from_time as from_time
from score_jax.inverse.sampling import posterior_sample as posterior_sample
from score_jax.inverse.transforms import Blur as Blur
from score_jax.inverse.transforms import Fourier as Fourier
from score_jax.inverse.transforms import Radon as Radon
from score_jax.inverse.transforms import gaussian_kernel as gaussian_kernel

__all__ = [
    "BlockAverage", "Blur", "ChannelMix", "Conditional", "Fourier", "Linear", "LinearOperator",
    "Mask", "Matrix", "Measurement", "Method", "Nonlinear", "Operator", "Radon", "Restorer",
    "SpectralOperator", "as_matrix", "consistent", "dense", "dps", "edit", "exact_posterior",
    "from_time", "gaussian_kernel", "grayscale", "matrix_of", "measure", "measured_stds",
    "measurement_logp", "pigdm", "posterior_sample", "projection", "repaint", "replacement",
    "unconditional",
]  # fmt: skip
