"""Score-based generative modelling through SDEs, with Improved DDPM, in JAX and Flax."""

__version__ = "0.1.0"
