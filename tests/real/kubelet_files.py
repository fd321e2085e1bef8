"""What a kubelet and its containerd read when they start: configurations, the image of all containers, a network."""

import hashlib
import io
import json
import platform
import subprocess
import tarfile
from pathlib import Path

import yaml

IMAGE = "tutti.local/tools:1"
"""The image of every container, also of those that hold a pod's sandbox: sh and sleep."""

SYSTEM_RESERVED = {"cpu": "150m", "memory": "100Mi"}
"""What a node keeps for itself: its allocatable amounts are less than its capacity."""

_TOOLS = ("/bin/sh", "/bin/sleep")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_SIGNALS = ("memory.available", "nodefs.available", "nodefs.inodesFree", "imagefs.available", "imagefs.inodesFree")

# The documentation's own network (RFC 5737): pods have an address, and nothing to reach.
_POD_ADDRESS = "192.0.2.1/24"

_CONTAINERD = """\
version = 3
root = "{folder}/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.internal.v1.opt"]

[grpc]
address = "{folder}/containerd.sock"

[ttrpc]
address = "{folder}/containerd.sock.ttrpc"

[plugins."io.containerd.cri.v1.images"]
snapshotter = "native"

[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{image}"

[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
enable_cdi = true
cdi_spec_dirs = ["{folder}/cdi"]

[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["{folder}/network"]
conf_dir = "{folder}/network"
use_internal_loopback = true

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
"""

# A network plugin must name an address; it need not make one.
_NETWORK_PLUGIN = f"""\
#!/bin/sh
[ "$CNI_COMMAND" = ADD ] || exit 0
cat <<END
{{"cniVersion": "1.0.0", "interfaces": [{{"name": "eth0", "sandbox": "$CNI_NETNS"}}],
 "ips": [{{"address": "{_POD_ADDRESS}", "interface": 0}}]}}
END
"""

# containerd wants its filter of system calls for every sandbox, and runc is built without the library for it.
_RUNC = """\
#!/bin/sh
for each; do
    [ "${{previous:-}}" != --bundle ] || sed -i 's/"seccomp":/"seccompLeftOut":/' "$each/config.json"
    previous=$each
done
exec {folder}/containers/runc "$@"
"""


def write_files(folder: Path, admin: Path, *, name: str, cgroup: str) -> None:
    """All that a node of this name needs in its folder. `admin`: an administrator's kubeconfig; the node uses it as
    itself. `cgroup`: the control group of its pods, from the root, as "/name"."""
    for made in ("bin", "cdi", "network", "sysctl"):
        (folder / made).mkdir()
    (folder / "containerd.toml").write_text(_CONTAINERD.format(folder=folder, image=IMAGE))
    (folder / "kubelet.json").write_text(json.dumps(_kubelet(folder, cgroup), indent=2))
    _write_private(folder / "kubeconfig", _as_node(admin, name))
    network = {"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "address"}]}
    (folder / "network" / "pods.conflist").write_text(json.dumps(network))
    _write_program(folder / "network" / "address", _NETWORK_PLUGIN)
    _write_program(folder / "bin" / "runc", _RUNC.format(folder=folder))
    write_image(folder / "image.tar")


def write_image(path: Path) -> None:
    """The image as `docker save` would write it: this machine's own sh and sleep, with the libraries they need."""
    files = {*_TOOLS, *(library for tool in _TOOLS for library in _libraries(tool))}
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w", dereference=True) as archive:
        for file in sorted(files):
            archive.add(file, file.removeprefix("/"))
    digest = hashlib.sha256(layer.getvalue()).hexdigest()
    machine = platform.machine()
    config = {
        "architecture": _ARCHITECTURES.get(machine, machine),
        "os": "linux",
        "config": {"Cmd": ["/bin/sleep", "infinity"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]
    with tarfile.open(path, "w") as archive:
        _add(archive, "config.json", json.dumps(config).encode())
        _add(archive, "layer.tar", layer.getvalue())
        _add(archive, "manifest.json", json.dumps(manifest).encode())


def _libraries(program: str) -> list[str]:
    listed = subprocess.run(["ldd", program], check=True, stdout=subprocess.PIPE, text=True).stdout
    return [word for word in listed.split() if word.startswith("/")]


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def _kubelet(folder: Path, cgroup: str) -> dict[str, object]:
    """Its KubeletConfiguration: no port, no rule of the machine's firewall, no eviction for what others use up."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "enableServer": False,
        "healthzPort": 0,
        "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "containerRuntimeEndpoint": f"unix://{folder}/containerd.sock",
        "podLogsDir": f"{folder}/logs",
        "resolvConf": "",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroup,
        "failCgroupV1": False,
        "failSwapOn": False,
        "makeIPTablesUtilChains": False,
        "systemReserved": SYSTEM_RESERVED,
        "evictionHard": dict.fromkeys((*_SIGNALS, "pid.available"), "0%"),
        "imageGCHighThresholdPercent": 100,
        # A pod whose devices could not be prepared is looked at again so often, and not, as by default, once a minute.
        "syncFrequency": "2s",
    }


def _as_node(admin: Path, name: str) -> str:
    """The administrator's kubeconfig, to act with the rights of this node and no others."""
    config = yaml.safe_load(admin.read_text())
    for user in config["users"]:
        user["user"] |= {"as": f"system:node:{name}", "as-groups": ["system:nodes"]}
    return json.dumps(config, indent=2)


def _write_private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)


def _write_program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)
