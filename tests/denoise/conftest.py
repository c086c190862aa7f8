"""What several tests of denoising start from."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory):
    """A tiny trained clone network."""

    from tests import tiny

    folder = tmp_path_factory.mktemp("run")
    tiny.train(tiny.experiment(epochs=1), tiny.feeder(), folder)
    return folder
