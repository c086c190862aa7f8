"""What an experiment lists in ``Study.report``: tables, figures and the paper's claims.

A block is an object with ``render(found)``, which returns tables, figures and claims made of
:class:`~ldct_jax.report.found.Found`; a block of the user's own needs no more than that. The page
shows the tables, the figures and the claims in the order of the blocks.
"""

from ldct_jax.report.blocks.claims import (
    ALL_METRICS,
    AddsLittle,
    Best,
    Better,
    BetterByClone,
    Differences,
    Gain,
    LessSmooth,
    Measured,
    MoreWithClones,
    ReachesEarlier,
    Second,
    Sharper,
    Similar,
    SliceBySlice,
)
from ldct_jax.report.blocks.curves import (
    MTF,
    BiasByDose,
    ByClone,
    ByDose,
    BySize,
    BySlice,
    Convergence,
    Sweep,
)
from ldct_jax.report.blocks.pictures import NoiseAnalysis, Panel, Profile
from ldct_jax.report.blocks.tables import Note, Numbers, PairedTests, Table

__all__ = [
    "ALL_METRICS",
    "MTF",
    "AddsLittle",
    "Best",
    "Better",
    "BetterByClone",
    "BiasByDose",
    "ByClone",
    "ByDose",
    "BySize",
    "BySlice",
    "Convergence",
    "Differences",
    "Gain",
    "LessSmooth",
    "Measured",
    "MoreWithClones",
    "NoiseAnalysis",
    "Note",
    "Numbers",
    "PairedTests",
    "Panel",
    "Profile",
    "ReachesEarlier",
    "Second",
    "Sharper",
    "Similar",
    "SliceBySlice",
    "Sweep",
    "Table",
]
