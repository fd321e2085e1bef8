"""What several tests of the node plugin stand on."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def folder() -> Iterator[Path]:
    """A kubelet's folder, short enough for sockets, wherever tests keep their files."""
    made = Path(tempfile.mkdtemp(prefix="kubelet-", dir="/tmp"))
    yield made
    shutil.rmtree(made)
