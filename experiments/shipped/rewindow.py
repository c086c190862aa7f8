"""The same clone network for another window: other parameters, the same function of HU.

    python -m experiments.shipped.rewindow runs/first.npz runs/before.npz

In network units of 4096 HU the noise of a scan is about 0.005, and Adam's largest steps, 0.001,
are a fifth of it. In units of 100 HU the kernels stay as they are, and a bias moves by a hundredth
of the noise (``WINDOW`` of experiments/shipped/train.py). Values outside of [0, 1] are no worse
than others: nothing is clipped.
"""

import argparse
from pathlib import Path

import jax
import numpy as np

from experiments.shipped.train import WINDOW
from ldct_jax import spec
from ldct_jax.errors import UsageError
from ldct_jax.evaluate import WholeSlices
from ldct_jax.hu import Window
from ldct_jax.models.clones import ClonesNet
from ldct_jax.train import released
from ldct_jax.train.checkpoint import load_model


def rewindowed(model: ClonesNet, params: dict, old: Window, new: Window) -> dict:
    """Parameters with which ``model`` does for ``new`` what ``params`` do for ``old``.

    Every layer but the last is followed by a ReLU, which lets positive factors through. So with
    g, the ratio of the units, all features become g times as large where kernels stay, biases are
    g times as large, and conv1, which sees no padding, takes over the shift between the windows.
    Raises UsageError for networks that clip, end in a ReLU or see the image in other places too.
    """
    if old.clip or new.clip or model.final_relu or model.transfer != "feature":
        raise UsageError("only a network of transferred features without clipping has such a twin")
    g = old.width / new.width
    clone = {
        name: {"kernel": layer["kernel"], "bias": g * np.asarray(layer["bias"], np.float64)}
        for name, layer in params["clone"].items()
    }
    shift = (new.low - old.low) / new.width
    kernel = np.asarray(params["clone"]["conv1"]["kernel"], np.float64)
    clone["conv1"]["bias"] = clone["conv1"]["bias"] + shift * kernel.sum(axis=(0, 1, 2))
    return {"clone": jax.tree.map(lambda x: np.asarray(x, np.float32), clone)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    model, variables, window, meta = load_model(given.model)
    params = rewindowed(model, variables["params"], window, WINDOW)
    record = {**meta["record"], "window": spec.to_record(WINDOW)}
    hu = np.random.default_rng(0).normal(0, 300, (2, 64, 64)).astype(np.float32)
    before = WholeSlices(model, window)(variables, hu)
    after = WholeSlices(model, WINDOW)({"params": params}, hu)
    if not (apart := float(np.abs(after - before).max())) < 0.1:
        raise UsageError(f"the networks differ by {apart:.2g} HU")
    released.write(given.out, {"params": params}, {"record": record})
    print(f"{given.out}: equal to {apart:.2g} HU")


if __name__ == "__main__":
    main()
