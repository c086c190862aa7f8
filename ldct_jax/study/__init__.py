"""Studies: trainings that belong together, what is measured on them, and how they are run.

from ldct_jax.report import write
from ldct_jax.study import Experiment, Request, Study, run_study
folder = run_study(Study("mine", {"row": Experiment(Net())}), Request("smoke"), report=write)
"""

from ldct_jax.study.experiment import Experiment, Scale
from ldct_jax.study.run import run_study
from ldct_jax.study.study import Request, Study

__all__ = ["Experiment", "Request", "Scale", "Study", "run_study"]
