"""Studies: trainings that belong together, what is measured on them, and how they are run."""

from ldct_jax.study.experiment import Experiment, Scale
from ldct_jax.study.study import Request, Study

__all__ = ["Experiment", "Request", "Scale", "Study"]
