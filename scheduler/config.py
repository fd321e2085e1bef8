"""Config: every setting with its unit and default; an unknown key stops the start.

Three sources, each over the one before: a YAML file, the environment (`TUTTI_CONFIG_<KEY>`), flags of the command.
"""

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from scheduler.api.attributes import FENCE_TAINT
from scheduler.model.snapshot import Policy, Stage

ENVIRONMENT_PREFIX = "TUTTI_CONFIG_"


class ConfigError(Exception):
    """The operator's: a setting that cannot be used. The start stops. `setting` as the operator wrote it."""

    def __init__(self, setting: str, cause: str, cure: str) -> None:
        super().__init__(f"{setting}: {cause}; {cure}.")
        self.setting = setting
        self.cause = cause
        self.cure = cure


_OPTIONS = ("kubeconfig", "context")
"""Settings that `tutti run` has an option of their own for; all others come with --set."""

_POLICY = Policy()


def _listed(value: object) -> object:
    """A list may be written as one word, with commas."""
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value


class Config(BaseModel):
    """All settings of `tutti run`. The unit is in the name; without one it is a count, a name or a switch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # The cluster.
    kubeconfig: Path | None = Field(None, description="File to connect with; absent: in-cluster, then ~/.kube/config.")
    context: str | None = Field(None, description="Context of the kubeconfig; absent: its current one.")
    connections: int = Field(64, ge=1, le=4096, description="Most HTTP connections to the API server.")

    # What decides (scheduler.model.snapshot.Policy).
    scheduler_name: str = Field(_POLICY.scheduler_name, min_length=1, description="spec.schedulerName of our pods.")
    seed: int = Field(_POLICY.seed, ge=0, le=2**31 - 1, description="Seed of the solver.")
    default_queue: str = Field(_POLICY.default_queue, description="Queue of a gang that names none, if it exists.")
    solver_enabled: bool = Field(_POLICY.solver_enabled, description="Place contending gangs jointly with CP-SAT.")
    solver_deterministic_seconds: float = Field(
        _POLICY.solver_deterministic_seconds, gt=0, le=600, description="CP-SAT's deterministic time for one search."
    )
    solver_gangs: int = Field(_POLICY.solver_gangs, ge=1, le=10_000, description="Most gangs placed jointly.")
    allocator_steps: int = Field(
        _POLICY.allocator_steps, ge=1, le=1_000_000_000, description="Search steps for the devices of pods on one node."
    )
    device_fence: Literal["none", "taint", "verify"] = Field(
        "none", description="What keeps others off our devices: a taint on them, or a look after each write."
    )
    spread: bool = Field(_POLICY.spread, description="Prefer emptier nodes to fuller ones.")
    usage_weight: float = Field(
        _POLICY.usage_weight,
        ge=0,
        le=1_000,
        description="How much past use counts when what is over quota is divided; 0: not at all, and none is recorded.",
    )
    usage_half_life_hours: float = Field(
        168, ge=0.01, le=87_600, description="Use that lies so long back counts half as much."
    )
    age_weight: int = Field(
        _POLICY.age_weight,
        ge=0,
        le=1_000_000_000,
        description="Points of priority that a gang gains in its queue by waiting age_full_hours; 0: none.",
    )
    age_full_hours: float = Field(
        _POLICY.age_full_hours, ge=0.01, le=87_600, description="Who has waited so long has gained age_weight in full."
    )
    move_after_seconds: float = Field(
        _POLICY.move_after_seconds,
        ge=0,
        le=31_536_000,
        description="Consolidation moves nobody who has been on his node for less.",
    )
    reservations: int = Field(
        _POLICY.reservations,
        ge=0,
        le=8,
        description="So many gangs of each queue that find no room have it reserved for when it is known to be there.",
    )
    reserve_within_hours: float = Field(
        _POLICY.reserve_within_hours,
        ge=0.01,
        le=87_600,
        description="Room that will be there only later than so is not reserved (Slurm: bf_window).",
    )
    reserve_after_seconds: int = Field(
        _POLICY.reserve_after_seconds,
        ge=0,
        le=31_536_000,
        description="Who is first in its queue and waits so long keeps free room though no time is known; 0: never.",
    )
    stages: Annotated[tuple[Stage, ...], BeforeValidator(_listed)] = Field(
        _POLICY.stages,
        min_length=1,
        description="What a plan may do, in a list with commas: allocate, consolidate, reclaim, preempt, stale.",
    )

    # The cycle.
    cycle_debounce_seconds: float = Field(0.03, ge=0, le=60, description="Changes that come so close are one cycle.")
    cycle_interval_seconds: float = Field(
        0.1, ge=0, le=600, description="From one cycle's start to the next, at least."
    )
    recheck_seconds: float = Field(30, gt=0, le=3600, description="A cycle runs so often even if nothing changed.")
    switch_interval_seconds: float = Field(
        0.001, gt=0, le=1, description="How soon planning yields the interpreter to watches and writes."
    )

    # The writes.
    writes_in_flight: int = Field(32, ge=1, le=4096, description="Most writes of commits under way at once.")
    write_attempts: int = Field(6, ge=1, le=100, description="Tries of one write that meets conflicts or failures.")
    write_backoff_seconds: float = Field(
        0.1, ge=0, le=60, description="Wait before the second try; doubles from there."
    )
    binding_conditions_seconds: float = Field(
        600, gt=0, le=86_400, description="How long devices may take to become ready to bind."
    )
    volume_binding_seconds: float = Field(
        600, gt=0, le=86_400, description="How long volumes may take to be provisioned and bound."
    )
    commit_retry_seconds: float = Field(
        1, ge=0, le=600, description="A gang whose commit failed waits; doubles, to 60."
    )

    # Leadership.
    leader_election: bool = Field(True, description="Run only while holding the Lease; off: this is the only replica.")
    lease_namespace: str = Field("tutti-system", min_length=1, description="Namespace of the Lease.")
    lease_name: str = Field("tutti-scheduler", min_length=1, description="Name of the Lease.")
    lease_seconds: int = Field(15, ge=2, le=3600, description="A lease not renewed for so long may be taken.")
    lease_renew_seconds: float = Field(10, gt=0, le=3600, description="A leader that cannot renew so long steps down.")
    lease_retry_seconds: float = Field(2, gt=0, le=600, description="Time between attempts to take or renew the Lease.")

    # The debug API and the page.
    web_enabled: bool = Field(True, description="Serve the debug API, metrics and the page.")
    web_host: str = Field("127.0.0.1", description="Loopback address to listen on.")
    web_port: int = Field(8080, ge=0, le=65_535, description="Port to listen on; 0: any free one.")
    history_cycles: int = Field(100, ge=1, le=10_000, description="Cycles kept in memory for the debug API.")

    # What is said.
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")
    log_format: Literal["json", "text"] = Field("json", description="Form of a log line.")

    def policy(self) -> Policy:
        """The settings that decisions depend on."""
        taint = FENCE_TAINT if self.device_fence == "taint" else ""
        same = {field.name for field in fields(Policy)} & Config.model_fields.keys()
        return Policy(device_fence_taint=taint, **{name: getattr(self, name) for name in sorted(same)})


def load(
    file: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Config:
    """Read the settings. Flags (by setting) that are None count as not given; no `environment` means the process's own.

    Raises ConfigError naming setting, cause and cure."""
    settings: dict[str, Any] = {}
    names: dict[str, str] = {}
    sources = (
        _from_file(file) if file else {},
        _from_environment(os.environ if environment is None else environment),
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
    except yaml.YAMLError as error:
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
    return f"--{key}" if key in _OPTIONS else f"--set {key}"


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
    """What one field alone cannot tell."""
    if not _is_loopback(config.web_host):
        raise ConfigError(
            names.get("web_host", "web_host"),
            f"{config.web_host!r} is no loopback address, and the debug API asks nobody for a token",
            "use 127.0.0.1 and reach it with `kubectl port-forward`",
        )
    if config.leader_election and not config.lease_retry_seconds < config.lease_renew_seconds < config.lease_seconds:
        raise ConfigError(
            names.get("lease_renew_seconds", "lease_renew_seconds"),
            f"{config.lease_renew_seconds} does not lie between lease_retry_seconds "
            f"({config.lease_retry_seconds}) and lease_seconds ({config.lease_seconds})",
            "two leaders would overlap; choose retry < renew < lease",
        )
    return config


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
