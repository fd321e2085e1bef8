"""Prepared devices -> CDI: device nodes, capabilities, libraries, names; every document is valid by CDI's schema."""

import json
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dra_driver import cdi
from dra_driver.cdi import Edits, Mount
from dra_driver.devices import Grant, Kind, Prepared, Settings
from dra_driver.facts import MigInstance, Placement
from dra_driver.host import HostError
from dra_driver.libraries import Libraries, below, discover

SCHEMA = json.loads((Path(__file__).parent / "cdi_schema.json").read_text())
UID = "0f1e2d3c-0000-4000-8000-00000000abcd"
GPU, VERSION = "GPU-aaaa", "580.126.20"
COMPUTING = ("/dev/nvidia-uvm", "/dev/nvidia-uvm-tools")


class Nodes:
    """A host whose capabilities are numbered so that GPU, GPU instance and compute instance can be read off."""

    def __init__(self, **majors):
        self._majors = {
            "nvidia": 195,
            "nvidia-uvm": 511,
            "nvidia-caps": 508,
            "nvidia-caps-imex-channels": 507,
            **majors,
        }

    def majors(self):
        return self._majors

    def major(self, name):
        if name not in self._majors:
            raise HostError(f"no line for {name}")
        return self._majors[name]

    def gpu_capability(self, minor, instance):
        return minor * 1000 + instance * 10 + 9

    def compute_capability(self, minor, instance, compute):
        return minor * 1000 + instance * 10 + compute

    def drm_nodes(self, pci_bus):
        return ("dri/card1", "dri/renderD128") if pci_bus == "0000:65:00.0" else ()

    def imex_channels(self):
        return (0, 1)

    def most_channels(self):
        return 3


def grant(device, **more):
    return Grant(requests=("r",), pool="node-1", device=device, **more)


def gpu(minor=0, **more):
    return Prepared(grant=grant(f"gpu-{minor}", **more), kind=Kind.GPU, gpu=GPU, minor=minor)


def mig(device, uuid, **more):
    return Prepared(grant=grant(device, **more), kind=Kind.MIG, gpu=GPU, minor=0, made=True, instance=uuid)


def instance(uuid, gi, ci=0):
    return MigInstance(
        gpu=GPU, id=gi, compute_id=ci, uuid=uuid, profile="1g.10gb", profile_id=19, placement=Placement(start=0, size=1)
    )


def written(*devices, libraries=None, host=None, **more):
    document = cdi.specification(UID, devices, host=host or Nodes(), libraries=libraries or Libraries(), **more)
    jsonschema.validate(document, SCHEMA)
    assert len({device["name"] for device in document["devices"]}) == len(devices)
    return json.loads(cdi.content(document))


def paths(edits):
    return [node["path"] for node in edits.get("deviceNodes", [])]


def numbers(edits):
    return [(node["path"], node["major"], node["minor"]) for node in edits["deviceNodes"]]


def test_a_whole_gpu_is_its_node_beside_what_all_devices_need():
    document = written(gpu(minor=3))
    assert document["cdiVersion"] == "0.6.0"
    assert document["kind"] == "k8s.gpu.nvidia.com/claim"
    assert document["containerEdits"]["env"] == ["NVIDIA_VISIBLE_DEVICES=void"]
    assert numbers(document["containerEdits"]) == [("/dev/nvidiactl", 195, 255)]
    (device,) = document["devices"]
    assert device["name"] == f"{UID}-gpu-3"
    assert numbers(device["containerEdits"]) == [
        ("/dev/nvidia3", 195, 3),
        ("/dev/nvidia-uvm", 511, 0),
        ("/dev/nvidia-uvm-tools", 511, 1),
    ]
    assert all(node["permissions"] == "rw" for node in device["containerEdits"]["deviceNodes"])


def test_modeset_and_graphics_nodes_are_there_where_the_host_has_them():
    document = written(gpu(), host=Nodes(**{"nvidia-modeset": 195}), pci_buses={GPU: "0000:65:00.0"})
    edits = document["devices"][0]["containerEdits"]
    (modeset,) = (node for node in edits["deviceNodes"] if node["path"] == "/dev/nvidia-modeset")
    assert (modeset["major"], modeset["minor"]) == (195, 254)
    assert [path for path in paths(edits) if path not in COMPUTING] == [
        "/dev/nvidia0",
        "/dev/nvidia-modeset",
        "/dev/dri/card1",
        "/dev/dri/renderD128",
    ]


def test_two_instances_of_one_gpu_have_each_their_own_capabilities():
    document = written(
        mig("gpu-0-mig-3g40gb-9-0", "MIG-large"),
        mig("gpu-0-mig-1g10gb-19-4", "MIG-small"),
        instances=[instance("MIG-small", 7), instance("MIG-large", 1), instance("MIG-of-another", 2)],
    )
    large, small = document["devices"]
    assert numbers(large["containerEdits"]) == [
        ("/dev/nvidia0", 195, 0),
        ("/dev/nvidia-uvm", 511, 0),
        ("/dev/nvidia-uvm-tools", 511, 1),
        ("/dev/nvidia-caps/nvidia-cap19", 508, 19),
        ("/dev/nvidia-caps/nvidia-cap10", 508, 10),
    ]
    assert paths(small["containerEdits"])[3:] == ["/dev/nvidia-caps/nvidia-cap79", "/dev/nvidia-caps/nvidia-cap70"]


def test_four_profiles_on_one_gpu_share_nothing_but_the_gpu():
    names = ("3g40gb-9-4", "2g20gb-14-0", "1g20gb-15-2", "1g10gbme-20-0")
    document = written(
        *(mig(f"gpu-0-mig-{name}", f"MIG-{number}") for number, name in enumerate(names)),
        instances=[instance(f"MIG-{number}", number + 1) for number in range(4)],
    )
    nodes = [paths(device["containerEdits"]) for device in document["devices"]]
    assert [len(each) for each in nodes] == [5, 5, 5, 5]
    assert len(set().union(*nodes)) == 1 + len(COMPUTING) + 4 * 2
    assert [device["name"] for device in document["devices"]] == [f"{UID}-gpu-0-mig-{name}" for name in names]


def test_an_instance_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="gpu-0-mig-1g10gb-19-4: its instance MIG-x is not on GPU GPU-aaaa; make it"):
        written(mig("gpu-0-mig-1g10gb-19-4", "MIG-x"), instances=[instance("MIG-y", 3)])
    with pytest.raises(ValueError, match="its instance MIG-y is not on GPU"):
        written(mig("gpu-0-mig-1g10gb-19-4", "MIG-y"), instances=[instance("MIG-y", 3, ci=None)])


def test_who_uses_an_instance_needs_it_and_who_looks_on_needs_the_one_he_was_given():
    with pytest.raises(ValueError, match=r"its instance \(none\) is not on GPU GPU-aaaa"):
        written(mig("gpu-0-mig-1g10gb-19-4", ""), instances=[instance("MIG-y", 3)])
    with pytest.raises(ValueError, match="its instance MIG-x is not on GPU"):
        written(mig("gpu-0-mig-1g10gb-19-4", "MIG-x", admin=True), instances=[instance("MIG-y", 3)])
    onlooker = mig("gpu-0-mig-1g10gb-19-4", "MIG-y", admin=True)
    edits = written(onlooker, instances=[instance("MIG-y", 3)])["devices"][0]["containerEdits"]
    assert [(node["path"], node["permissions"]) for node in edits["deviceNodes"]] == [
        ("/dev/nvidia0", "rw"),  # NVML opens it for both or not at all
        ("/dev/nvidia-caps/nvidia-cap39", "r"),
        ("/dev/nvidia-caps/nvidia-cap30", "r"),
    ]


def test_a_gpu_without_a_number_is_refused():
    device = Prepared(grant=grant("gpu-0"), kind=Kind.GPU, gpu=GPU)
    with pytest.raises(ValueError, match="the minor number of its GPU GPU-aaaa is not known"):
        written(device)


def test_a_claim_without_devices_has_no_specification():
    with pytest.raises(ValueError, match="needs a device or more"):
        written()


def test_a_host_without_unified_memory_is_refused_to_who_computes_and_not_to_who_looks_on():
    host = Nodes()
    del host._majors["nvidia-uvm"]
    with pytest.raises(HostError, match="nvidia-uvm"):
        written(gpu(), host=host)
    assert paths(written(gpu(admin=True), host=host)["containerEdits"]) == ["/dev/nvidiactl"]


def test_what_lets_cuda_run_goes_with_the_device_that_is_used_and_not_to_who_looks_on_beside_it():
    host = Nodes(**{"nvidia-modeset": 195})
    document = written(gpu(0), gpu(1, admin=True), host=host)
    used, looked_at = (paths(device["containerEdits"]) for device in document["devices"])
    assert used == ["/dev/nvidia0", *COMPUTING, "/dev/nvidia-modeset"]
    assert looked_at == ["/dev/nvidia1"]
    assert paths(document["containerEdits"]) == ["/dev/nvidiactl"]


def test_who_looks_on_gets_device_nodes_and_none_of_the_rest():
    document = written(gpu(admin=True), mig("gpu-0-mig-1g10gb-19-4", "", admin=True), pci_buses={GPU: "0000:65:00.0"})
    whole, part = document["devices"]
    assert whole == {
        "name": f"{UID}-gpu-0-admin",
        "containerEdits": {
            "deviceNodes": [{"path": "/dev/nvidia0", "type": "c", "major": 195, "minor": 0, "permissions": "rw"}]
        },
    }
    assert paths(part["containerEdits"]) == ["/dev/nvidia0"]


def test_shares_of_one_device_have_names_of_their_own():
    document = written(gpu(share_id="s-1"), gpu(share_id="s-2"), gpu(admin=True))
    assert [device["name"] for device in document["devices"]] == [
        f"{UID}-gpu-0-s-1",
        f"{UID}-gpu-0-s-2",
        f"{UID}-gpu-0-admin",
    ]


def test_imex_channels_are_one_or_all():
    channel = Prepared(grant=grant("channel-0"), kind=Kind.CHANNEL)
    every = Prepared(grant=grant("channel-0", settings=Settings(domain="cd", every_channel=True)), kind=Kind.CHANNEL)
    (one,), (all_,) = written(channel)["devices"], written(every)["devices"]
    assert numbers(one["containerEdits"]) == [("/dev/nvidia-caps-imex-channels/channel0", 507, 0)]
    assert [minor for _, _, minor in numbers(all_["containerEdits"])] == [0, 1, 2]
    assert "deviceNodes" not in written(channel)["containerEdits"]


def test_edits_of_sharing_go_to_their_own_device():
    edit = Edits(
        env={"CUDA_MPS_PIPE_DIRECTORY": "/tmp/nvidia-mps"},
        mounts=(Mount(host="/p/pipe", container="/tmp/nvidia-mps", options=("rw", "bind")),),
    )
    first, second = written(gpu(0), gpu(1), edits=[edit, Edits()])["devices"]
    assert first["containerEdits"]["env"] == ["CUDA_MPS_PIPE_DIRECTORY=/tmp/nvidia-mps"]
    assert first["containerEdits"]["mounts"] == [
        {"hostPath": "/p/pipe", "containerPath": "/tmp/nvidia-mps", "options": ["rw", "bind"]}
    ]
    assert set(second["containerEdits"]) == {"deviceNodes"}
    with pytest.raises(ValueError):
        written(gpu(0), gpu(1), edits=[edit])


def test_names_lead_back_to_the_claim():
    assert cdi.name(UID, "gpu-0") == f"k8s.gpu.nvidia.com/claim={UID}-gpu-0"
    assert cdi.name(UID, grant("gpu-0")) == cdi.name(UID, "gpu-0")
    assert cdi.file_name(UID) == f"k8s.gpu.nvidia.com-claim_{UID}.json"
    assert cdi.claim_of(cdi.file_name(UID)) == UID
    assert cdi.claim_of(cdi.file_name(UID, "gpu.example.com")) is None
    assert cdi.claim_of(cdi.file_name(UID, "gpu.example.com"), "gpu.example.com") == UID
    assert cdi.predecessor(UID) == f"k8s.gpu.nvidia.com-claim_{UID}.yaml"
    for other in ("nvidia.yaml", f"k8s.gpu.nvidia.com-claim_{UID}.yaml", f".{cdi.file_name(UID)}.part"):
        assert cdi.claim_of(other) is None


@given(
    st.from_regex(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", fullmatch=True),
    st.lists(st.tuples(st.integers(0, 15), st.booleans(), st.sampled_from(["", "a-b", "0c"])), min_size=1, unique=True),
)
def test_any_claim_is_a_valid_document_with_names_that_differ(uid, drawn):
    devices = [gpu(minor, admin=admin, share_id=share) for minor, admin, share in drawn]
    document = cdi.specification(uid, devices, host=Nodes(), libraries=Libraries())
    jsonschema.validate(document, SCHEMA)
    assert len({device["name"] for device in document["devices"]}) == len(devices)
    assert cdi.content(document) == cdi.content(json.loads(cdi.content(document)))


# --- the driver's files ---


def driver_root(top, files, links=()):
    for file in files:
        path = top / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    for link, target in links:
        (top / link).symlink_to(target)
    return top


LIBRARIES = "usr/lib/x86_64-linux-gnu"


@pytest.fixture
def ubuntu(tmp_path):
    """A driver as Ubuntu's packages lay it, and what is near it and is none of it."""
    return driver_root(
        tmp_path,
        [
            f"{LIBRARIES}/libcuda.so.{VERSION}",
            f"{LIBRARIES}/libnvidia-ml.so.{VERSION}",
            f"{LIBRARIES}/vdpau/libvdpau_nvidia.so.{VERSION}",
            f"{LIBRARIES}/libcuda.so.550.1.1",
            f"{LIBRARIES}/libc.so.6",
            f"usr/lib/libcuda.so.{VERSION}",
            "usr/bin/nvidia-smi",
            "usr/bin/nvidia-cuda-mps-control",
            f"lib/firmware/nvidia/{VERSION}/gsp_ga10x.bin",
            "lib/firmware/nvidia/550.1.1/gsp_ga10x.bin",
            "run/nvidia-persistenced/socket",
        ],
        [
            (f"{LIBRARIES}/libcuda.so.1", f"libcuda.so.{VERSION}"),
            (f"{LIBRARIES}/libcuda.so", "libcuda.so.1"),
            (f"{LIBRARIES}/libnvidia-ml.so.1", f"libnvidia-ml.so.{VERSION}"),
            ("lib64", LIBRARIES),
            ("usr/lib64", "lib/x86_64-linux-gnu"),
        ],
    )


def test_the_driver_is_found_by_its_version_each_library_once(ubuntu):
    found = discover(ubuntu, VERSION, host_root="/run/nvidia/driver/")
    assert found == Libraries(
        root="/run/nvidia/driver",
        libraries=(
            f"/{LIBRARIES}/libcuda.so.{VERSION}",
            f"/{LIBRARIES}/libnvidia-ml.so.{VERSION}",
            f"/{LIBRARIES}/vdpau/libvdpau_nvidia.so.{VERSION}",
        ),
        links={
            f"/{LIBRARIES}/libcuda.so.{VERSION}": ("libcuda.so", "libcuda.so.1"),
            f"/{LIBRARIES}/libnvidia-ml.so.{VERSION}": ("libnvidia-ml.so.1",),
        },
        programs=("/usr/bin/nvidia-smi", "/usr/bin/nvidia-cuda-mps-control"),
        firmware=(f"/lib/firmware/nvidia/{VERSION}/gsp_ga10x.bin",),
        sockets=("/run/nvidia-persistenced/socket",),
    )


def test_a_folder_or_a_link_to_nowhere_is_no_library(ubuntu):
    before = discover(ubuntu, VERSION)
    (ubuntu / LIBRARIES / f"libfolder.so.{VERSION}").mkdir()
    (ubuntu / LIBRARIES / f"libnowhere.so.{VERSION}").symlink_to("gone")
    assert discover(ubuntu, VERSION) == before


def test_a_root_without_a_driver_has_nothing(tmp_path):
    assert discover(tmp_path, VERSION) == Libraries()


def test_without_the_hook_a_library_is_mounted_under_every_name_where_the_loader_looks(ubuntu):
    document = written(gpu(), libraries=discover(ubuntu, VERSION, host_root="/run/nvidia/driver"))["containerEdits"]
    source = f"/run/nvidia/driver/{LIBRARIES}/libcuda.so.{VERSION}"
    assert [mount["containerPath"] for mount in document["mounts"] if mount["hostPath"] == source] == [
        f"/usr/local/nvidia/lib64/libcuda.so.{VERSION}",
        "/usr/local/nvidia/lib64/libcuda.so",
        "/usr/local/nvidia/lib64/libcuda.so.1",
    ]
    assert document["env"] == [
        "LD_LIBRARY_PATH=/usr/local/nvidia/lib:/usr/local/nvidia/lib64",
        "NVIDIA_VISIBLE_DEVICES=void",
    ]
    assert "hooks" not in document
    options = {mount["containerPath"]: mount["options"] for mount in document["mounts"]}
    assert "ro" in options["/usr/bin/nvidia-smi"]
    assert "noexec" in options["/run/nvidia-persistenced/socket"]
    assert "ro" not in options["/run/nvidia-persistenced/socket"]


def test_with_the_hook_libraries_stay_where_they_are_and_the_loader_is_told(ubuntu):
    driver_root(ubuntu, ["usr/bin/nvidia-cdi-hook"])
    document = written(gpu(), libraries=discover(ubuntu, VERSION))["containerEdits"]
    assert document["env"] == ["NVIDIA_VISIBLE_DEVICES=void"]
    mounts = {mount["containerPath"]: mount["hostPath"] for mount in document["mounts"]}
    assert mounts[f"/{LIBRARIES}/libcuda.so.{VERSION}"] == f"/{LIBRARIES}/libcuda.so.{VERSION}"
    links, cache = document["hooks"]
    assert links["path"] == cache["path"] == "/usr/bin/nvidia-cdi-hook"
    assert links["args"][:4] == [
        "nvidia-cdi-hook",
        "create-symlinks",
        "--link",
        f"libcuda.so.{VERSION}::/{LIBRARIES}/libcuda.so",
    ]
    assert cache["args"] == [
        "nvidia-cdi-hook",
        "update-ldcache",
        "--folder",
        f"/{LIBRARIES}",
        "--folder",
        f"/{LIBRARIES}/vdpau",
    ]


def test_a_hook_without_libraries_has_nothing_to_do():
    document = written(gpu(), libraries=Libraries(hook="/usr/bin/nvidia-cdi-hook"))
    assert "hooks" not in document["containerEdits"]
    document = written(gpu(), libraries=Libraries(hook="/h", libraries=("/usr/lib64/libcuda.so.1",)))
    assert [hook["args"][1] for hook in document["containerEdits"]["hooks"]] == ["update-ldcache"]


def test_the_hook_can_lie_anywhere_on_the_host_and_can_be_done_without(ubuntu):
    driver_root(ubuntu, ["usr/bin/nvidia-cdi-hook"])
    assert discover(ubuntu, VERSION, hook="/var/lib/kubelet/plugins/x/nvidia-cdi-hook").hook.startswith(
        "/var/lib/kubelet"
    )
    assert discover(ubuntu, VERSION, hook="").hook == ""
    assert (
        discover(ubuntu, VERSION, host_root="/run/nvidia/driver").hook == "/run/nvidia/driver/usr/bin/nvidia-cdi-hook"
    )


def test_the_gpu_operators_hook_is_found_on_the_host_beside_a_driver_in_a_container(tmp_path):
    """The toolkit goes to the host, the driver to its own root below /run."""
    driver = driver_root(tmp_path / "run/nvidia/driver", [f"{LIBRARIES}/libcuda.so.{VERSION}"])
    driver_root(tmp_path, ["usr/local/nvidia/toolkit/nvidia-cdi-hook"])
    assert discover(driver, VERSION, host_root="/run/nvidia/driver").hook == ""
    found = discover(driver, VERSION, host_root="/run/nvidia/driver", host=tmp_path)
    assert found.hook == "/usr/local/nvidia/toolkit/nvidia-cdi-hook"
    driver_root(driver, ["usr/bin/nvidia-cdi-hook"])
    nearer = discover(driver, VERSION, host_root="/run/nvidia/driver", host=tmp_path)
    assert nearer.hook == "/run/nvidia/driver/usr/bin/nvidia-cdi-hook"


@pytest.fixture
def debian(tmp_path):
    """Debian's driver below another root than ours: its alternatives are links from "/"."""
    real, programs = f"{LIBRARIES}/nvidia/current", "usr/lib/nvidia/current"
    files = [f"{real}/libcuda.so.{VERSION}", f"{real}/libnvidia-ml.so.{VERSION}", f"{programs}/nvidia-smi"]
    names = {
        "libcuda.so.1": f"/{real}/libcuda.so.1",
        f"libnvidia-ml.so.{VERSION}": f"/{real}/libnvidia-ml.so.{VERSION}",
        "nvidia-smi": f"/{programs}/nvidia-smi",
    }
    top = driver_root(tmp_path, [*files, "etc/alternatives/README", "usr/bin/env"])
    links = [(f"etc/alternatives/nvidia--{name}", target) for name, target in names.items()]
    links += [
        (f"{LIBRARIES}/libcuda.so.1", "/etc/alternatives/nvidia--libcuda.so.1"),
        (f"{LIBRARIES}/libnvidia-ml.so.{VERSION}", f"/etc/alternatives/nvidia--libnvidia-ml.so.{VERSION}"),
        (f"{real}/libcuda.so.1", f"libcuda.so.{VERSION}"),
        (f"{real}/libcuda.so", f"/{LIBRARIES}/libcuda.so.1"),
        ("usr/bin/nvidia-smi", "/etc/alternatives/nvidia--nvidia-smi"),
        ("usr/bin/nvidia-debugdump", "/etc/alternatives/nvidia--gone"),
        ("usr/bin/nvidia-imex", "nvidia-imex"),
        ("usr/lib64", f"/{LIBRARIES}"),
    ]
    return driver_root(top, [], links)


def test_links_from_the_root_are_followed_below_the_drivers_root_and_not_below_ours(debian):
    found = discover(debian, VERSION, host_root="/run/nvidia/driver")
    real = f"/{LIBRARIES}/nvidia/current"
    assert found.libraries == (f"{real}/libcuda.so.{VERSION}", f"{real}/libnvidia-ml.so.{VERSION}")
    assert found.links == {f"{real}/libcuda.so.{VERSION}": ("libcuda.so", "libcuda.so.1")}
    # Where it lies, as the runtime would follow the link on the host's root.
    assert found.programs == ("/usr/lib/nvidia/current/nvidia-smi",)


def test_where_a_path_leads_is_told_within_its_root(tmp_path):
    driver_root(tmp_path, ["a/b/file"], [("up", "../../a/b"), ("root", "/a"), ("ring", "circle"), ("circle", "ring")])
    assert below(tmp_path, "root/b/file") == below(tmp_path, "/up/file") == tmp_path / "a/b/file"
    assert below(tmp_path, "../a/./b/../b/file") == tmp_path / "a/b/file"
    assert below(tmp_path, "nothing/here") == tmp_path / "nothing/here"
    assert not below(tmp_path, "ring/file").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document.pop("kind"),
        lambda document: document.update(kind="claim"),
        lambda document: document.update(devices=[]),
        lambda document: document["devices"][0].update(containerEdits={}),
        lambda document: document["devices"][0].update(name="-gpu"),
        lambda document: document["devices"][0]["containerEdits"].update(env=["NOTHING"]),
        lambda document: document["devices"][0]["containerEdits"]["deviceNodes"][0].pop("path"),
        lambda document: document["devices"][0]["containerEdits"]["deviceNodes"][0].pop("type"),
        lambda document: document["containerEdits"].update(mounts=[{"hostPath": "/a", "containerPath": "b"}]),
        lambda document: document["containerEdits"].update(hooks=[{"hookName": "late", "path": "/a"}]),
    ],
)
def test_the_schema_can_say_no(change):
    document = written(gpu())
    change(document)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, SCHEMA)
