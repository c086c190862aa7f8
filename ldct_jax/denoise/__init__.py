"""Images through a model, files in and files out; :mod:`ldct_jax.denoise.run` is the entry."""
