r"""Gaussian diffusion on a table of betas: DDPM and Improved DDPM in discrete time.

A table of N betas is a chain x_0 -> x_1 -> ... -> x_N; **index i counts from 0**, so that i leads to
x_{i+1}. With alpha_bar_i = prod_{k <= i} (1 - beta_k):

    (1)  q(x | x0)           = N(sqrt(alpha_bar_i) x0, (1 - alpha_bar_i) I)        q_mean_var, q_sample
    (2)  q(x_prev | x, x0)   = N(c0 x0 + c1 x, beta~_i I)                          q_posterior
         beta~_i = beta_i (1 - alpha_bar_{i-1}) / (1 - alpha_bar_i)
    (3)  p(x_prev | x)       = N(posterior mean of the predicted x0, Sigma)        p_mean_var
    (4)  log Sigma = f log beta_i + (1 - f) log beta~_i,   f = (v + 1) / 2         LEARNED_RANGE

(1) to (3) are Ho et al. 2020 (arXiv:2006.11239, eq. 4, 6, 7), (4) is Nichol & Dhariwal 2021
(arXiv:2102.09672, eq. 15), v the second half of the network's channels. beta~_0 is zero; its
logarithm is replaced by that of beta~_1, as in the authors' program.

A `Diffusion` is static under `jax.jit`. Its tables are float64 NumPy arrays, read at the precision
of x. An index outside the table raises ValueError where it is known, and gives NaN inside jit.
As a time, index i is t = (i + 1)/N, with data at t = 0; a respaced table keeps the times (and the
network's labels) of the table it was cut from.
"""

from score_jax.discrete.reverse import FIXED_LARGE as FIXED_LARGE
from score_jax.discrete.reverse import FIXED_SMALL as FIXED_SMALL
from score_jax.discrete.reverse import LEARNED as LEARNED
from score_jax.discrete.reverse import LEARNED_RANGE as LEARNED_RANGE
from score_jax.discrete.reverse import NOISE as NOISE
from score_jax.discrete.reverse import PREDICTIONS as PREDICTIONS
from score_jax.discrete.reverse import PREVIOUS as PREVIOUS
from score_jax.discrete.reverse import VARIANCES as VARIANCES
from score_jax.discrete.reverse import X0 as X0
from score_jax.discrete.reverse import Prediction as Prediction
from score_jax.discrete.reverse import Reverse as Reverse
from score_jax.discrete.reverse import ReverseFn as ReverseFn
from score_jax.discrete.reverse import V as V
from score_jax.discrete.reverse import Variance as Variance
from score_jax.discrete.reverse import label_index as label_index
from score_jax.discrete.reverse import p_mean_var as p_mean_var
from score_jax.discrete.reverse import reverse_fn as reverse_fn
from score_jax.discrete.reverse import split_output as split_output
from score_jax.discrete.reverse import x0_to_noise as x0_to_noise
from score_jax.discrete.table import Diffusion as Diffusion
from score_jax.discrete.table import at_index as at_index
from score_jax.discrete.table import check_index as check_index
from score_jax.discrete.table import cosine as cosine
from score_jax.discrete.table import from_alpha_bar as from_alpha_bar
from score_jax.discrete.table import linear as linear
from score_jax.discrete.table import log_alpha_bar as log_alpha_bar
from score_jax.discrete.table import q_mean_var as q_mean_var
from score_jax.discrete.table import q_posterior as q_posterior
from score_jax.discrete.table import q_sample as q_sample
from score_jax.discrete.table import read as read
from score_jax.discrete.table import respace as respace
from score_jax.discrete.table import scaled_linear as scaled_linear
from score_jax.discrete.table import take as take
from score_jax.discrete.table import where as where

__all__ = [
    "FIXED_LARGE",
    "FIXED_SMALL",
    "LEARNED",
    "LEARNED_RANGE",
    "NOISE",
    "PREDICTIONS",
    "PREVIOUS",
    "VARIANCES",
    "X0",
    "Diffusion",
    "Prediction",
    "Reverse",
    "ReverseFn",
    "V",
    "Variance",
    "at_index",
    "check_index",
    "cosine",
    "from_alpha_bar",
    "label_index",
    "linear",
    "log_alpha_bar",
    "p_mean_var",
    "q_mean_var",
    "q_posterior",
    "q_sample",
    "read",
    "respace",
    "reverse_fn",
    "scaled_linear",
    "split_output",
    "take",
    "where",
    "x0_to_noise",
]
