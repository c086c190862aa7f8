"""Makes tests/dicom_fixtures.py importable: with importlib mode pytest adds no folder itself."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
