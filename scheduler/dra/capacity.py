"""Consumable capacity: what a request takes of a device that several claims share.

Source: KEP 5075; resource.k8s.io/v1 CapacityRequestPolicy.
"""

from collections.abc import Mapping

from scheduler.dra.devices import Amount, Capacity, Device, Policy


def consumed(requested: Amount | None, capacity: Capacity) -> Amount:
    """What a request for `requested` takes: rounded up to what the policy allows; not requested: default, else all."""
    policy = capacity.policy
    if requested is None:
        return capacity.value if policy is None or policy.default is None else policy.default
    if policy is None:
        return requested
    if policy.minimum is not None:
        if requested <= policy.minimum:
            return policy.minimum
        if policy.step:
            steps = -((policy.minimum - requested) // policy.step)
            return policy.minimum + steps * policy.step
        return requested
    return next((value for value in policy.valid_values if value >= requested), requested)


def violates(amount: Amount, policy: Policy | None) -> bool:
    """Whether the policy forbids to take this amount. The default is always allowed."""
    if policy is None or amount == policy.default:
        return False
    if policy.minimum is not None:
        too_much = policy.maximum is not None and amount > policy.maximum
        if policy.step and (amount - policy.minimum) % policy.step != 0:
            return True
        return too_much or amount < policy.minimum
    return bool(policy.valid_values) and amount not in policy.valid_values


def taken_by(requests: Mapping[str, Amount], device: Device) -> tuple[tuple[str, Amount], ...] | None:
    """What a request takes of every capacity of the device, sorted by name; None: the device cannot serve it.

    It cannot if it lacks a requested capacity, has less than is asked, or its policy forbids the amount. Room that
    others hold is not looked at.
    """
    if not requests.keys() <= device.capacity.keys():
        return None
    taken = []
    for name, capacity in sorted(device.capacity.items()):
        requested = requests.get(name)
        amount = consumed(requested, capacity)
        if requested is not None and (violates(amount, capacity.policy) or amount > capacity.value):
            return None
        taken.append((name, amount))
    return tuple(taken)
