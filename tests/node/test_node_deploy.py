"""What the node plugin is deployed with: manifest, image, pinned libraries. A real API server judges the rest."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from dra_driver import config, mig_labels
from scheduler.devcluster.shapes import DEVICE_CLASSES

ROOT = Path(__file__).parents[2]
DOCUMENTS: list[dict[str, Any]] = list(yaml.safe_load_all((ROOT / "deploy" / "dra-driver.yaml").read_text()))


def of_kind(kind: str) -> list[dict[str, Any]]:
    return [document for document in DOCUMENTS if document["kind"] == kind]


def pins(name: str) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9._-]+)==([^ ;\\]+)", (ROOT / name).read_text(), re.MULTILINE))


def test_the_settings_of_the_manifest_can_be_used(tmp_path: Path):
    (map_,) = of_kind("ConfigMap")
    file = tmp_path / "config.yaml"
    file.write_text(map_["data"]["config.yaml"])
    (daemon,) = of_kind("DaemonSet")
    (container,) = daemon["spec"]["template"]["spec"]["containers"]
    environment = {each["name"]: "pod" for each in container["env"]}
    loaded = config.load(file, environment=environment)
    assert (loaded.node_name, loaded.pod_uid, loaded.fake) == ("pod", "pod", None)
    (port,) = container["ports"]
    assert port["containerPort"] == loaded.probe_port
    assert container["args"] == ["run", "--config", "/etc/tutti/config.yaml"]


def test_what_the_kubelet_the_runtime_and_the_host_must_see_is_at_the_same_path_for_them():
    """Sockets are told to the kubelet by path, CDI files name the pipes and the memory of MPS by path."""
    (daemon,) = of_kind("DaemonSet")
    pod = daemon["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    host = {volume["name"]: volume["hostPath"]["path"] for volume in pod["volumes"] if "hostPath" in volume}
    seen = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] in host}
    chosen = config.load(environment={})
    same = {path for name, path in seen.items() if host[name] == path}
    assert seen.keys() == host.keys()
    needed = {
        chosen.kubelet_dir / "plugins",
        chosen.kubelet_dir / "plugins_registry",
        chosen.cdi_dir,
        chosen.shm_dir,
        Path("/dev"),
    }
    assert same == {str(path) for path in needed}
    assert {name: path for name, path in seen.items() if path not in same} == {"host": "/host"}


def test_the_device_classes_are_those_that_are_simulated():
    ours = {each["metadata"]["name"]: each["spec"] for each in of_kind("DeviceClass")}
    simulated = {each["metadata"]["name"]: each["spec"] for each in DEVICE_CLASSES}
    assert ours == {name: simulated[name] for name in ("gpu.nvidia.com", "mig.nvidia.com")}


def test_one_instance_is_there_before_the_other_goes():
    (daemon,) = of_kind("DaemonSet")
    update = daemon["spec"]["updateStrategy"]["rollingUpdate"]
    assert update == {"maxSurge": 1, "maxUnavailable": 0}
    # Two pods of a node would fight for a port of the host's.
    assert "hostNetwork" not in daemon["spec"]["template"]["spec"]


def test_the_role_reads_no_secret_and_writes_slices_and_events_alone():
    (role,) = of_kind("ClusterRole")
    writing = {
        resource
        for rule in role["rules"]
        for resource in rule["resources"]
        if set(rule["verbs"]) - {"get", "list", "watch"}
    }
    reading = {resource for rule in role["rules"] for resource in rule["resources"]} - writing
    assert writing == {"resourceslices", "events"}
    assert reading == {"resourceclaims", "nodes"}
    (slices,) = (rule for rule in role["rules"] if rule["resources"] == ["resourceslices"])
    # They are replaced whole, at the version that was read: a patch would not be refused when another has written.
    assert slices["verbs"] == ["get", "list", "watch", "create", "update", "delete"]


def test_who_follows_a_label_of_its_node_may_say_there_how_it_stands():
    added = list(yaml.safe_load_all((ROOT / "deploy" / "dra-driver-labels.yaml").read_text()))
    (role,) = (each for each in added if each["kind"] == "ClusterRole")
    assert role["rules"] == [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch", "patch"]}]
    (policy,) = (each for each in added if each["kind"] == "ValidatingAdmissionPolicy")
    told = "".join(each["expression"] for each in policy["spec"]["validations"])
    assert mig_labels.STATE.startswith(tuple(re.findall(r'startsWith\("([^"]+)"\)', told)))
    assert told.count(f'"{mig_labels.OUR_STATE}"') == 2  # what it is now, and what it was


def test_the_plugins_libraries_are_pinned_as_those_that_are_tested():
    tested = pins("requirements-dev.lock")
    assert {
        name: version for name, version in pins("requirements-node.lock").items() if tested.get(name) != version
    } == {}


def test_the_plugin_imports_nothing_that_its_image_does_not_have():
    """A process of its own: here, everything has been imported already."""
    code = (
        "import sys, dra_driver.service, dra_driver.cli, dra_driver.nvml\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    imported = set(done.stdout.split())
    assert {"grpc", "aiohttp", "pynvml"} <= imported
    assert imported & {"ortools", "fastapi", "uvicorn", "jinja2", "re2", "queues", "jsonschema"} == set()


def test_the_images_hold_all_packages_of_the_distribution():
    text = (ROOT / "Dockerfile").read_text()
    assert re.findall(r"^COPY (\w+) \1$", text, re.MULTILINE) == ["queues", "scheduler", "dra_driver"]
    assert "AS node-plugin\n" in text
