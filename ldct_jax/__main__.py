"""``python -m ldct_jax``: the command line, for where the console script isn't on the path."""

from ldct_jax.cli import main

main()
