"""How often strangers may try to enrol: by address, and all of them together."""

import ipaddress
import re
import urllib.parse
from collections.abc import Callable

from adpfl_server.limits.admission import Pace, Paces
from adpfl_server.limits.limits_config import LimitsConfig
from adpfl_server.limits.refusals import CallRefusedError, Code

_PEER = re.compile(r"ipv[46]:(.*):[0-9]+")
IPV6_PREFIX = 64
"""Bits of an IPv6 address that name a network; whoever has one of its addresses has all of them."""


class Attempts:
    """Counts attempts, those that fail and those that do not."""

    def __init__(self, limits: LimitsConfig, monotonic: Callable[[], float]) -> None:
        """Count from nothing; a minute's worth may come at once.

        Args:
            limits: the operator's.
            monotonic: seconds that never run backwards.
        """
        self._limits = limits
        self._monotonic = monotonic
        self._all = _a_minute(limits.enrollments_per_minute)
        each = limits.enrollments_per_minute_per_address
        self._by_address: Paces[str] = Paces(each / 60.0, each)

    def count(self, peer: str) -> None:
        """Count an attempt from an address.

        Args:
            peer: as gRPC names it, `ipv4:host:port` or `ipv6:%5Bhost%5D:port`.

        Raises:
            CallRefusedError: there were too many in the last minute; the attempt was not looked at.
        """
        now = self._monotonic()
        own = self._by_address[network_of(peer)]
        for key, pace in (("enrollments_per_minute_per_address", own), ("enrollments_per_minute", self._all)):
            wait = pace.wait_seconds(now)
            if wait:
                raise CallRefusedError(
                    Code.RESOURCE_EXHAUSTED,
                    f"too many attempts to enrol; limits.{key} is {getattr(self._limits, key)}",
                    retry_after_seconds=wait,
                )
        own.take(now)
        self._all.take(now)


def network_of(peer: str) -> str:
    """What of a peer's name stands for whoever is behind it."""
    found = _PEER.fullmatch(urllib.parse.unquote(peer))
    if not found:
        return peer
    try:
        address = ipaddress.ip_address(found.group(1).strip("[]").partition("%")[0])
    except ValueError:
        return peer
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return str(ipaddress.ip_network((address, IPV6_PREFIX), strict=False))


def _a_minute(attempts: int) -> Pace:
    return Pace(attempts / 60.0, attempts, -float("inf"))
