"""The network inside what ships, as a training can go on from it: the way back of ``in_hu.py``.

    python -m experiments.shipped.base ldct_jax/shipped/pcn3.npz runs/before.npz

The file maps units of noise, as experiments/shipped/train.py has them, to units of noise.
"""

import argparse
from pathlib import Path

from experiments.shipped.train import WINDOW
from ldct_jax.errors import UsageError
from ldct_jax.models.noise_scaled import NoiseScaled
from ldct_jax.record import to_record
from ldct_jax.train import released
from ldct_jax.train.checkpoint import load_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shipped", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    model, variables, _, meta = load_model(given.shipped)
    if not isinstance(model, NoiseScaled):
        raise UsageError(f"{given.shipped} holds {type(model).__name__}, no network in noise units")
    record = {
        **meta["record"],
        "model": to_record(model.base),
        "window": to_record(WINDOW),
    }
    released.write(given.out, {"params": variables["params"]["base"]}, {"record": record})
    print(f"{given.out}: {given.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
