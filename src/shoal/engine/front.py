"""Mutual TLS in front of a program that speaks none: ``python -m shoal.engine.front --port P ... -- PROGRAM``.

Engine ports demand the cluster's client certificate wherever nodes are on several machines (docs/security.md). vLLM
asks for it; a program that is an engine by `engine: command` need not. It listens on a port of the loopback interface,
and this process, which started it, takes connections on the engine's own port, shakes hands, and passes bytes on both
ways. Its end is the program's end, with the same status, and the other way round.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Sequence

import uvloop

from shoal.config.engine_command import filled
from shoal.engine.ports import Reservation, hold

_LOOPBACK = "127.0.0.1"
_CHUNK = 64 * 1024


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program behind TLS until it ends; return its exit status."""
    parser = argparse.ArgumentParser(description="Mutual TLS in front of a program.")
    for name in ("--host", "--port", "--ca", "--certificate", "--key"):
        parser.add_argument(name, required=True)
    parser.add_argument("program", nargs="+")
    options = parser.parse_args(arguments)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(options.ca)
    context.load_cert_chain(options.certificate, options.key)
    with _reserve() as inner:
        words = filled(tuple(options.program), {"host": inner.host, "port": str(inner.port)})
        return uvloop.run(_serve(words, inner.port, options.host, int(options.port), context))


def _reserve() -> Reservation:
    """Return a free port of the loopback interface, held for the program."""
    while True:
        with socket.socket() as found:
            found.bind((_LOOPBACK, 0))
            port = found.getsockname()[1]
        if reservation := hold(_LOOPBACK, port):
            return reservation


async def _serve(words: list[str], inner: int, host: str, port: int, context: ssl.SSLContext) -> int:
    try:
        program = await asyncio.create_subprocess_exec(*words, stdin=subprocess.DEVNULL)
    except OSError as error:
        print(f"shoal: {words[0]} cannot be started: {error.strerror}", file=sys.stderr, flush=True)
        return 127
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _pass_on, program, number)
    server = await asyncio.start_server(
        lambda reader, writer: _connection(reader, writer, inner), host, port, ssl=context, limit=_CHUNK
    )
    async with server:
        status = await program.wait()
    return status if status >= 0 else 128 - status


def _pass_on(program: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        program.send_signal(number)


async def _connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, inner: int) -> None:
    """Pass on what comes in a connection, until one side ends it."""
    with contextlib.suppress(
        OSError
    ):  # the program does not listen yet: the client sees an end of the connection
        to_program = await asyncio.open_connection(_LOOPBACK, inner, limit=_CHUNK)
        ways = (
            asyncio.create_task(_pump(reader, to_program[1])),
            asyncio.create_task(_pump(to_program[0], writer)),
        )
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        to_program[1].close()
    writer.close()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, ssl.SSLError):
        while data := await source.read(_CHUNK):
            sink.write(data)
            await sink.drain()


if __name__ == "__main__":
    sys.exit(main())
