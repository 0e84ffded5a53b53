"""A network that misbehaves: a TCP proxy on loopback that refuses, delays, or cuts connections in mid-body."""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from contextlib import suppress
from typing import Literal

from faults.ports import free_port

Fault = Literal["none", "refused", "slow", "cut"]
_RESET = struct.pack("ii", 1, 0)
_PIECE = 256


class Proxy:
    """Hands on bytes between whoever connects to `port` and a server; what it does wrong is switched while it runs."""

    def __init__(self, target: int, seed: int) -> None:
        """Listen; nothing is done wrong yet."""
        self.port, self._target, self._draw = free_port(), target, random.Random(seed)
        self.fault: Fault = "none"
        self.times = 0
        """Connections that were refused, slowed or cut."""
        self._open: set[socket.socket] = set()
        self._listen()

    def _listen(self) -> None:
        self._door = socket.create_server(("127.0.0.1", self.port), backlog=64)
        threading.Thread(target=self._accept, args=(self._door,), daemon=True).start()

    def _accept(self, door: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = door.accept()
                threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self._target))
        except OSError:
            client.close()
            return
        self._open |= {client, server}
        asking = threading.Thread(target=self._hand, args=(client, server, False), daemon=True)
        asking.start()
        self._hand(server, client, True)
        asking.join()
        for end in (client, server):
            self._open.discard(end)
            end.close()

    def _hand(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        """Hand bytes on until one side hangs up; answers may be slow, or break off after some bytes."""
        fault = self.fault if answers else "none"
        left = self._draw.randrange(4000) if fault == "cut" else None
        self.times += fault in ("slow", "cut")
        with suppress(OSError):
            while data := source.recv(_PIECE):
                if fault == "slow":
                    time.sleep(self._draw.uniform(0.0, 0.02))
                sink.sendall(data if left is None else data[:left])
                left = None if left is None else max(0, left - len(data))
                if left == 0:
                    self._cut(source, sink)
                    return
            sink.shutdown(socket.SHUT_WR)

    def _cut(self, *ends: socket.socket) -> None:
        """Wake who reads there; with both directions at their end, closing sends a reset instead of a goodbye."""
        for end in ends:
            with suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                end.shutdown(socket.SHUT_RD)

    def refuse(self, seconds: float) -> None:
        """Cut everything and listen no more for a while: connecting is refused."""
        self.close()
        self.times += 1
        time.sleep(seconds)
        self._listen()

    def close(self) -> None:
        """Stop listening and cut every connection."""
        with suppress(OSError):
            self._door.shutdown(socket.SHUT_RDWR)
        self._door.close()
        self.hang_up()

    def hang_up(self) -> None:
        """Cut every connection: those that follow meet the fault that is switched on now."""
        self._cut(*self._open.copy())
