"""The page that a study leaves: ``write(study, folder)``; what a study lists: :mod:`.blocks`."""

from ldct_jax.report.make import verdict, write

__all__ = ["verdict", "write"]
