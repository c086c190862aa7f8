"""Variants share a feed exactly where they train on the same patches."""

import types

import jax
import numpy as np
import pytest

from ldct_jax.data.feed.patches import Patches
from ldct_jax.data.natural import NaturalImages
from ldct_jax.hu import ABDOMEN, FULL
from ldct_jax.study.experiment import SMOKE, Experiment
from ldct_jax.study.run import _Session
from ldct_jax.train.mesh import DataParallel
from tests import tiny

pytestmark = pytest.mark.core


def test_photographs_in_another_window_are_another_feed():
    """Their HU come from the window: the second variant was trained on the first one's."""
    session = object.__new__(_Session)
    session.parallel, session._feeds = DataParallel(jax.devices()[:1]), {}
    request = types.SimpleNamespace(feed="resident")
    session.plan = types.SimpleNamespace(request=request, scale=SMOKE)
    patches = Patches(size=32, stride=32, batch=4, slices_per_patient=1)
    full = Experiment(tiny.MODEL, patches=patches, images=NaturalImages(sigma=25, tile=64))
    assert full.window == FULL
    first = session._feed(0, None, full)
    assert session._feed(0, None, full.but(epochs=3)) is first
    second = session._feed(0, None, full.but(window=ABDOMEN))
    a, b = (np.asarray(feed.inputs(0, 0, 1)["full"]) for feed in (first, second))
    # Black and white are the windows' ends.
    assert ABDOMEN.low <= b.min() < b.max() <= ABDOMEN.high
    assert a.min() < ABDOMEN.low and a.max() > ABDOMEN.high
