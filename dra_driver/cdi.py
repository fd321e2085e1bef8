"""Prepared devices -> a CDI specification: what a container runtime puts into the containers of a claim. Pure.

One file for a claim holds all of it, named by the claim's UID: names never come again, and a file whose claim is gone
is known by its name. Source: the Container Device Interface specification, version 0.6; the README of NVIDIA's driver
(device nodes), NVIDIA's MIG user guide (capabilities).
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Protocol

from dra_driver.devices import Grant, Kind, Prepared
from dra_driver.facts import MigInstance
from dra_driver.libraries import Libraries

# Names that begin with a digit, as UIDs do, need 0.5; annotations, which others may add, 0.6.
VERSION = "0.6.0"
DRIVER = "gpu.nvidia.com"

# Linux's list of allocated devices: character major 195 is NVIDIA's. The others are given out when modules are loaded.
NVIDIA_MAJOR = 195
_CONTROL_MINOR, _MODESET_MINOR = 255, 254
_UVM, _MIG_CAPS, _IMEX = "nvidia-uvm", "nvidia-caps", "nvidia-caps-imex-channels"

# Where libraries go if nobody tells the container's loader of them: the folders that CUDA images look in.
_PLAIN_FOLDER = "/usr/local/nvidia/lib64"
_PLAIN_PATH = f"/usr/local/nvidia/lib:{_PLAIN_FOLDER}"

_READ_ONLY = ("ro", "nosuid", "nodev", "rbind", "rprivate")
_SOCKET = ("nosuid", "nodev", "noexec", "rbind", "rprivate")
_FILE = re.compile(r"k8s\.(?P<driver>.+)-claim_(?P<uid>[^_]+)\.json")


class Nodes(Protocol):
    """What a specification needs to know of the host; `dra_driver.host.Host` knows it."""

    def majors(self) -> Mapping[str, int]:
        """Major numbers of character devices, by name."""

    def major(self, name: str) -> int:
        """One of them; raises if it is not there."""

    def gpu_capability(self, minor: int, instance: int) -> int:
        """Minor of the capability to use a GPU instance."""

    def compute_capability(self, minor: int, instance: int, compute: int) -> int:
        """The same of a compute instance."""

    def drm_nodes(self, pci_bus: str) -> tuple[str, ...]:
        """Graphics nodes of a GPU, below /dev."""

    def imex_channels(self) -> tuple[int, ...]:
        """Numbers of the IMEX channels that have a device node."""

    def most_channels(self) -> int:
        """How many IMEX channels the driver has; 0 where it does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A bind mount: a path of the host, and where a container sees it."""

    host: str
    container: str
    options: tuple[str, ...] = _READ_ONLY


@dataclass(frozen=True, slots=True, kw_only=True)
class Edits:
    """What a device needs in its containers beside its device nodes."""

    env: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[Mount, ...] = ()


def kind(driver: str = DRIVER) -> str:
    """The kind of the specifications: other drivers' files are told from ours by it."""
    return f"k8s.{driver}/claim"


def device_name(claim_uid: str, granted: Grant | str) -> str:
    """A device's name in its claim's file. Two grants of one device (shares, an onlooker beside a user) differ."""
    if isinstance(granted, str):
        return f"{claim_uid}-{granted}"
    which = f"-{granted.share_id}" if granted.share_id else ""
    return f"{claim_uid}-{granted.device}{which}{'-admin' if granted.admin else ''}"


def name(claim_uid: str, granted: Grant | str, driver: str = DRIVER) -> str:
    """The fully qualified name, as the kubelet hands it to the runtime: "k8s.gpu.nvidia.com/claim=<uid>-<device>"."""
    return f"{kind(driver)}={device_name(claim_uid, granted)}"


def file_name(claim_uid: str, driver: str = DRIVER) -> str:
    """The file of a claim, in the CDI folder."""
    return f"k8s.{driver}-claim_{claim_uid}.json"


def predecessor(claim_uid: str, driver: str = DRIVER) -> str:
    """The file that NVIDIA's driver of the same name has written for a claim: it names devices as ours does, and a
    runtime that finds a name in two files uses neither."""
    return file_name(claim_uid, driver).removesuffix(".json") + ".yaml"


def claim_of(file: str, driver: str = DRIVER) -> str | None:
    """The UID of the claim that a file of the CDI folder is for; None for a file that is not ours."""
    match = _FILE.fullmatch(file)
    return match["uid"] if match is not None and match["driver"] == driver else None


def content(specification: Mapping[str, object]) -> bytes:
    """The file's bytes; equal specifications, equal bytes."""
    return json.dumps(specification, indent=2, sort_keys=True).encode() + b"\n"


def specification(
    claim_uid: str,
    devices: Sequence[Prepared],
    *,
    host: Nodes,
    libraries: Libraries,
    instances: Sequence[MigInstance] = (),
    edits: Sequence[Edits] = (),
    pci_buses: Mapping[str, str] | None = None,
    driver: str = DRIVER,
) -> dict[str, object]:
    """The specification of one claim, as a document.

    `instances`: those of the GPUs that the devices are of; `edits`: of each device, in order, or none at all;
    `pci_buses`: by UUID of GPUs that are given whole, for their graphics nodes.

    Raises ValueError for a claim without devices (CDI has no such file) and for an instance that is not there, and what
    `host` raises where it does not know."""
    if not devices:
        raise ValueError(f"Claim {claim_uid}: a CDI specification needs a device or more; write none for this claim.")
    found = {instance.uuid: instance for instance in instances}
    each = edits or [Edits()] * len(devices)
    return {
        "cdiVersion": VERSION,
        "kind": kind(driver),
        "containerEdits": _common(devices, libraries),
        "devices": [
            {
                "name": device_name(claim_uid, device.grant),
                "containerEdits": _edits(_nodes(device, host, found, pci_buses or {}), edit),
            }
            for device, edit in zip(devices, each, strict=True)
        ],
    }


def _common(devices: Sequence[Prepared], libraries: Libraries) -> dict[str, object]:
    """What every container of the claim gets, whichever of the devices it uses: nothing of it lets CUDA run."""
    nodes = []
    if any(device.kind is not Kind.CHANNEL for device in devices):
        nodes.append(_node("/dev/nvidiactl", NVIDIA_MAJOR, _CONTROL_MINOR))
    # Without it the NVIDIA container runtime, where it is the runtime, would add all of the node's GPUs.
    env = {"NVIDIA_VISIBLE_DEVICES": "void"}
    mounts = [*_library_mounts(libraries), *_file_mounts(libraries)]
    if libraries.libraries and not libraries.hook:
        env["LD_LIBRARY_PATH"] = _PLAIN_PATH
    document = _edits(nodes, Edits(env=env, mounts=tuple(mounts)))
    hooks = _hooks(libraries)
    return {**document, "hooks": hooks} if hooks else document


def _library_mounts(libraries: Libraries) -> list[Mount]:
    """With the hook a library lies where it lies on the host, and the hook sees to links and the loader's cache.
    Without it, it lies in a folder of the loader's path under each name that it goes by: mounts instead of links."""
    mounts: list[Mount] = []
    for path in libraries.libraries:
        source = libraries.root + path
        if libraries.hook:
            mounts.append(Mount(host=source, container=path))
            continue
        files = (PurePosixPath(path).name, *libraries.links.get(path, ()))
        mounts += (Mount(host=source, container=f"{_PLAIN_FOLDER}/{file}") for file in files)
    return mounts


def _file_mounts(libraries: Libraries) -> list[Mount]:
    return [
        *(
            Mount(host=libraries.root + path, container=f"/usr/bin/{PurePosixPath(path).name}")
            for path in libraries.programs
        ),
        *(Mount(host=libraries.root + path, container=path) for path in libraries.firmware),
        *(Mount(host=libraries.root + path, container=path, options=_SOCKET) for path in libraries.sockets),
    ]


def _hooks(libraries: Libraries) -> list[dict[str, object]]:
    """Links that programs ask for by name ("libcuda.so"), then the loader's cache, which makes those by soname."""
    if not libraries.hook or not libraries.libraries:
        return []
    links = [
        argument
        for path in libraries.libraries
        for link in libraries.links.get(path, ())
        for argument in ("--link", f"{PurePosixPath(path).name}::{PurePosixPath(path).parent / link}")
    ]
    folders = sorted({str(PurePosixPath(path).parent) for path in libraries.libraries})
    cache = [argument for folder in folders for argument in ("--folder", folder)]
    hooks = [("create-symlinks", links)] if links else []
    return [
        {"hookName": "createContainer", "path": libraries.hook, "args": ["nvidia-cdi-hook", command, *arguments]}
        for command, arguments in [*hooks, ("update-ldcache", cache)]
    ]


def _nodes(
    device: Prepared, host: Nodes, instances: Mapping[str, MigInstance], pci_buses: Mapping[str, str]
) -> list[dict[str, object]]:
    """The device nodes of one device. Numbers are told where we know them: a node on the host may not be made yet.

    An onlooker's GPU node is writable as everybody's is: NVML opens it, as /dev/nvidiactl, for reading and writing or
    not at all. His capabilities, which are opened for reading, are not; and he has nothing that lets CUDA run."""
    if device.kind is Kind.CHANNEL:
        return _channels(device, host)
    if device.minor is None:
        raise ValueError(f"Device {device.grant.device}: the minor number of its GPU {device.gpu} is not known.")
    nodes = [_node(f"/dev/nvidia{device.minor}", NVIDIA_MAJOR, device.minor)]
    if not device.grant.admin:
        nodes += _computing(host)
    if device.kind is Kind.GPU:
        graphics = () if device.grant.admin else host.drm_nodes(pci_buses.get(device.gpu, ""))
        return nodes + [{"path": f"/dev/{path}", "permissions": "rw"} for path in graphics]
    instance = instances.get(device.instance)
    if instance is None or instance.compute_id is None:
        # An onlooker at a place where nobody has made an instance sees the GPU, and no instance in it.
        if device.grant.admin and not device.instance:
            return nodes
        raise ValueError(
            f"Device {device.grant.device}: its instance {device.instance or '(none)'} is not on GPU {device.gpu}; "
            "make it before its specification is written."
        )
    major = host.major(_MIG_CAPS)
    numbers = (
        host.gpu_capability(device.minor, instance.id),
        host.compute_capability(device.minor, instance.id, instance.compute_id),
    )
    access = "r" if device.grant.admin else "rw"
    return nodes + [_node(f"/dev/{_MIG_CAPS}/nvidia-cap{number}", major, number, access) for number in numbers]


def _computing(host: Nodes) -> list[dict[str, object]]:
    """What CUDA and graphics need beside the GPU. Two devices of one container may both name it."""
    uvm = host.major(_UVM)
    nodes = [_node("/dev/nvidia-uvm", uvm, 0), _node("/dev/nvidia-uvm-tools", uvm, 1)]
    if "nvidia-modeset" in host.majors():
        nodes.append(_node("/dev/nvidia-modeset", NVIDIA_MAJOR, _MODESET_MINOR))
    return nodes


def _channels(device: Prepared, host: Nodes) -> list[dict[str, object]]:
    """The IMEX channel of the device's name, or all that the driver has: the runtime makes the nodes in the container,
    and the host needs none."""
    own = int(device.grant.device.rpartition("-")[2])
    numbers: Sequence[int] = (own,)
    if device.grant.settings.every_channel:
        numbers = range(host.most_channels()) or host.imex_channels() or numbers
    major = host.major(_IMEX)
    return [_node(f"/dev/{_IMEX}/channel{number}", major, number) for number in numbers]


def _node(path: str, major: int, minor: int, access: str = "rw") -> dict[str, object]:
    return {"path": path, "type": "c", "major": major, "minor": minor, "permissions": access}


def _edits(nodes: Sequence[dict[str, object]], edits: Edits) -> dict[str, object]:
    """containerEdits, without what would be empty."""
    document: dict[str, object] = {
        "env": [f"{key}={value}" for key, value in sorted(edits.env.items())],
        "deviceNodes": list(nodes),
        "mounts": [
            {"hostPath": mount.host, "containerPath": mount.container, "options": list(mount.options)}
            for mount in edits.mounts
        ],
    }
    return {key: part for key, part in document.items() if part}
