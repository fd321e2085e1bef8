"""Config of the node plugin: every setting with its unit and default; an unknown key stops the start.

Four sources, each over the one before: a YAML file, what the DaemonSet tells of the pod (`NODE_NAME`, `POD_UID`), the
environment (`TUTTI_NODE_CONFIG_<KEY>`), flags of the command.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from dra_driver import boards
from dra_driver.host import IMEX_SOCKET
from scheduler.api.attributes import COMPUTE_DOMAIN_DRIVER

ENVIRONMENT_PREFIX = "TUTTI_NODE_CONFIG_"
_OF_THE_POD = {"NODE_NAME": "node_name", "POD_UID": "pod_uid"}
"""Variables that the DaemonSet sets from the pod itself, and the settings they are."""

_OPTIONS = {"kubeconfig": "kubeconfig", "context": "context", "node_name": "node", "fake": "fake"}
"""Settings that the command has an option of their own for, and its name; all others come with --set."""

# A DNS subdomain of at most 63 characters: what the API takes for the name of a driver, and for that of a node.
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LONGEST_DRIVER, _LONGEST_NODE = 63, 253


class ConfigError(Exception):
    """The operator's: a setting that cannot be used. The start stops. `setting` as the operator wrote it."""

    def __init__(self, setting: str, cause: str, cure: str) -> None:
        super().__init__(f"{setting}: {cause}; {cure}.")
        self.setting = setting


def _listed(value: object) -> object:
    """A list may be written as one word, with commas."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)  # the index of a GPU, as YAML reads it
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _switch(value: object) -> object:
    """YAML reads on and off as truth values."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


class Config(BaseModel):
    """All settings of `tutti-dra-driver`. The unit is in the name; without one it is a count, a name or a switch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # The cluster.
    kubeconfig: Path | None = Field(None, description="File to connect with; absent: in-cluster, then ~/.kube/config.")
    context: str | None = Field(None, description="Context of the kubeconfig; absent: its current one.")
    connections: int = Field(8, ge=1, le=256, description="Most HTTP connections to the API server.")

    # Who we are.
    node_name: str = Field("", max_length=_LONGEST_NODE, description="The Node that we serve; NODE_NAME in a pod.")
    pod_uid: str = Field(
        "", max_length=64, description="Uid of our pod (POD_UID), so that the next one may start beside us."
    )
    driver: str = Field("gpu.nvidia.com", max_length=_LONGEST_DRIVER, description="Name of the DRA driver.")

    # The hardware.
    fake: str | None = Field(
        None, description="A machine made up instead of the node's own, as boards with counts: h100x8, a100x4+t4x2."
    )
    fake_state: Path | None = Field(
        None, description="File that the made-up machine is kept in; absent: fake-machine.json in plugin_dir."
    )
    fake_rack: str | None = Field(
        None,
        max_length=253,
        description="Rack that the made-up machine stands in; nodes of one rack share an NVLink fabric, where their "
        "GPUs have one (gb200x4); absent: rack-1.",
    )
    host_root: Path = Field(Path("/"), description="Where the host's root directory is seen from here.")
    driver_root: Path = Field(Path("/"), description="Folder on the host that NVIDIA's driver is installed in.")
    cdi_hook: Path | None = Field(
        None,
        description="nvidia-cdi-hook on the host, which sees to libraries in containers; absent: it is looked for "
        "below driver_root and host_root.",
    )
    dynamic_mig: bool = Field(
        False,
        description="Offer the instances that GPUs can be cut into, and cut on demand (Kubernetes 1.36, or the gate "
        "DRAPartitionableDevices).",
    )
    mig_configs: Path | None = Field(
        None,
        description="File of MIG configs, in mig-parted's form: the Node's label nvidia.com/mig.config names one, and "
        "GPUs are drained and cut as it says; absent: the label is not read.",
    )
    mig_drain_seconds: float | None = Field(
        None,
        ge=0,
        le=2_592_000,
        description="After so long pods are moved from GPUs that are to be cut anew (NoExecute); absent: never.",
    )
    shared_gpus: Annotated[tuple[str, ...], BeforeValidator(_listed)] = Field(
        (),
        description="GPUs that claims share by memory: indexes, UUIDs, PCI bus ids with commas, or all (Kubernetes "
        "1.36, or the gate DRAConsumableCapacity).",
    )
    share_step_mib: int = Field(
        256, ge=1, le=1_048_576, description="Shares of a GPU's memory are multiples of so many MiB."
    )
    mps: bool = Field(
        True, description="MPS daemons may run on this node, for claims that ask for them and for shares."
    )

    node_labels: bool = Field(
        False,
        description="Label the Node as GPU Feature Discovery does, which must not run then (and needs the role in "
        "deploy/dra-driver-labels.yaml); switched off again, our labels are taken away.",
    )

    # Multi-node NVLink.
    imex: Annotated[Literal["off", "auto", "on"], BeforeValidator(_switch)] = Field(
        "off",
        description="Serve IMEX channels to claims of ComputeDomains, where the host itself runs nvidia-imex and no "
        "plugin of NVIDIA's serves them: on, or auto for nodes of which some do.",
    )
    imex_driver: str = Field(
        COMPUTE_DOMAIN_DRIVER, max_length=_LONGEST_DRIVER, description="Name of the DRA driver of the channels."
    )
    imex_socket: Path = Field(
        IMEX_SOCKET,
        description="Unix socket of the host's IMEX service on the host: IMEX_CMD_UNIX_DOMAIN_PATH in its config.cfg.",
    )

    # The kubelet and the container runtime.
    kubelet_dir: Path = Field(Path("/var/lib/kubelet"), description="The kubelet's --root-dir.")
    plugin_dir: Path | None = Field(
        None, description="Folder for what must outlive us; absent: plugins/<driver> in kubelet_dir."
    )
    cdi_dir: Path = Field(Path("/var/run/cdi"), description="Folder of CDI specifications that the runtime reads.")

    shm_dir: Path = Field(
        Path("/dev/shm"), description="A tmpfs, at the same path here as on the host, for what MPS clients share."
    )

    # Patience.
    lock_seconds: float = Field(30, gt=0, le=600, description="Longest wait for another instance's work on hardware.")
    prepare_seconds: float = Field(
        10,
        ge=0,
        le=600,
        description="A claim that cannot be prepared is tried again for so long, before it is refused.",
    )
    collect_seconds: float = Field(
        600, ge=1, le=86_400, description="So often what claims that are gone have left is looked for."
    )
    rescan_seconds: float = Field(60, ge=1, le=86_400, description="So often the GPUs are looked at anew.")
    register_seconds: float = Field(
        30, ge=0, le=3600, description="How long to wait for the kubelet to know us before anything is published."
    )
    resync_seconds: float = Field(30, ge=1, le=3600, description="So often what is published is compared.")
    stop_seconds: float = Field(20, ge=0, le=600, description="How long work under way may take to end at the stop.")

    # Health of the GPUs.
    health_window_seconds: float = Field(
        600,
        ge=1,
        le=604_800,
        description="An XID is over when it was not heard again for so long, and the driver asks for nothing.",
    )
    ignored_xids: Annotated[tuple[int, ...], BeforeValidator(_listed)] = Field(
        (), description="XIDs that are no reason for a taint, with commas; those of applications never are."
    )

    # The health probe.
    probe_host: str = Field("", description="Address that the probe listens on; empty: all of the pod.")
    probe_port: int | None = Field(None, ge=0, le=65_535, description="Its port, 0 for any free one; absent: no probe.")

    # Metrics.
    metrics_host: str = Field("127.0.0.1", description="Address that /metrics is served on; empty: all of the pod.")
    metrics_port: int | None = Field(None, ge=0, le=65_535, description="Its port, 0 for any free one; absent: none.")
    metrics_seconds: float = Field(
        1, ge=0, le=3600, description="What was measured within so long is not measured anew."
    )

    # What is said.
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")
    log_format: Literal["json", "text"] = Field("json", description="Form of a log line.")

    @property
    def fake_file(self) -> Path:
        """Where the machine that is made up is kept."""
        return self.fake_state or self.data_dir / "fake-machine.json"

    @property
    def data_dir(self) -> Path:
        """The folder for what must outlive us."""
        return self.plugin_dir or self.kubelet_dir / "plugins" / self.driver

    @property
    def imex_dir(self) -> Path:
        """The same for the channels."""
        return (self.plugin_dir or self.kubelet_dir / "plugins") / self.imex_driver


def load(
    file: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Config:
    """Read the settings. Flags (by setting) that are None count as not given; no `environment` means the process's own.

    Raises ConfigError naming setting, cause and cure."""
    settings: dict[str, Any] = {}
    names: dict[str, str] = {}
    surroundings = os.environ if environment is None else environment
    sources = (
        _from_file(file) if file else {},
        {name: (key, surroundings[name]) for name, key in _OF_THE_POD.items() if surroundings.get(name)},
        _from_environment(surroundings),
        {_flag(key): (key, value) for key, value in (flags or {}).items() if value is not None},
    )
    for source in sources:
        for written, (key, value) in source.items():
            settings[key] = value
            names[key] = written
    try:
        config = Config.model_validate(settings)
    except ValidationError as error:
        raise _config_error(error, names) from None
    return _sound(config, names)


def _from_file(file: Path) -> dict[str, tuple[str, Any]]:
    try:
        document = yaml.safe_load(file.read_text())
    except OSError as error:
        raise ConfigError(str(file), f"cannot be read ({error.strerror})", "name a file that exists") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        raise ConfigError(f"{file}{line}", "is no valid YAML", "correct the file") from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ConfigError(str(file), "holds no settings", "write `setting: value`, one a line")
    return {f"{key} in {file}": (str(key), value) for key, value in document.items()}


def _flag(key: str) -> str:
    """How the setting is given to the command."""
    return f"--{_OPTIONS[key]}" if key in _OPTIONS else f"--set {key}"


def _from_environment(environment: Mapping[str, str]) -> dict[str, tuple[str, Any]]:
    return {
        name: (name.removeprefix(ENVIRONMENT_PREFIX).lower(), value)
        for name, value in sorted(environment.items())
        if name.startswith(ENVIRONMENT_PREFIX)
    }


def _config_error(error: ValidationError, names: Mapping[str, str]) -> ConfigError:
    first = error.errors(include_url=False)[0]
    key = str(first["loc"][0])
    written = names.get(key, key)
    if first["type"] == "extra_forbidden":
        return ConfigError(
            written, "there is no such setting", f"remove it, or use one of {', '.join(sorted(Config.model_fields))}"
        )
    cause = first["msg"][:1].lower() + first["msg"][1:]
    return ConfigError(written, f"{first['input']!r} cannot be used: {cause}", f"it means: {_meaning(key)}")


def _meaning(key: str) -> str:
    field = Config.model_fields[key]
    return f"{(field.description or '').removesuffix('.')} (default {field.default!r})"


def _sound(config: Config, names: Mapping[str, str]) -> Config:
    """What one field's type cannot tell."""
    for key, cure in (
        ("driver", "use a DNS name in lower case, as gpu.nvidia.com"),
        ("imex_driver", "use a DNS name in lower case, as compute-domain.nvidia.com"),
        ("node_name", "use the name of a Node, as `kubectl get nodes` shows it"),
    ):
        value = getattr(config, key)
        if value and not _NAME.fullmatch(value):
            raise ConfigError(names.get(key, key), f"{value!r} is no DNS name", cure)
    if config.driver == config.imex_driver:
        raise ConfigError(
            names.get("imex_driver", "imex_driver"), f"{config.driver!r} is the GPUs' driver, too", "use two names"
        )
    if re.search(r"[^A-Za-z0-9-]", config.pod_uid):
        raise ConfigError(names.get("pod_uid", "pod_uid"), f"{config.pod_uid!r} is no uid", "take metadata.uid")
    for key in (
        "host_root",
        "driver_root",
        "cdi_hook",
        "kubelet_dir",
        "plugin_dir",
        "cdi_dir",
        "shm_dir",
        "imex_socket",
        "mig_configs",
    ):
        folder = getattr(config, key)
        if folder is not None and not folder.is_absolute():
            raise ConfigError(names.get(key, key), f"{str(folder)!r} is relative", "write the whole path, from /")
    if config.fake is not None:
        try:
            boards.shape(config.fake)
        except ValueError as error:
            raise ConfigError(names.get("fake", "fake"), str(error), "or leave it out on a node with GPUs") from None
    else:
        for key in ("fake_state", "fake_rack"):
            if getattr(config, key) is not None:
                raise ConfigError(
                    names.get(key, key), "belongs to a machine that is made up", "name the machine with fake"
                )
    return config


def required_node(config: Config) -> str:
    """The node's name, where one is needed. Raises ConfigError."""
    if not config.node_name:
        raise ConfigError(
            "node_name", "is not set", "set NODE_NAME from spec.nodeName in the DaemonSet, or give --node"
        )
    return config.node_name
