"""What an XID and a recovery action mean for those who want a GPU or use it: effects of taints, and words. Pure.

The driver's recovery action (NVML field 230) decides where it can. An XID that the driver takes into that action is
judged by it alone: with no action asked for, the GPU goes on. All other XIDs, and all of a driver that tells no action,
are judged by the table. What it says, by severity:

- nothing: the application's own errors; a slice is not written anew for each of them;
- NoExecute: nothing runs on the GPU any more, or what runs has lost its data (a GPU off the bus, a halted controller,
  an uncontained memory error): who is on it is moved;
- None, a note: the hardware has dealt with it (a row of memory remapped), or an application has most likely done it;
- NoSchedule: all others, unknown ones too: who is on it may go on, nobody new comes.

Source: NVIDIA, Xid Errors: "Analyzing Xid Errors with the Xid Catalog" (numbers, immediate actions, linkage to Xid 154,
https://docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html); NVIDIA GPU Memory Error Management: "Error
Recovery and Response Flags"; nvml.h, NVML_GPU_RECOVERY_ACTION_*.
"""

from dra_driver.facts import Recovery

NO_EXECUTE, NO_SCHEDULE, NOTE = "NoExecute", "NoSchedule", "None"
STRENGTH = {NO_EXECUTE: 2, NO_SCHEDULE: 1, NOTE: 0}

OFF_THE_BUS = 79

APPLICATION = {
    13: "graphics engine exception",
    31: "memory page fault",
    43: "an application was stopped after a fault of its own",
    45: "an application's channels were cleaned up",
    68: "video decoder exception",
    109: "context switch timeout",
}
"""Errors of applications, as NVIDIA's DRA driver has them. The GPU is sound, or the recovery action says that it is
not."""

_FATAL = {
    46: "the GPU stopped processing",
    62: "internal microcontroller halted",
    79: "the GPU has fallen off the bus",
    95: "uncontained memory error",
    110: "security fault",
    119: "the GPU's system processor (GSP) does not answer",
    120: "error of the GPU's system processor (GSP)",
    140: "unrecovered memory error",
    143: "the GPU could not be initialised",
    158: "fatal timeout of the GPU",
    167: "fatal timeout on PCIe",
    169: "internal microcontroller halted",
}
"""RESET_GPU or RESTART_BM, and nothing that runs there comes to an end by itself."""

_NOTES = {
    11: "invalid commands of an application",
    63: "a row of memory is remapped",
    69: "graphics engine class error",
    80: "corrupted data sent to the GPU",
    92: "high rate of corrected memory errors",
    93: "wear limit of the InfoROM",
    106: "test message",
    107: "test message",
    121: "corrected errors on the link to the CPU",
    137: "illegal access over NVLink",
    141: "fast path error",
    154: "the recovery action has changed",
    160: "a memory channel is marked for repair",
    162: "power smoothing is on again",
    163: "power smoothing is off",
}
"""IGNORE in the catalog, or RESTART_APP with the application as the likely cause."""

_OTHERS = {
    8: "the GPU stopped processing for an application",
    32: "invalid or corrupted push buffer stream",
    38: "firmware error",
    48: "uncorrectable memory error",
    54: "auxiliary power is not connected",
    64: "a row of memory could not be remapped",
    74: "NVLink error",
    94: "contained memory error",
    136: "NVLink could not be trained",
    144: "NVLink error (SAW)",
    145: "NVLink error (RLW)",
    146: "NVLink error (TLW)",
    147: "NVLink error (TREX)",
    148: "NVLink error (NVLPW)",
    149: "NVLink error (NETIR)",
    150: "NVLink error (MSE)",
    155: "an NVLink is down",
    156: "a resource is to be retired by a reset",
    157: "a resource could not be retired",
    161: "a memory channel could not be retired",
    168: "less memory than there should be",
    171: "uncorrectable memory error (DRAM)",
    172: "uncorrectable memory error (SRAM)",
}

_TOLD_BY_THE_ACTION = frozenset(
    {48, 62, 63, 64, 74, 94, 95, 109, 110, 120, 136, 143, 144, 145, 146, 147, 148, 149, 150, 155, 156, 158, 160, 161}
)
"""What the driver takes into its recovery action: "Xid 154 linkage" in the catalog. 79 is left out, although it is
there: a GPU that is off the bus can be asked nothing. 171 and 172 come with 48."""
_WITH_48 = frozenset({171, 172})

_RECOVERY = {
    Recovery.GPU_RESET: (NO_EXECUTE, "it needs a reset: end what uses the GPU, then nvidia-smi --gpu-reset"),
    Recovery.NODE_REBOOT: (NO_EXECUTE, "the node needs a reboot"),
    Recovery.DRAIN_P2P: (NO_SCHEDULE, "peer-to-peer traffic must end: end what uses several GPUs"),
    Recovery.DRAIN_AND_RESET: (NO_SCHEDULE, "it needs a reset when what runs has ended (nvidia-smi --gpu-reset)"),
    Recovery.RECOVER_IMEX_DOMAIN: (NO_SCHEDULE, "its IMEX domain must be recovered"),
    Recovery.BUS_RESET: (NO_EXECUTE, "its PCIe bus needs a reset"),
    Recovery.SYSTEM_REBOOT: (NO_EXECUTE, "the system needs a reboot"),
}


def effect(xid: int, asked: Recovery | None) -> str:
    """The effect of an XID's taint; "" if it deserves none. `asked`: the driver's recovery action, None where it tells
    none. What an action itself deserves is `recovery_effect`."""
    if xid in APPLICATION:
        return ""
    if xid in _NOTES or (asked is Recovery.NONE and xid in _TOLD_BY_THE_ACTION | _WITH_48):
        return NOTE
    return NO_EXECUTE if xid in _FATAL else NO_SCHEDULE


def recovery_effect(action: Recovery) -> str:
    """The effect of the taint for an action that is asked for; "" for none."""
    return _RECOVERY[action][0] if action in _RECOVERY else ""


def recovery_name(action: Recovery) -> str:
    """The action as the value of a taint: "gpu-reset"."""
    return action.name.lower().replace("_", "-")


def xid_words(xid: int) -> str:
    """What has happened, for a reader."""
    known = APPLICATION.get(xid) or _FATAL.get(xid) or _NOTES.get(xid) or _OTHERS.get(xid)
    return f"XID {xid} ({known})" if known else f"XID {xid}"


def recovery_words(action: Recovery) -> str:
    """What is to be done, for a reader."""
    return _RECOVERY[action][1] if action in _RECOVERY else "nothing is to be done"
