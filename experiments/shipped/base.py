"""The network inside what ships, as a training can go on from it: the way back of ``in_hu.py``.

    python -m experiments.shipped.base ldct_jax/shipped/pcn3.npz runs/before.npz

The file maps units of noise, as experiments/shipped/train.py has them, to units of noise.
"""

import argparse
from pathlib import Path

from ldct_jax.denoise.models import find
from ldct_jax.study.adapt import inside


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shipped", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    inside(find(given.shipped)).write(given.out)
    print(f"{given.out}: {given.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
