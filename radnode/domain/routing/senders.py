"""Who may push, and the keys of senders in `routing.yaml`."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection
from dataclasses import dataclass

import yaml

from radnode.domain.routing import values
from radnode.domain.routing.completeness import Complete, read_complete
from radnode.domain.routing.matching import AnyOf
from radnode.domain.routing.nodes import items_of, line_of, quoted, text_of
from radnode.domain.routing.reader import NO_NODES, Reader

KEYS = ("aet", "host", "complete")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolver = Callable[[str], Collection[str]]
"""Host name -> its IP addresses; empty where it has none."""


@dataclass(frozen=True)
class Sender:
    """Who may push: an AE title (with wildcards), a host (IP address, network or name), or both; empty: any.

    `complete`: when what it sends is complete, where that is not as for all others.
    """

    aet: str = ""
    host: str = ""
    complete: Complete | None = None

    def allows(self, calling_aet: str, peer: Address, resolve: Resolver) -> bool:
        return (not self.aet or AnyOf((self.aet,)).accepts(calling_aet)) and self._is_host(peer, resolve)

    def _is_host(self, peer: Address, resolve: Resolver) -> bool:
        if not self.host:
            return True
        try:
            return peer in ipaddress.ip_network(self.host)
        except ValueError:
            return any(_address(each) == peer for each in resolve(self.host))


@dataclass(frozen=True)
class Senders:
    """`listed` None: everybody. Empty, as without the section in `routing.yaml`: this machine only."""

    listed: tuple[Sender, ...] | None = ()

    @property
    def any(self) -> bool:
        return self.listed is None

    def allows(
        self, calling_aet: str, peer_ip: str, *, resolve: Resolver = lambda host: (), local_ip: str = ""
    ) -> bool:
        """Whether an association may be opened.

        Args:
            resolve: looks up the host names among the senders; by default none is known.
            local_ip: the address the peer connected to: a peer with that same address is this machine.
        """
        if self.listed is None:
            return True
        peer = _address(peer_ip)
        if peer is None:
            return False
        if not self.listed:
            return peer.is_loopback or peer == _address(local_ip)
        return any(each.allows(calling_aet, peer, resolve) for each in self.listed)

    def complete_of(self, calling_aet: str, peer_ip: str, resolve: Resolver) -> Complete | None:
        """That of the first listed sender who may have sent, and has one."""
        peer = _address(peer_ip)
        with_one = (each for each in self.listed or () if each.complete and peer)
        return next((each.complete for each in with_one if peer and each.allows(calling_aet, peer, resolve)), None)


def read_senders(reader: Reader, node: yaml.Node | None, complete: Complete) -> Senders:
    """`complete`: that of the file, for what a sender with one of its own does not say."""
    if node is None:
        return Senders()
    if isinstance(node, yaml.ScalarNode):
        if reader.read(node, text_of, "any") != "any":
            reader.problem(line_of(node), f"{quoted(node.value)} is neither a list of senders nor `any`")
        return Senders(listed=None)
    return Senders(tuple(_sender(reader, each, complete) for each in reader.read(node, items_of, NO_NODES)))


def _sender(reader: Reader, node: yaml.Node, complete: Complete) -> Sender:
    fields = reader.fields(node, "a sender", KEYS)
    if not fields.keys() & {"aet", "host"}:
        reader.problem(line_of(node), "a sender has an aet, a host, or both; `senders: any` admits everybody")
    host = reader.read(fields.get("host"), values.host_or_network, "")
    own = read_complete(reader, fields["complete"], complete) if "complete" in fields else None
    return Sender(reader.read(fields.get("aet"), values.aet, ""), host, own)


def _address(text: str) -> Address | None:
    """An IP address as it is meant: without zone, IPv4 also where it comes wrapped in IPv6."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, ipaddress.IPv6Address) else address
