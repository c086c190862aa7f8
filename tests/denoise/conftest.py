"""What several tests of denoising start from."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory):
    """A tiny trained clone network."""
    import jax

    from ldct_jax.train import run
    from ldct_jax.train.mesh import DataParallel
    from tests import tiny

    folder = tmp_path_factory.mktemp("run")
    run.train(tiny.job(epochs=1), tiny.feeder(), folder, parallel=DataParallel(jax.devices()[:1]))
    return folder
