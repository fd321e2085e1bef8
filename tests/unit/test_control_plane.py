"""The control plane that tests start: what it says when it cannot, and what stays of it."""

import os
from pathlib import Path

import pytest

from tests.real.control_plane import ControlPlane, ControlPlaneError

PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager")


def programs(folder: Path, **scripts: str) -> Path:
    """A folder of programs: these shell scripts, and for the others one that sleeps."""
    folder.mkdir()
    for name in PROGRAMS:
        path = folder / name
        path.write_text("#!/bin/sh\n" + scripts.get(name.replace("-", "_"), "exec sleep 600") + "\n")
        path.chmod(0o755)
    return folder


def test_programs_that_are_not_there_are_named_with_the_cure(tmp_path: Path):
    assets = programs(tmp_path / "assets")
    (assets / "kube-controller-manager").unlink()
    with (
        pytest.raises(
            ControlPlaneError, match=r"assets has no kube-controller-manager, kube-scheduler; make real builds"
        ),
        ControlPlane(assets, tmp_path / "run", scheduler=True),
    ):
        pass


def test_a_program_that_ends_is_named_with_its_last_words_and_the_others_are_stopped(tmp_path: Path):
    pid = tmp_path / "pid"
    assets = programs(
        tmp_path / "assets",
        etcd=f"echo $$ > {pid}; exec sleep 600",
        kube_apiserver=f"while [ ! -s {pid} ]; do sleep 0.01; done; echo the key cannot be read; exit 1",
    )
    with (
        pytest.raises(
            ControlPlaneError, match=r"kube-apiserver ended; see .*kube-apiserver\.log:\nthe key cannot be read"
        ),
        ControlPlane(assets, tmp_path / "run"),
    ):
        pass
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
