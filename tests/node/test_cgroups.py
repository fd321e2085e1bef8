"""A cgroup for daemons that must outlive the container of the plugin."""

import os
import subprocess
from pathlib import Path

import pytest

from dra_driver.cgroups import DaemonCgroup


def hierarchy(folder: Path, **files: str) -> Path:
    """A folder that plays a mounted hierarchy of cgroups; the kernel makes these files in each new cgroup as well."""
    folder.mkdir(parents=True)
    for name, text in {"cgroup.procs": "", **files}.items():
        (folder / name.replace("_", ".", 1)).write_text(text)
    return folder


def run(cgroup: DaemonCgroup) -> str:
    """The number that the command has when it has become what was asked for."""
    argv = cgroup.started_in(["sh", "-c", 'echo $$ "$1"', "sh", "it's here"])
    number, _, words = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip().partition(" ")
    assert words == "it's here"
    return number


def test_a_daemon_is_in_its_cgroup_before_it_becomes_itself(tmp_path: Path):
    top = hierarchy(tmp_path / "fs" / "cgroup")
    number = run(DaemonCgroup(tmp_path))
    assert (top / "tutti-mps" / "cgroup.procs").read_text().split() == [number]


def test_with_cgroup_v1_it_is_so_in_every_hierarchy(tmp_path: Path):
    top = tmp_path / "fs" / "cgroup"
    pids = hierarchy(top / "pids")
    cpuset = hierarchy(top / "cpuset", cpuset_cpus="0-7\n", cpuset_mems="0\n")
    (cpuset / "tutti-mps").mkdir()
    for name in ("cpuset.cpus", "cpuset.mems"):
        (cpuset / "tutti-mps" / name).write_text("\n")
    (top / "cpu").symlink_to("pids")
    (top / "release_agent").write_text("no hierarchy")
    number = run(DaemonCgroup(tmp_path))
    assert (pids / "tutti-mps" / "cgroup.procs").read_text().split() == [number]
    assert (cpuset / "tutti-mps" / "cgroup.procs").read_text().split() == [number]
    assert (cpuset / "tutti-mps" / "cpuset.cpus").read_text() == "0-7\n"


def test_where_it_may_not_go_it_starts_all_the_same(tmp_path: Path):
    top = hierarchy(tmp_path / "fs" / "cgroup")
    (top / "tutti-mps").write_text("a file in its place")
    assert run(DaemonCgroup(tmp_path))
    assert DaemonCgroup(tmp_path / "nothing").started_in(["true"]) == ["true"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make cgroups")
def test_the_kernel_takes_it_there(tmp_path: Path):
    """For real: a process that has gone there is told there, and goes with its end."""
    name = f"tutti-test-{tmp_path.name}"
    try:
        found = subprocess.run(
            DaemonCgroup(Path("/sys"), name).started_in(["cat", "/proc/self/cgroup"]),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert f"/{name}" in found
    finally:
        for folder in (*Path("/sys/fs/cgroup").glob(f"*/{name}"), Path("/sys/fs/cgroup") / name):
            if folder.is_dir():
                folder.rmdir()
