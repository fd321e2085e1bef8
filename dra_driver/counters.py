"""What the instances of one GPU draw on, as counters (KEP 4815): what the counters admit, NVML can make, and no more.

One counter for each memory slice: that no slice lies in two instances is all that NVIDIA's geometry asks, the budget of
compute slices follows from it. One for the optical flow accelerator, which a GPU has once and its +me profiles have. On
boards with +me.all profiles one for media engines. Nothing else is counted: on some boards the largest profile tells
fewer engines than its parts together. Source: NVIDIA MIG User Guide, supported MIG profiles.
"""

from collections.abc import Iterable, Mapping

from dra_driver.facts import Mig, MigInstance, MigProfile, Placement

OFA, MEDIA = "ofa-engines", "media-engines"


def total(mig: Mig) -> Mapping[str, int]:
    """All that the GPU has; the whole of it draws this."""
    size = _size(mig)
    found = dict.fromkeys((f"memory-slice-{number}" for number in range(size)), 1)
    if any(_is_extended(profile) for profile in mig.profiles):
        found[OFA] = 1
    if any(_takes_all_media(profile) for profile in mig.profiles):
        found[MEDIA] = size
    return found


def drawn(mig: Mig, profile: MigProfile, where: Placement) -> Mapping[str, int]:
    """What an instance takes. Each that has media engines takes one of as many as there are memory slices, or all."""
    found = dict(_slices(where))
    if _is_extended(profile):
        found[OFA] = 1
    if any(_takes_all_media(other) for other in mig.profiles) and profile.decoders > 0:
        found[MEDIA] = _size(mig) if _takes_all_media(profile) else 1
    return found


def left(mig: Mig, instances: Iterable[MigInstance]) -> Mapping[str, int]:
    """What the GPU has beside these instances; what is used up is left out."""
    found = dict(total(mig))
    known = {profile.id: profile for profile in mig.profiles}
    for each in instances:
        profile = known.get(each.profile_id)
        taken = drawn(mig, profile, each.placement) if profile else _slices(each.placement)
        for name, amount in taken.items():
            found[name] = found.get(name, 0) - amount
    return {name: amount for name, amount in found.items() if amount > 0}


def fits(taken: Mapping[str, int], from_: Mapping[str, int]) -> bool:
    """Whether there is enough of everything."""
    return all(from_.get(name, 0) >= amount for name, amount in taken.items())


def placements(mig: Mig) -> list[tuple[MigProfile, Placement]]:
    """Every profile at every place, the smallest first, and the highest place first: whoever takes what comes first
    leaves the lower half whole, where the large ones must begin."""
    found = [(profile, where) for profile in mig.profiles for where in profile.placements]
    return sorted(found, key=lambda each: (each[0].slices, each[0].memory_slices, each[0].name, -each[1].start))


def _slices(where: Placement) -> Mapping[str, int]:
    return dict.fromkeys((f"memory-slice-{number}" for number in range(where.start, where.start + where.size)), 1)


def _size(mig: Mig) -> int:
    """How many memory slices the board has: where the last placement ends."""
    return max((where.start + where.size for profile in mig.profiles for where in profile.placements), default=0)


def _is_extended(profile: MigProfile) -> bool:
    """Has the optical flow accelerator, and leaves room for others beside it."""
    return "+me" in profile.name


def _takes_all_media(profile: MigProfile) -> bool:
    return profile.name.endswith("+me.all")
