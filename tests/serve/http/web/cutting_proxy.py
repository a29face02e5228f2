"""A connection that breaks: a TCP proxy on loopback that a test can cut, also in the middle of an upload."""

import contextlib
import selectors
import socket
import threading
from dataclasses import dataclass, field

_BLOCK = 64 * 1024


@dataclass
class CuttingProxy:
    """Passes bytes between a browser and a service until it is told, or has counted, to stop."""

    target: tuple[str, int]
    sent_bytes: int = 0
    """From browser to service, since the start."""
    cut_after: float = float("inf")
    """Of ``sent_bytes``: then every connection breaks, and none is taken until :meth:`mend`."""
    is_cut: bool = False
    _pairs: set[tuple[socket.socket, socket.socket]] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> "CuttingProxy":
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        # A thread that waits in accept() is woken only by this.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._break()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def mend(self) -> None:
        """Let connections through again, for good."""
        self.cut_after = float("inf")
        self.is_cut = False

    def _accept(self) -> None:
        while True:
            try:
                browser, _ = self._listener.accept()
            except OSError:
                return
            if self.is_cut:
                browser.close()
                continue
            service = socket.create_connection(self.target)
            pair = (browser, service)
            with self._lock:
                self._pairs.add(pair)
            threading.Thread(target=self._pass_on, args=(pair,), daemon=True).start()

    def _pass_on(self, pair: tuple[socket.socket, socket.socket]) -> None:
        browser, service = pair
        other = {browser: service, service: browser}
        with selectors.DefaultSelector() as selector, contextlib.suppress(OSError, ValueError):
            for end in pair:
                selector.register(end, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    end = key.fileobj
                    assert isinstance(end, socket.socket)
                    data = end.recv(_BLOCK)
                    if not data:
                        raise OSError("closed")
                    if end is browser:
                        self._count(len(data))
                    other[end].sendall(data)
        with self._lock:
            self._pairs.discard(pair)
        for end in pair:
            end.close()

    def _count(self, num_bytes: int) -> None:
        self.sent_bytes += num_bytes
        if self.sent_bytes > self.cut_after:
            self.is_cut = True
            self._break()
            raise OSError("cut")

    def _break(self) -> None:
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
