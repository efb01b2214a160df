"""A way to an engine that breaks: passes bytes on and ends the connection after so many events of a stream."""

import contextlib
import socket
import threading
from types import TracebackType


class Cutter:
    """Passes connections on to 127.0.0.1:`engine`, in threads, while the `with` block runs.

    Attributes:
        port: where it listens.
        after: events after which a stream is cut; 0 for never.
        cuts: streams cut so far.
    """

    def __init__(self, engine: int) -> None:
        self.after = 0
        self.cuts = 0
        self._engine = engine
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> "Cutter":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                engine = socket.create_connection(("127.0.0.1", self._engine))
                threading.Thread(target=self._pass_on, args=(client, engine), daemon=True).start()
                threading.Thread(target=self._answer, args=(engine, client), daemon=True).start()

    @staticmethod
    def _pass_on(client: socket.socket, engine: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                engine.sendall(data)
            engine.shutdown(socket.SHUT_WR)

    def _answer(self, engine: socket.socket, client: socket.socket) -> None:
        events = 0
        with contextlib.suppress(OSError):
            while data := engine.recv(65536):
                if data.startswith(b"HTTP/"):
                    events = 0  # another answer on the same connection
                allowed = self.after - events
                events += data.count(b"data: {")
                if not self.after or events <= self.after:
                    client.sendall(data)
                    continue
                kept = b"data: {".join(data.split(b"data: {")[: allowed + 1])
                client.sendall(kept)
                self.cuts += 1
                break
        for side in (client, engine):  # wakes the other thread, which closing would not
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)
            side.close()
