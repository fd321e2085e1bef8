"""Device taints and the tolerations of requests.

Source: KEP 5055; resource.k8s.io/v1 DeviceToleration.
"""

from collections.abc import Sequence

from scheduler.api.dra import DeviceTaint, DeviceToleration


def tolerates(toleration: DeviceToleration, taint: DeviceTaint) -> bool:
    """Whether the toleration covers the taint. No key with Exists covers all keys, no effect all effects."""
    if toleration.effect and toleration.effect != taint.effect:
        return False
    if toleration.key and toleration.key != taint.key:
        return False
    if toleration.operator == "Exists":
        return True
    return toleration.operator in ("", "Equal") and toleration.value == taint.value


def tolerated(taints: Sequence[DeviceTaint], tolerations: Sequence[DeviceToleration]) -> bool:
    """Whether every taint is tolerated. For how long plays no role when devices are chosen."""
    return all(any(tolerates(toleration, taint) for toleration in tolerations) for taint in taints)
