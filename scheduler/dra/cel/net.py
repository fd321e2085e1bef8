"""IP addresses and CIDR ranges.

IPv4-mapped IPv6 addresses and zones are refused, as in Kubernetes; a CIDR keeps the bits behind its prefix until
`masked()`.

Source: Kubernetes CEL libraries "ip" and "cidr" (1.30).
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import ClassVar

from scheduler.dra.cel.cost import text_cost
from scheduler.dra.cel.overloads import Chapter
from scheduler.dra.cel.values import CelRuntimeError, Opaque

library = Chapter()

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Ip(Opaque):
    address: Address
    type_name: ClassVar[str] = "net.IP"

    @classmethod
    def parse(cls, text: str) -> Ip:
        """An address in text form; CelRuntimeError for anything else, a zone, or an IPv4-mapped address."""
        if "%" in text:
            raise CelRuntimeError(f"IP address {text[:64]!r} with zone value is not allowed")
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            raise CelRuntimeError(f"IP Address {text[:64]!r} parse error during conversion from string") from None
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            raise CelRuntimeError(f"IPv4-mapped IPv6 address {text[:64]!r} is not allowed")
        return cls(address)


@dataclass(frozen=True, slots=True)
class Cidr(Opaque):
    address: Address
    bits: int
    type_name: ClassVar[str] = "net.CIDR"

    @classmethod
    def parse(cls, text: str) -> Cidr:
        """An address with a prefix length; CelRuntimeError for anything else."""
        address, slash, bits = text.rpartition("/")
        if not slash or not _BITS.fullmatch(bits):
            raise CelRuntimeError(f"network address parse error during conversion from string: {text[:64]!r}")
        ip = Ip.parse(address).address
        if int(bits) > ip.max_prefixlen:
            raise CelRuntimeError(f"network address parse error during conversion from string: {text[:64]!r}")
        return cls(ip, int(bits))

    def prefix_of(self, address: Address) -> int:
        """The leading bits of an address that this range compares."""
        return int(address) >> (address.max_prefixlen - self.bits)

    def contains(self, address: Address) -> bool:
        return address.version == self.address.version and self.prefix_of(address) == self.prefix_of(self.address)


_BITS = re.compile(r"0|[1-9][0-9]{0,2}", re.ASCII)

library("ip(string) -> IP", cost=text_cost)(Ip.parse)
library("string(IP) -> string")(lambda ip: str(ip.address))
library("ip.isCanonical(string) -> bool", cost=text_cost)(lambda text: str(Ip.parse(text).address) == text)


@library("isIP(string) -> bool", cost=text_cost)
def _is_ip(text: str) -> bool:
    try:
        Ip.parse(text)
    except CelRuntimeError:
        return False
    return True


def _is_link_local_multicast(ip: Ip) -> bool:
    if ip.address.version == 4:
        return int(ip.address) >> 8 == 0xE00000  # 224.0.0.0/24
    return int(ip.address) >> 112 & 0xFF0F == 0xFF02


def _is_global_unicast(ip: Ip) -> bool:
    a = ip.address
    broadcast = a.version == 4 and int(a) == 0xFFFFFFFF
    return not (a.is_unspecified or broadcast or a.is_loopback or a.is_multicast or a.is_link_local)


library("IP.family() -> int")(lambda ip: ip.address.version)
library("IP.isUnspecified() -> bool")(lambda ip: ip.address.is_unspecified)
library("IP.isLoopback() -> bool")(lambda ip: ip.address.is_loopback)
library("IP.isLinkLocalMulticast() -> bool")(_is_link_local_multicast)
library("IP.isLinkLocalUnicast() -> bool")(lambda ip: ip.address.is_link_local)
library("IP.isGlobalUnicast() -> bool")(_is_global_unicast)

library("cidr(string) -> CIDR", cost=text_cost)(Cidr.parse)
library("string(CIDR) -> string")(lambda cidr: f"{cidr.address}/{cidr.bits}")


@library("isCIDR(string) -> bool", cost=text_cost)
def _is_cidr(text: str) -> bool:
    try:
        Cidr.parse(text)
    except CelRuntimeError:
        return False
    return True


library("CIDR.containsIP(IP) -> bool")(lambda cidr, ip: cidr.contains(ip.address))
library("CIDR.containsIP(string) -> bool", cost=lambda _, text: text_cost(text))(
    lambda cidr, text: cidr.contains(Ip.parse(text).address)
)


@library("CIDR.containsCIDR(CIDR) -> bool")
def _contains_cidr(cidr: Cidr, other: Cidr) -> bool:
    return cidr.bits <= other.bits and cidr.contains(other.address)


library("CIDR.containsCIDR(string) -> bool", cost=lambda _, text: text_cost(text))(
    lambda cidr, text: _contains_cidr(cidr, Cidr.parse(text))
)
library("CIDR.ip() -> IP")(lambda cidr: Ip(cidr.address))
library("CIDR.prefixLength() -> int")(lambda cidr: cidr.bits)


@library("CIDR.masked() -> CIDR")
def _masked(cidr: Cidr) -> Cidr:
    kept = cidr.address.max_prefixlen - cidr.bits
    return Cidr(type(cidr.address)(int(cidr.address) >> kept << kept), cidr.bits)
