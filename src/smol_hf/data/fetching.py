"""HTTP for addresses that strangers wrote: only allowed hosts, only checked addresses, bounded in time and size.

The name of a host is resolved once, what it resolves to is checked, and the connection goes to that very address: a
name that means something else a moment later changes nothing. Each redirect is checked in the same way. Neither
cookies nor credentials are sent, and proxies of the environment are not used: a proxy would resolve the name again.
"""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO
from urllib.parse import urljoin

from smol_hf.data.addresses import AllowedHosts, FetchError, Target, parse_address

MAXIMUM_REDIRECTS = 5
CHUNK = 1 << 16
AGENT = {"User-Agent": "smol_hf", "Accept": "*/*", "Accept-Encoding": "identity", "Connection": "close"}
REDIRECTS = (301, 302, 303, 307, 308)


@dataclass
class Clock:
    """The seconds that remain: `total` since the clock was made, and at most `stall` for each wait."""

    total: float | None = None
    stall: float | None = None
    since: float = field(default_factory=time.monotonic)

    def left(self) -> float:
        """Raises TimeoutError when nothing is left."""
        remaining = [] if self.stall is None else [self.stall]
        if self.total is not None:
            remaining.append(self.since + self.total - time.monotonic())
        if min(remaining) <= 0:
            raise TimeoutError(f"it took longer than {self.total:g} seconds")
        return min(remaining)


class TimedReader(io.RawIOBase):
    def __init__(self, sock: socket.socket, clock: Clock):
        self.sock, self.clock = sock, clock

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        self.sock.settimeout(self.clock.left())
        return self.sock.recv_into(buffer)


class TimedSocket:
    """What http.client needs of a socket. A server that sends a byte now and then does not gain time by it."""

    def __init__(self, sock: socket.socket, clock: Clock):
        self.sock, self.clock = sock, clock

    def sendall(self, data) -> None:
        self.sock.settimeout(self.clock.left())
        self.sock.sendall(data)

    def makefile(self, mode: str) -> BinaryIO:
        return io.BufferedReader(TimedReader(self.sock, self.clock))

    def close(self) -> None:
        """http.client closes a connection before its answer is read: `PinnedConnection` closes the socket."""


class PinnedConnection(http.client.HTTPConnection):
    """A connection to one of the addresses that were checked."""

    def __init__(self, target: Target, addresses: list[str], clock: Clock):
        super().__init__(target.host, target.port)
        self.target, self.addresses, self.clock = target, addresses, clock
        self.default_port = target.port if target.is_default_port else None  # left out of the header Host
        self.opened: socket.socket | None = None

    def connect(self) -> None:
        for address in self.addresses:
            try:
                self.opened = socket.create_connection((address, self.target.port), timeout=self.clock.left())
                break
            except OSError:
                if address == self.addresses[-1]:
                    raise
        if self.target.scheme == "https":
            self.opened.settimeout(self.clock.left())
            self.opened = ssl.create_default_context().wrap_socket(self.opened, server_hostname=self.target.host)
        self.sock = TimedSocket(self.opened, self.clock)

    def hang_up(self) -> None:
        if self.opened is not None:
            self.opened.close()


@contextmanager
def ask(
    url: str, hosts: AllowedHosts, clock: Clock, *, headers: Mapping[str, str] | None = None, statuses=(200,)
) -> Iterator[http.client.HTTPResponse]:
    """The answer of an address, after up to five redirects, its body not read yet.

    Args:
        headers: sent beside our own.
        statuses: the answers that are of use.

    Raises:
        FetchError: for anything that is not allowed, not reachable, too slow, or another answer.
    """
    asked, connection = url, None
    for _ in range(MAXIMUM_REDIRECTS + 1):
        with failures():
            target = parse_address(asked)
            hosts.check(target)
            connection = PinnedConnection(target, hosts.resolve(target, clock.left()), clock)
        try:
            with failures():
                connection.request("GET", target.path, headers={**AGENT, **(headers or {})})
                answer = connection.getresponse()
            place = answer.getheader("Location")
            if answer.status in REDIRECTS and place is not None:
                with failures():
                    asked = urljoin(asked, place)
                continue
            if answer.status not in statuses:
                raise FetchError(f"the server answered {answer.status} {answer.reason}".rstrip())
            if answer.getheader("Content-Encoding", "identity").lower() != "identity":
                raise FetchError("the server sent it compressed, although it was asked not to")
            yield answer
            return
        finally:
            connection.hang_up()
    raise FetchError(f"it was redirected more than {MAXIMUM_REDIRECTS} times")


def chunks(answer: http.client.HTTPResponse, maximum: int | None = None) -> Iterator[bytes]:
    """The body, piece by piece.

    Raises:
        FetchError: when it has more than `maximum` bytes, is cut off, or takes too long.
    """
    expected, size = answer.length, 0
    if maximum is not None and expected is not None and expected > maximum:
        raise FetchError(f"it has {expected:,} bytes, more than {maximum:,}")
    while True:
        with failures():
            piece = answer.read(CHUNK)
        if not piece:
            break
        size += len(piece)
        if maximum is not None and size > maximum:
            raise FetchError(f"it has more than {maximum:,} bytes")
        yield piece
    if expected is not None and size != expected:
        raise FetchError(f"the connection broke after {size:,} of {expected:,} bytes")


@contextmanager
def failures() -> Iterator[None]:
    """What the network does wrong, as a FetchError."""
    try:
        yield
    except FetchError:
        raise
    except TimeoutError as error:
        raise FetchError(f"it took too long: {error}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise FetchError(f"it cannot be reached: {type(error).__name__}: {error}") from error
