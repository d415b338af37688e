"""The papers of score_jax, and what builds and checks them."""
