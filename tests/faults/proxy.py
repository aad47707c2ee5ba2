"""A TCP proxy between the job and a server: it can stop the world at an exact moment, and break connections in every
way that networks do.

A `Trap` springs at the first bytes that match its patterns, in order, on one connection: `before` they reach the server
or `after` the server has answered and before the answer reaches the client.
"""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

Then = Literal["freeze", "reset", "silence", "vanish"]

_CHUNK = 65_536
_KEPT = 256  # bytes in which a pattern is found that two chunks hold together
_SO_ATTACH_FILTER = 26


@dataclass(eq=False)
class Trap:
    """What to wait for, and what to do then.

    `patterns` are looked for one after another in what clients send on one connection. `then`: `freeze` stops all
    traffic of the proxy until `resume` or `release`; `reset` resets the connection on both sides; `silence` moves
    nothing on it any more, though the kernel still acknowledges what arrives; `vanish` acknowledges nothing either, as
    when the machine on the other side is gone. `times` connections meet it.
    """

    patterns: tuple[bytes, ...]
    when: Literal["before", "after"]
    then: Then = "freeze"
    times: int = 1
    sprung: threading.Event = field(default_factory=threading.Event)


@dataclass(eq=False)
class _Link:
    """One connection of a client, with the one to the server that was made for it."""

    client: socket.socket
    server: socket.socket
    seen: bytes = b""
    stage: int = 0
    answer: Trap | None = None  # springs at the server's next bytes
    silent: bool = False

    def close(self) -> None:
        for end in (self.client, self.server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def reset(self) -> None:
        for end in (self.client, self.server):
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            # A descriptor that another thread reads from is only closed when that thread lets go of it.
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RD)
            end.close()


class Proxy:
    """Listens on a port of 127.0.0.1 and connects each client to `host`:`port`.

    `latency` is in seconds for every chunk; with `drip` the server's bytes reach the client so many at a time, a pause
    in seconds after each. `refusing` turns new clients away.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self.latency = 0.0
        self.drip: tuple[int, float] | None = None
        self.refusing = False
        self.traps: list[Trap] = []
        self._flowing = threading.Event()
        self._flowing.set()
        self._lock = threading.Lock()
        self._links: set[_Link] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def connections(self) -> int:
        """Clients that are connected."""
        with self._lock:
            return len(self._links)

    def trap(self, *patterns: bytes, when: Literal["before", "after"], then: Then = "freeze", times: int = 1) -> Trap:
        made = Trap(patterns, when, then, times)
        self.traps.append(made)
        return made

    def leads_to(self, host: str, port: int) -> None:
        """New clients get there."""
        self._target = host, port

    def resume(self) -> None:
        """Lets the traffic flow on after a trap has frozen it."""
        self._flowing.set()

    def release(self) -> None:
        """Takes all traps away, closes what was connected, and lets new traffic flow."""
        self.traps = []
        self.cut()
        self._flowing.set()

    def cut(self, *, reset: bool = False) -> None:
        """Ends every connection."""
        with self._lock:
            links = list(self._links)
        for link in links:
            if reset:
                link.reset()
            else:
                link.close()

    def cut_off(self) -> None:
        """Whoever is connected to the server hears nothing of the other side any more, and the server nothing of them:
        no end, no acknowledgement."""
        with self._lock:
            links = list(self._links)
        for link in links:
            link.silent = True
            vanish(link.client)
            vanish(link.server)

    def close(self) -> None:
        self.release()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.refusing:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()
                continue
            try:
                server = socket.create_connection(self._target)
            except OSError:
                client.close()
                continue
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            link = _Link(client, server)
            with self._lock:
                self._links.add(link)
            threading.Thread(target=self._up, args=(link,), daemon=True).start()
            threading.Thread(target=self._down, args=(link,), daemon=True).start()

    def _up(self, link: _Link) -> None:
        self._pump(link, link.client, link.server, self._sent)

    def _down(self, link: _Link) -> None:
        self._pump(link, link.server, link.client, self._answered)

    def _pump(
        self, link: _Link, source: socket.socket, target: socket.socket, passes: Callable[[_Link, bytes], bool]
    ) -> None:
        try:
            while data := source.recv(_CHUNK):
                if self.latency:
                    time.sleep(self.latency)
                self._flowing.wait()
                if not passes(link, data):
                    continue
                self._hand_on(target, data, to_client=target is link.client)
        except (OSError, ValueError):
            pass
        finally:
            link.close()
            with self._lock:
                gone = link in self._links
                self._links.discard(link)
            if not gone:  # the other direction has ended before
                link.client.close()
                link.server.close()

    def _hand_on(self, target: socket.socket, data: bytes, *, to_client: bool) -> None:
        if not to_client or self.drip is None:
            target.sendall(data)
            return
        size, pause = self.drip
        for start in range(0, len(data), size):
            target.sendall(data[start : start + size])
            time.sleep(pause)

    def _sent(self, link: _Link, data: bytes) -> bool:
        """Whether what a client sent goes on to the server."""
        if link.silent:
            return False
        link.seen = link.seen[-_KEPT:] + data
        for trap in self.traps:
            if trap.times <= 0:
                continue
            while link.stage < len(trap.patterns) and trap.patterns[link.stage] in link.seen:
                link.seen = link.seen.partition(trap.patterns[link.stage])[2]
                link.stage += 1
            if link.stage == len(trap.patterns):
                trap.times -= 1
                link.stage = 0
                if trap.when == "after":
                    link.answer = trap
                    continue
                return self._spring(trap, link)
        return True

    def _answered(self, link: _Link, data: bytes) -> bool:
        """Whether what the server answered goes on to the client."""
        if link.answer is not None:
            trap, link.answer = link.answer, None
            return self._spring(trap, link)
        return not link.silent

    def _spring(self, trap: Trap, link: _Link) -> bool:
        if trap.then == "freeze":
            self._flowing.clear()
            trap.sprung.set()
            self._flowing.wait()
            return True  # where it was released, the other end is closed by now
        if trap.then == "reset":
            link.reset()
        else:
            link.silent = True
            if trap.then == "vanish":
                vanish(link.client)
                vanish(link.server)
        trap.sprung.set()
        return False


def vanish(end: socket.socket) -> None:
    """Makes the kernel drop what arrives at a socket before it is acknowledged: to its peer, the machine is gone."""
    drop_everything = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # BPF: return 0 bytes
    program = struct.pack("HL", 1, ctypes.addressof(drop_everything))
    end.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
