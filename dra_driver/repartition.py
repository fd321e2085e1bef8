"""From what a GPU is cut into to what it is to be, in steps that may be repeated after an end anywhere between them.

Steps follow from facts read anew, so whoever begins again does the rest. What was made for claims is none of its
business: those instances are left out of what is there, and stay. An instance that is wanted and there, stays too.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import TypeAlias

from dra_driver.facts import Failure, Gpu, GpuError, Gpus, MigInstance, MigProfile, Placement
from dra_driver.layouts import Layout


@dataclass(frozen=True, slots=True, kw_only=True)
class Destroy:
    """An instance goes."""

    instance: MigInstance


@dataclass(frozen=True, slots=True, kw_only=True)
class Mode:
    """The MIG mode changes, at once or with the next reset."""

    gpu: str
    on: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Reset:
    """The GPU is reset, so that its mode changes: not for us to do, as it ends whatever is on it and needs the GPU to
    be free of everybody who looks at it, us as well."""

    gpu: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Create:
    """An instance comes."""

    gpu: str
    profile: MigProfile
    placement: Placement


Step: TypeAlias = Destroy | Mode | Reset | Create


def static(gpu: Gpu, owned: Collection[tuple[str, Placement]]) -> Gpu:
    """The GPU without the instances that are made for claims (`dra_driver.holding.owned`)."""
    if gpu.mig is None:
        return gpu
    theirs = tuple(each for each in gpu.mig.instances if (gpu.uuid, each.placement) not in owned)
    return replace(gpu, mig=replace(gpu.mig, instances=theirs))


def steps(gpu: Gpu, wanted: Layout, *, dynamic: bool) -> tuple[Step, ...]:
    """What is to be done, in this order; nothing for a GPU that is as wanted. `gpu`: as `static` leaves it.

    `dynamic`: claims cut GPUs on demand. Where nothing is to be cut beforehand, they change the mode as they need it,
    and it is nobody else's to set."""
    mig = gpu.mig
    if mig is None:
        return ()
    places = {(profile.id, where): profile for profile, where in wanted.parts}
    kept = {(each.profile_id, each.placement) for each in mig.instances if each.uuid} & places.keys()
    found: list[Step] = [
        Destroy(instance=each)
        for each in mig.instances
        if not each.uuid or (each.profile_id, each.placement) not in kept
    ]
    if wanted.parts or not (dynamic and mig.on_demand):
        if mig.pending != wanted.enabled or (mig.on_demand and mig.on != wanted.enabled):
            found.append(Mode(gpu=gpu.uuid, on=wanted.enabled))
        if mig.on != wanted.enabled and not mig.on_demand:
            found.append(Reset(gpu=gpu.uuid))
    return (
        *found,
        *(
            Create(gpu=gpu.uuid, profile=profile, placement=where)
            for profile, where in wanted.parts
            if (profile.id, where) not in kept
        ),
    )


def carry_out(gpus: Gpus, todo: Iterable[Step]) -> bool:
    """Do it, up to a reset: False if one is needed first. Raises GpuError; what was done until then is done."""
    for step in todo:
        match step:
            case Destroy():
                _destroy(gpus, step.instance)
            case Mode():
                gpus.set_mig(step.gpu, step.on)
            case Create():
                gpus.create_instance(step.gpu, step.profile.id, step.placement)
            case Reset():
                return False
    return True


def _destroy(gpus: Gpus, instance: MigInstance) -> None:
    try:
        gpus.destroy_instance(instance)
    except GpuError as error:
        if error.failure is not Failure.NOT_FOUND:  # Gone is what was wanted.
            raise
