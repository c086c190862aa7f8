"""The page that a study leaves: ``write(study, folder)``; what a study lists: :mod:`.blocks`."""

from ldct_jax.report.make import write

__all__ = ["write"]
