"""Which addresses may be asked: a list of allowed hosts, and a check of what their names resolve to."""

from __future__ import annotations

import ipaddress
import queue
import re
import socket
import threading
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

DEFAULT_PORTS = {"http": 80, "https": 443}
MAXIMUM_LENGTH = 8192
SAFE = "/%:@!$&'()*+,;=~-._?[]"  # stays as it is in the path and the query of an address
ENTRY = re.compile(r"(\*|(?:\*\.)?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[[0-9a-f:]+\])(?::(\d{1,5}))?")
# Beside what `ipaddress` calls private: what clouds' machines ask for their secrets, on addresses that look public.
METADATA = (ipaddress.ip_network("168.63.129.16/32"), ipaddress.ip_network("192.0.0.0/24"))
NAT64 = ipaddress.ip_network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class FetchError(ValueError):
    """Why an address is not fetched, or what went wrong on the way."""


@dataclass(frozen=True)
class Target:
    """An address, taken apart: `host` in lower case as DNS knows it, `path` with the query, as it is sent."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def is_default_port(self) -> bool:
        return self.port == DEFAULT_PORTS[self.scheme]


def parse_address(url: str) -> Target:
    """Raises FetchError for anything that is not a plain http or https address, names and passwords included."""
    if len(url) > MAXIMUM_LENGTH:
        raise FetchError(f"the address has {len(url)} characters, more than {MAXIMUM_LENGTH}")
    if "\\" in url or any(character < " " or character == "\x7f" for character in url):
        raise FetchError("the address holds a backslash or a control character")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise FetchError(f"it is no address: {error}") from error
    if parts.scheme not in DEFAULT_PORTS:
        raise FetchError(f"{parts.scheme or 'no scheme'} is not http or https")
    if parts.username is not None or parts.password is not None:
        raise FetchError("the address holds a name or a password")
    host = (parts.hostname or "").rstrip(".")
    try:
        host = host if ":" in host else host.encode("idna").decode("ascii").lower()
    except UnicodeError as error:
        raise FetchError(f"{host!r} is no name of a host: {error}") from error
    try:
        path = quote(parts.path or "/", safe=SAFE) + (f"?{quote(parts.query, safe=SAFE)}" if parts.query else "")
    except UnicodeError as error:
        raise FetchError("the address holds half of a character") from error
    if not host or "%" in host:
        raise FetchError("the address names no host")
    return Target(parts.scheme, host, DEFAULT_PORTS[parts.scheme] if port is None else port, path)


@dataclass(frozen=True)
class AllowedHosts:
    """The hosts that may be asked.

    An entry is a name (`images.example.org`), all names below one (`*.example.org`), or any (`*`), on the usual port
    or the one that it names. Whatever a name resolves to must be public. A machine of one's own network is asked only
    where the entry spells out its address and port, as `127.0.0.1:8000`.

    Raises:
        ValueError: for an entry that is none of these.
    """

    entries: tuple[str, ...] = ()

    def __post_init__(self):
        for entry in self.entries:
            if not isinstance(entry, str) or not ENTRY.fullmatch(entry.lower()):
                raise ValueError(
                    f"{entry!r} is no host: write a name such as images.example.org, *.example.org for those below "
                    "it, or an address with its port such as 127.0.0.1:8000"
                )

    def check(self, target: Target) -> None:
        """Raises FetchError when no entry allows the host and port of the target."""
        for entry in self.entries:
            host, port = ENTRY.fullmatch(entry.lower()).groups()
            host = host.strip("[]")
            right_port = target.port == int(port) if port else target.is_default_port
            below = host.startswith("*.") and target.host.endswith(host[1:])
            if right_port and (host in ("*", target.host) or below):
                return
        port = "" if target.is_default_port else f":{target.port}"
        raise FetchError(f"the host {target.host}{port} is not among the allowed ones")

    def spells_out(self, target: Target) -> bool:
        """Whether an entry is the very address and port of the target."""
        try:
            address = ipaddress.ip_address(target.host)
        except ValueError:
            return False
        spelled = f"[{address}]:{target.port}" if address.version == 6 else f"{address}:{target.port}"
        return spelled in [entry.lower() for entry in self.entries]

    def resolve(self, target: Target, seconds: float) -> list[str]:
        """The addresses of the target, each of them checked.

        Raises:
            FetchError: when there is none, or one of them may not be asked. TimeoutError: when it takes longer.
        """
        found = look_up(target.host, target.port, seconds)
        for address in found:
            own_network = self.spells_out(target) and (address.is_loopback or address.is_private)
            if not is_public(address) and not (own_network and not is_nowhere(address)):
                raise FetchError(f"{target.host} is {address}, which is not a public address")
        return [str(address) for address in found]


def is_nowhere(address: Address) -> bool:
    """What no machine has for its own: link-local (and so the metadata of clouds), multicast, `0.0.0.0`."""
    reserved = address.is_reserved and not address.is_loopback
    return address.is_link_local or address.is_multicast or address.is_unspecified or reserved


def is_public(address: Address) -> bool:
    """Whether the address is of a machine in the open internet. One that stands for another counts as that one."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address in NAT64:
            return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        if address.sixtofour is not None or address.teredo is not None or address.is_site_local:
            return False
    return address.is_global and not is_nowhere(address) and not any(address in network for network in METADATA)


def look_up(host: str, port: int, seconds: float) -> list[Address]:
    """What the system's resolver says, which has no time limit of its own."""
    answers: queue.SimpleQueue = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"the name {host} was not resolved in time") from None
    if isinstance(answer, (OSError, UnicodeError)):
        raise FetchError(f"the host {host} is not known: {answer}") from answer
    return [ipaddress.ip_address(entry[4][0].partition("%")[0]) for entry in answer]
