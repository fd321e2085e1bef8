"""The IMEX channel of a node whose host runs IMEX itself: whether it can be given, to whom, and what is offered.

Processes on several nodes reach each other's memory over NVLink if the nodes' IMEX services are joined and each process
has the same channel. Here, as in the host-managed mode of NVIDIA's driver for ComputeDomains, the services are the
hosts' own: the channel is given, and no daemon is started.

One channel is offered, number 0, and no setting makes them more. Who imports memory must have the very channel of who
exported it, while the devices of each node are chosen on their own: of several channels the pods of one domain would be
given different ones. So a node is in one ComputeDomain at a time. With allocationMode All the containers see every
channel of the node, still under that one device.

The ComputeDomain object is not read. Nothing in the hardware bears its UID, so none is protected by checking who names
it: whoever has channel 0 can reach what others with channel 0 export, on all nodes that the hosts' IMEX services join.
Source: NVIDIA's IMEX guide; CUDA driver API (CU_MEM_HANDLE_TYPE_FABRIC); NVIDIA's DRA driver (host-managed mode).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from dra_driver.commands import Commands, Tools
from dra_driver.devices import ClaimRef, Device, Grant, Inventory, Kind, Prepared, Taint
from dra_driver.facts import FabricState, Gpu
from dra_driver.grants import ClaimRefused, grants
from dra_driver.host import IMEX_CHANNELS, Host, HostError
from dra_driver.prepare import PrepareError, Preparer

log = structlog.get_logger(__name__)

CHANNEL = "channel-0"
TAINT = "tutti.scheduler/imex-not-ready"
READY = "READY"
_DAEMON_CONFIG = "ComputeDomainDaemonConfig"
_ASK_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """How IMEX stands on a node. `clique`: the part of an NVLink fabric that it is in, empty where it is in none that
    can be served: then no channel is offered. `trouble`: why no channel can be given now, "" if one can."""

    clique: str = ""
    trouble: str = ""


class HostImex:
    """The host's IMEX service, asked with its own tool. `socket`: of its command service, as it is seen from here;
    `named`: as the host's configuration names it."""

    def __init__(self, commands: Commands, tools: Tools, socket: Path, named: Path) -> None:
        self._commands, self._tools = commands, tools
        self._socket, self._named = socket, named

    def trouble(self) -> str:
        """Why it cannot be relied on now, with what helps; "" if it is ready. Blocks for some seconds at most."""
        if not self._tools.imex_ctl:
            return "nvidia-imex-ctl is not below the driver's root; install NVIDIA's package nvidia-imex on the host"
        argv = [self._tools.imex_ctl, "-q", "-u", str(self._socket)]
        answer = self._commands.run(argv, env=self._tools.env, seconds=_ASK_SECONDS)
        if answer.code:
            return (
                f"the host's IMEX service cannot be asked at {self._named} ({answer.words}); start nvidia-imex on the "
                f"host, with IMEX_CMD_ENABLED=1 and IMEX_CMD_UNIX_DOMAIN_PATH={self._named} in its config.cfg"
            )
        # Whole words: NOT_READY is none.
        if READY not in answer.output.split():
            said = " ".join(answer.output.split())[:100] or "silent"
            return (
                f"the host's IMEX service is {said}, and not {READY}; it is tried again: see its log "
                "(/var/log/nvidia-imex.log), and that the nodes of its nodes_config.cfg run it"
            )
        return ""


def state(gpus: Iterable[Gpu], host: Host, service: HostImex) -> State:
    """How IMEX stands now on a node with these GPUs."""
    known = tuple(gpus)
    where, why_not = clique(known)
    if not where:
        return State(trouble=why_not)
    try:
        host.major(IMEX_CHANNELS)
    except HostError as problem:
        return State(trouble=str(problem).rstrip("."))
    ill = next((gpu.uuid for gpu in known if gpu.fabric is not None and not gpu.fabric.healthy), "")
    if ill:
        return State(
            clique=where,
            trouble=f"GPU {ill} is not well in its NVLink fabric; see nvidia-smi -q (Fabric), and repair that",
        )
    return State(clique=where, trouble=service.trouble())


def clique(gpus: Iterable[Gpu]) -> tuple[str, str]:
    """`<clusterUUID>.<cliqueId>` of a node's GPUs, "" where they have no common one; and in words why not."""
    found: dict[str, str] = {}
    for gpu in gpus:
        fabric = gpu.fabric
        if fabric is not None and fabric.state in (FabricState.NOT_STARTED, FabricState.IN_PROGRESS):
            return "", f"GPU {gpu.uuid} has not joined its NVLink fabric yet; it is looked at again"
        if fabric is None or fabric.state is not FabricState.COMPLETED or not fabric.cluster:
            return (
                "",
                f"GPU {gpu.uuid} is in no NVLink fabric that spans nodes, and needs no channel; imex may be off here",
            )
        found.setdefault(f"{fabric.cluster}.{fabric.clique}", gpu.uuid)
    if not found:
        return "", "no GPU answers; see nvidia-smi"
    if len(found) > 1:
        named = ", ".join(f"{uuid} in {name}" for name, uuid in sorted(found.items()))
        return "", f"GPUs of this node are in different cliques ({named}); put them into one partition of the fabric"
    return next(iter(found)), ""


def offered(now: State, since_ms: int) -> Inventory:
    """What a node in this state offers. `since_ms`: when its trouble began. A channel that cannot be given is kept from
    those who are not placed yet, and nobody who has it is sent away: what runs may outlive a service that restarts."""
    if not now.clique:
        return Inventory(devices=(), refused=((CHANNEL, now.trouble + "."),))
    taint = Taint(key=TAINT, value="", effect="NoSchedule", since_ms=since_ms)
    channel = Device(
        name=CHANNEL,
        kind=Kind.CHANNEL,
        attributes={"type": Kind.CHANNEL.value, "id": 0},
        taints=(taint,) if now.trouble else (),
    )
    return Inventory(devices=(channel,), refused=((CHANNEL, now.trouble + "."),) if now.trouble else ())


class Offering:
    """What is offered now, by the last look. `look` under the node's lock."""

    def __init__(self, look: Callable[[], State], now_ms: Callable[[], int]) -> None:
        self._look, self._now_ms = look, now_ms
        self._since_ms = 0
        self.state = State()
        self.inventory = Inventory(devices=())

    def look(self) -> State:
        """Look anew. What is wrong is said once, and again when it changes."""
        found = self._look()
        if found.trouble and not self.state.trouble:
            self._since_ms = self._now_ms()
        if found.trouble != self.state.trouble:
            if found.trouble:
                log.warning("no IMEX channel can be given", why=found.trouble)
            else:
                log.info("IMEX channels can be given", clique=found.clique)
        self.state, self.inventory = found, offered(found, self._since_ms)
        return found


class ChannelWork:
    """Work on channels (`dra_driver.claims.Work`): a Preparer's, where IMEX stands and the node is in no other
    domain."""

    def __init__(self, preparer: Preparer, offering: Offering) -> None:
        self._preparer, self._offering = preparer, offering

    def prepare(self, claim: ClaimRef, grants: tuple[Grant, ...]) -> tuple[Prepared, ...]:
        """The claim's channel. Asked again, IMEX is asked again: it is for containers that start now.

        Raises PrepareError, which may pass."""
        if trouble := self._offering.look().trouble or self._elsewhere(claim, grants):
            raise PrepareError(f"Claim {claim.namespace}/{claim.name}: not prepared: {trouble}")
        return self._preparer.prepare(claim, grants)

    def unprepare(self, claim: ClaimRef) -> None:
        """The claim's channel is given back, however IMEX stands."""
        self._preparer.unprepare(claim)

    def _elsewhere(self, claim: ClaimRef, grants: tuple[Grant, ...]) -> str:
        """Which other domain the node is in, in words; "" if none."""
        wanted = {grant.settings.domain for grant in grants}
        for entry in sorted(self._preparer.load(), key=lambda entry: entry.claim.uid):
            for device in entry.devices:
                if entry.claim.uid != claim.uid and device.grant.settings.domain not in wanted:
                    return (
                        f"it is for ComputeDomain {', '.join(sorted(wanted))}, and this node is in ComputeDomain "
                        f"{device.grant.settings.domain} as long as claim {entry.claim.namespace}/{entry.claim.name} "
                        f"holds {device.grant.device}: a node is in one at a time; it is prepared when that is given "
                        "back: if it stays so, delete one of the claims and its pod"
                    )
        return ""


def channel_grants(document: Mapping[str, Any], driver: str, pool: str) -> tuple[Grant, ...]:
    """What a claim was given of this node's channels, each for a ComputeDomain. Raises ClaimRefused."""
    metadata = document.get("metadata") or {}
    name = f"claim {metadata.get('namespace', '')}/{metadata.get('name', '')}"
    if any(_daemons(document, driver)):
        raise ClaimRefused(
            f"{name}: an IMEX daemon is asked for, and there are none here: the channels are those of the host's own "
            "IMEX service; remove the request and its config, and the daemon's DaemonSet"
        )
    found = grants(document, driver, pool)
    for grant in found:
        if not grant.device.startswith("channel-"):
            raise ClaimRefused(
                f"{name}: device {grant.device} is no channel, and driver {driver} has no others; delete the claim, so "
                "that it is allocated anew"
            )
        if grant.admin:
            raise ClaimRefused(
                f"{name}: adminAccess to {grant.device}: who has a channel can write to others' memory, and there is "
                "nothing of it to look at; remove adminAccess from the request"
            )
        if not grant.settings.domain:
            raise ClaimRefused(
                f"{name}: no config says which ComputeDomain {grant.device} is for; give the request a "
                "ComputeDomainChannelConfig (resource.nvidia.com/v1beta1) with its domainID, as the claim template of "
                "a ComputeDomain has it"
            )
    return found


def _daemons(document: Mapping[str, Any], driver: str) -> Iterator[bool]:
    """Of each result and config of this driver in the allocation, whether it is for a daemon."""
    devices = ((document.get("status") or {}).get("allocation") or {}).get("devices") or {}
    for result in devices.get("results") or ():
        yield result.get("driver") == driver and str(result.get("device", "")).startswith("daemon-")
    for config in devices.get("config") or ():
        opaque = config.get("opaque") or {}
        parameters = opaque.get("parameters")
        kind = parameters.get("kind") if isinstance(parameters, Mapping) else None
        yield opaque.get("driver") == driver and kind == _DAEMON_CONFIG
