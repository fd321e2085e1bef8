"""Puts the repository's root on the path, so that tests import their builders as `tests.builders`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
