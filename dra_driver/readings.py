"""What NVML's numbers mean: names for architectures, brands and MIG profiles, and the health of a fabric. Pure."""

import uuid

from dra_driver.facts import ComputeMode, Failure, MigProfile

# Source: nvml.h, NVML_DEVICE_ARCH_*.
ARCHITECTURES = {
    2: "Kepler",
    3: "Maxwell",
    4: "Pascal",
    5: "Volta",
    6: "Turing",
    7: "Ampere",
    8: "Ada Lovelace",
    9: "Hopper",
    10: "Blackwell",
    13: "Rubin",
}
HOPPER = 9  # from this architecture on, the MIG mode changes without a reset

# Source: nvml.h, nvmlBrandType_t; spelled as NVIDIA's DRA driver publishes them.
BRANDS = {
    1: "Quadro",
    2: "Tesla",
    3: "NVS",
    4: "Grid",
    5: "GeForce",
    6: "Titan",
    7: "NvidiaVApps",
    8: "NvidiaVPC",
    9: "NvidiaVCS",
    10: "NvidiaVWS",
    11: "NvidiaCloudGaming",
    12: "QuadroRTX",
    13: "NvidiaRTX",
    14: "Nvidia",
    15: "GeForceRTX",
    16: "TitanRTX",
}
ADDRESSING = {0: "None", 1: "HMM", 2: "ATS"}
# Exclusive use by one thread (1) is no more: drivers take it for use by one process. Source: nvml.h, nvmlComputeMode_t.
_EXCLUSIVE_THREAD = 1

# What a GPU instance profile adds to its plain name, by NVML's enumerator. Source: nvml.h, NVML_GPU_INSTANCE_PROFILE_*.
SUFFIXES = {
    7: "+me",
    8: "+me",
    10: "+gfx",
    11: "+gfx",
    12: "+gfx",
    13: "-me",
    14: "-me",
    15: "+me.all",
    16: "+me.all",
    17: "+gfx",
}
PROFILES = 18

# The compute instance as large as its GPU instance: NVML's enumerator by compute slices.
WHOLE_COMPUTE = {1: 0, 2: 1, 3: 2, 4: 3, 7: 4, 8: 5, 6: 6}

NOT_THERE = 0xFFFFFFFF  # an instance id that says: the whole GPU
_MEANS_NOT_SUPPORTED = (
    13,
    25,
    26,
)  # function not found, argument version mismatch, deprecated: an older or newer driver
_GPU_NOT_FOUND = 28

_TRUE = 1
_UNHEALTHY, _LIMITED = 2, 3
_CONFIGURATION_GOOD = 1  # 0: not supported
_CONFIGURATION_SHIFT, _CONFIGURATION_MASK = 8, 0xF
_FLAG_SHIFTS = (0, 2, 4, 6)  # degraded bandwidth, route recovery, route unhealthy, access timeout recovery; 2 bits each


def failure(code: int) -> Failure:
    """Why NVML refused, by its return code."""
    if code in _MEANS_NOT_SUPPORTED:
        return Failure.NOT_SUPPORTED
    if code == _GPU_NOT_FOUND:
        return Failure.NOT_FOUND
    return Failure(code) if code in Failure.__members__.values() else Failure.UNKNOWN


def bus(text: str) -> str:
    """ "00000000:65:00.0" as the kernel writes it: "0000:65:00.0"."""
    domain, rest = text.lower().split(":", 1)
    return f"{int(domain, 16):04x}:{rest}"


def pci_id(number: int) -> str:
    """Device before vendor, as MIG configs write it: "0x233010DE"; empty for zero."""
    return f"0x{number:08X}" if number else ""


def cluster(identifier: bytes) -> str:
    """A fabric's UUID from its 16 bytes; empty for zeros."""
    return str(uuid.UUID(bytes=identifier)) if any(identifier) else ""


def fabric_healthy(mask: int, summary: int) -> bool:
    """Whether a GPU's part of the fabric is in order. Source: nvml.h, NVML_GPU_FABRIC_HEALTH_*."""
    if summary in (_UNHEALTHY, _LIMITED) or any(mask >> shift & 0x3 == _TRUE for shift in _FLAG_SHIFTS):
        return False
    return (mask >> _CONFIGURATION_SHIFT & _CONFIGURATION_MASK) <= _CONFIGURATION_GOOD


def size_order(profile: MigProfile) -> tuple[int, int, str]:
    """Sort key of a board's profiles: the smallest first."""
    return profile.slices, profile.memory_slices, profile.name


def profile_name(told: str, enumerator: int, slices: int, memory_slices: int, of: int, total_bytes: int) -> str:
    """What a MIG profile is called: as NVML tells ("MIG 1g.10gb"), or by NVIDIA's rule where it tells nothing.

    The rule: <compute slices>g.<G>gb, with G the memory slices' share (`memory_slices` of `of`) of the board's whole
    GiB rounded up, rounded half up. Checked against every profile of thirteen boards."""
    if told:
        return told.removeprefix("MIG ").strip()
    gibibytes = -(-total_bytes // (1 << 30))
    share = (2 * memory_slices * gibibytes + of) // (2 * of)
    return f"{slices}g.{share}gb{SUFFIXES.get(enumerator, '')}"


def compute_mode(number: int) -> ComputeMode:
    """Who may use a GPU; a mode that this code does not know is none that keeps anybody off."""
    if number == _EXCLUSIVE_THREAD:
        return ComputeMode.EXCLUSIVE_PROCESS
    return ComputeMode(number) if number in {mode.value for mode in ComputeMode} else ComputeMode.DEFAULT
