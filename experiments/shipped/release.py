"""Turn a finished run into the file that ships: the parameters for inference and their record.

python -m experiments.shipped.release runs/shipped/pcn3 ldct_jax/shipped/pcn3.npz
"""

import argparse
from pathlib import Path

from ldct_jax.train import released
from ldct_jax.train.checkpoint import load_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    _, variables, _, meta = load_model(given.run)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    released.write(given.out, variables, meta)
    print(f"{given.out}: {given.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
