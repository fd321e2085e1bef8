"""Who may be at work on a node beside whom."""

import multiprocessing
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from dra_driver.alone import NotAlone, refuse_other_driver, standing
from dra_driver.disk import DiskError
from dra_driver.sockets import sockets

DRIVER = "gpu.nvidia.com"


def test_a_plugin_without_a_uid_stands_alone(tmp_path: Path):
    with standing(tmp_path, lone=True):
        with pytest.raises(NotAlone, match="end it first, or set POD_UID"), standing(tmp_path, lone=True):
            pass
        with pytest.raises(NotAlone, match=r"serves this node; end it first\.$"), standing(tmp_path, lone=False):
            pass
    with standing(tmp_path, lone=True):
        pass


def test_plugins_with_uids_stand_side_by_side_and_keep_one_without_away(tmp_path: Path):
    with ExitStack() as both:
        both.enter_context(standing(tmp_path, lone=False))
        both.enter_context(standing(tmp_path, lone=False))
        with pytest.raises(NotAlone), standing(tmp_path, lone=True):
            pass


def _stand(folder: Path, stands: Event) -> None:
    with standing(folder, lone=True):
        stands.set()
        multiprocessing.Event().wait()


def test_a_place_is_free_when_its_process_was_killed(tmp_path: Path):
    stands = multiprocessing.Event()
    process = multiprocessing.Process(target=_stand, args=(tmp_path, stands))
    process.start()
    assert stands.wait(30)
    with pytest.raises(NotAlone), standing(tmp_path, lone=True):
        pass
    process.kill()
    process.join()
    with standing(tmp_path, lone=True):
        pass


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match="cannot be opened"), standing(tmp_path / "file" / "below", lone=True):
        pass


@contextmanager
def listening(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        yield


def test_beside_another_driver_of_the_same_name_none_starts(folder: Path):
    registry = folder / "plugins_registry"
    mine = sockets(folder, DRIVER, "uid-1")
    with (
        listening(registry / "gpu.nvidia.com-reg.sock"),
        pytest.raises(NotAlone, match=r"another plugin of DRA driver gpu\.nvidia\.com serves this node, NVIDIA's"),
    ):
        refuse_other_driver(mine, DRIVER)
    refuse_other_driver(mine, DRIVER)  # what it has left does not answer
    with listening(registry / "gpu.nvidia.com-uid-0-reg.sock"), listening(registry / "other.example.com-reg.sock"):
        refuse_other_driver(mine, DRIVER)
