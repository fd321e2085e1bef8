"""GPUs cut into MIG instances and put together again, for devices that are prepared.

Every step looks first whether it is done already. What is ours: an instance is destroyed only for a device that says we
made it (`Prepared.made`), of this boot, and if its UUID is the one that was noted, or none was noted yet: before a
device is noted, nobody's instance lies in its place.
"""

from dataclasses import replace

from dra_driver.devices import Kind, Prepared
from dra_driver.facts import Failure, Gpu, GpuError, Gpus, MigInstance


class InTheWay(Exception):
    """Somebody else has made, or uses, what a device needs, or keeps it from ending. Object, cause, cure."""


class Partitions:
    """The GPUs, for what is made of them. All calls raise GpuError; a GPU that does not answer raises GPU_IS_LOST."""

    def __init__(self, gpus: Gpus) -> None:
        self._gpus = gpus
        self._facts: dict[str, Gpu] = {}
        """By UUID, as they were first read since `forget`: a claim of eight GPUs is not to read each of them often."""

    def forget(self) -> None:
        """What the GPUs are is read anew: somebody else may have been here."""
        self._facts = {}

    def make(self, device: Prepared) -> Prepared:
        """The device, there, with its instance and its minor number. Raises InTheWay."""
        if device.grant.admin:
            device = self._looked_on(device)
        elif device.kind is Kind.GPU:
            self._in_one_piece(device)
        else:
            instance = self._made(device).uuid if device.made else self._operators(device)
            device = replace(device, instance=instance)
        # A change of the MIG mode may have moved the GPU to another minor number.
        return replace(device, minor=self.facts(device.gpu).minor)

    def is_lost(self, device: Prepared) -> bool:
        """Whether the instance behind it is gone: a reset of the GPU, or somebody's hand."""
        if device.kind is Kind.GPU or device.grant.admin:
            self.facts(device.gpu)
            return False
        return all(there.uuid != device.instance for there in self._gpus.instances(device.gpu))

    def unmake(self, device: Prepared, *, last: bool) -> None:
        """Our instance is gone when this returns, and the MIG mode that we began if it was the `last`. Raises InTheWay
        while it is in use."""
        if not device.made:
            return
        self._destroy(device)
        if device.switched and last:
            self._leave_mig_mode(device.gpu)

    def known(self, device: Prepared) -> Prepared:
        """The device with the instance that is there for it: an end may have come before its UUID was noted."""
        found = self.ours(device) if device.made and not device.instance else None
        return replace(device, instance=found.uuid) if found is not None else device

    def lost(self, gpu: str) -> bool:
        """Whether the GPU does not answer."""
        try:
            self._gpus.gpu(gpu)
        except GpuError as error:
            if error.failure is not Failure.GPU_IS_LOST:
                raise
            return True
        return False

    def _looked_on(self, device: Prepared) -> Prepared:
        """Who looks on sees the instance that is there, if one is; none is made, and nothing is set."""
        if device.kind is not Kind.MIG or device.instance:
            return device
        found = self._at(device)
        return replace(device, instance=found.uuid if found is not None else "")

    def _in_one_piece(self, device: Prepared) -> None:
        """The GPU is not in MIG mode, in which nobody can use it whole."""
        mig = self.facts(device.gpu).mig
        if mig is None or not mig.on:
            return
        if not mig.on_demand or self._gpus.instances(device.gpu):
            raise InTheWay(
                f"device {device.grant.device}: GPU {device.gpu} is in MIG mode, with instances of somebody else; "
                "destroy them and end the mode, or let the plugin publish them"
            )
        self._set_mig(device.gpu, False)

    def _made(self, device: Prepared) -> MigInstance:
        """Our instance, made if it is not there."""
        assert device.placement is not None
        assert device.profile_id is not None
        found = self.ours(device)
        if found is not None and found.uuid:
            return found
        if found is not None:  # The GPU instance alone: an end in the middle of making, or of destroying.
            self._gpus.destroy_instance(found)
        mig = self.facts(device.gpu).mig
        if mig is not None and not mig.on:
            self._set_mig(device.gpu, True)
        return self._gpus.create_instance(device.gpu, device.profile_id, device.placement)

    def _operators(self, device: Prepared) -> str:
        """UUID of an operator's instance, which must be there."""
        if all(there.uuid != device.instance for there in self._gpus.instances(device.gpu)):
            raise InTheWay(
                f"device {device.grant.device}: MIG instance {device.instance} of GPU {device.gpu} is gone; delete the "
                "claim and its pod, so that another is allocated"
            )
        return device.instance

    def _destroy(self, device: Prepared) -> None:
        found = self.ours(device)
        if found is None:
            return
        try:
            self._gpus.destroy_instance(found)
        except GpuError as error:
            if error.failure is not Failure.IN_USE:
                raise
            users = [str(user.pid) for user in self._gpus.processes(device.gpu) if user.instance == found.id]
            raise InTheWay(
                f"device {device.grant.device}: MIG instance {found.uuid} of GPU {device.gpu} is in use by "
                f"{'process ' + ', '.join(users) if users else 'a process'}; it is tried again: end what still runs"
            ) from error

    def _leave_mig_mode(self, gpu: str) -> None:
        """The last of ours has gone. Somebody who only looks at the GPU may keep it from changing its mode: then it
        stays, and is left when the GPU is given away whole."""
        mig = self.facts(gpu).mig
        if mig is None or not mig.on or not mig.on_demand or self._gpus.instances(gpu):
            return
        try:
            self._set_mig(gpu, False)
        except GpuError as error:
            if error.failure is not Failure.IN_USE:
                raise

    def across(self, device: Prepared) -> list[MigInstance]:
        """All instances that lie in a part of its place."""
        place = device.placement
        return [
            there for there in self._gpus.instances(device.gpu) if place is not None and there.placement.overlaps(place)
        ]

    def _at(self, device: Prepared) -> MigInstance | None:
        """The instance in just its place, and of its profile."""
        for there in self.across(device):
            if there.placement == device.placement and there.profile_id == device.profile_id:
                return there
        return None

    def ours(self, device: Prepared) -> MigInstance | None:
        """The instance that we made for a device, whole or half; None if it is gone, or another has come since."""
        found = self._at(device)
        if found is None or (device.instance and found.uuid not in ("", device.instance)):
            return None
        return found

    def facts(self, gpu: str) -> Gpu:
        """What the GPU is, but for its instances: they change beside it."""
        if gpu not in self._facts:
            self._facts[gpu] = self._gpus.gpu(gpu)
        return self._facts[gpu]

    def _set_mig(self, gpu: str, on: bool) -> None:
        self._facts.pop(gpu, None)  # also if it fails: the mode may have changed, and the minor number with it
        self._gpus.set_mig(gpu, on)
