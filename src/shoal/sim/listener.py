"""The listening side: a uvicorn server whose port can be closed and opened again, and that ends with status 0."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator

import uvicorn

from shoal.sim.call import Receive, Scope, Send
from shoal.sim.connection import ResettingProtocol, SimProtocol

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class CannotListenError(Exception):
    """The port is taken or the address is not this machine's; the message says which and why."""

    def __init__(self, address: tuple[str, int], error: OSError) -> None:
        super().__init__(f"cannot listen on {address[0]}:{address[1]}: {error.strerror}")


def bind(host: str, port: int) -> socket.socket:
    """Take a port without listening yet, as vLLM does before it loads.

    Raises:
        CannotListenError: see there.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise CannotListenError((host, port), error) from error
    return sock


async def _no_app(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError("the listener was started without its application")


class Listener(uvicorn.Server):
    """uvicorn's server with a say in whether it listens.

    Args:
        sock: bound, not listening.
        shutdown_timeout: seconds open requests get to finish when the server is told to stop.
        ssl_keyfile: as uvicorn's, like the other `ssl_` arguments; without a certificate there is no TLS.
        ssl_certfile: see `ssl_keyfile`.
        ssl_ca_certs: see `ssl_keyfile`.
        ssl_cert_reqs: see `ssl_keyfile`.
    """

    def __init__(
        self,
        sock: socket.socket,
        shutdown_timeout: float,
        *,
        ssl_keyfile: str | None = None,
        ssl_certfile: str | None = None,
        ssl_ca_certs: str | None = None,
        ssl_cert_reqs: int = 0,
    ) -> None:
        config = uvicorn.Config(
            _no_app,
            http=SimProtocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            ssl_keyfile=ssl_keyfile,
            ssl_certfile=ssl_certfile,
            ssl_ca_certs=ssl_ca_certs,
            ssl_cert_reqs=ssl_cert_reqs,
        )
        super().__init__(config)
        self.address: tuple[str, int] = sock.getsockname()[:2]
        self._sock = sock
        self._shutdown_timeout = shutdown_timeout
        self._refusing = ""

    async def run_app(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        """Serve an ASGI application until a signal says stop."""
        self.config.app = app
        await self.serve(sockets=[self._sock])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, see uvicorn; a refusal that was ordered before holds from the start.

        Raises:
            CannotListenError: another process began to listen there since the port was bound.
        """
        try:
            await super().startup(sockets)
        except OSError as error:
            raise CannotListenError(self.address, error) from error
        print("INFO:     Application startup complete.", flush=True)
        if self._refusing:
            how, self._refusing = self._refusing, ""
            self.refuse(how)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop in good order on SIGTERM and SIGINT, at once on a second one; unlike uvicorn, exit with status 0."""
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._stop)
        try:
            yield
        finally:
            for number in _SIGNALS:
                loop.remove_signal_handler(number)

    def _stop(self) -> None:
        if self.should_exit:
            self._drop_connections()
            return
        self.should_exit = True
        asyncio.get_running_loop().call_later(self._shutdown_timeout, self._drop_connections)

    def _drop_connections(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    def refuse(self, how: str) -> None:
        """Take no more connections: ``close`` the port, or ``reset`` whatever comes in."""
        if not self.started:
            self._refusing = how
            return
        self._close()
        if how == "reset":
            task = asyncio.get_running_loop().create_task(self._open(resetting=True))
            self._refusing = how
            task.add_done_callback(lambda _: None)
        else:
            self._refusing = how

    async def accept(self) -> None:
        """Take connections again."""
        if self._refusing and self.started:
            self._close()
            await self._open(resetting=False)
        self._refusing = ""

    def _close(self) -> None:
        for server in self.servers:
            server.close()
        self.servers = []

    async def _open(self, *, resetting: bool) -> None:
        loop = asyncio.get_running_loop()
        config = self.config

        def protocol() -> asyncio.Protocol:
            if resetting:
                return ResettingProtocol()
            made = config.http_protocol_class(  # type: ignore[call-arg]
                config=config, server_state=self.server_state, app_state=self.lifespan.state
            )
            assert isinstance(made, asyncio.Protocol)
            return made

        sock = bind(*self.address)
        self.servers = [await loop.create_server(protocol, sock=sock, ssl=config.ssl, backlog=config.backlog)]
