from __future__ import annotations

import contextlib
import socket
import subprocess
import sys

import pytest

from shoal.engine.ports import NoFreePortError, hold, reserve
from support.ports import free_ports

HOLD = """
import sys
from shoal.engine.ports import hold
print("held" if (r := hold("127.0.0.1", int(sys.argv[1]))) else "taken", flush=True)
sys.stdin.read()
"""


def server(port: int) -> socket.socket:
    """Bind and listen as vLLM, uvicorn and asyncio do."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", port))
    sock.listen()
    return sock


def test_the_same_key_gets_the_same_port_and_others_differ() -> None:
    with reserve("127.0.0.1", 18000, 18999, "a/m-0") as one:
        first = one.port
    with reserve("127.0.0.1", 18000, 18999, "a/m-0") as again:
        assert again.port == first
        with reserve("127.0.0.1", 18000, 18999, "a/m-0") as other:
            assert other.port != first


def test_a_server_listens_on_the_reserved_port_and_listens_again_after_it_was_used() -> None:
    port = free_ports(1)[0]
    with contextlib.ExitStack() as stack:
        reservation = hold("127.0.0.1", port)
        assert reservation is not None
        stack.enter_context(reservation)
        with server(port) as first:
            client = socket.create_connection(("127.0.0.1", port))
            accepted, _ = first.accept()
            accepted.close()  # the server's end closes first: TIME_WAIT is on our port
            client.close()
        with server(port) as second:
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            second.accept()[0].close()


def test_a_server_that_sets_the_other_option_for_reuse_listens_too() -> None:
    port = free_ports(1)[0]
    reservation = hold("127.0.0.1", port)
    assert reservation is not None
    with reservation, socket.socket() as sock:  # as llama.cpp does
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(("127.0.0.1", port))
        sock.listen()
        assert hold("127.0.0.1", port) is None


def test_two_processes_never_hold_the_same_port() -> None:
    port = free_ports(1)[0]
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        assert hold("127.0.0.1", port) is None
        other.kill()
        other.wait()
    reservation = hold("127.0.0.1", port)
    assert reservation is not None  # a reservation ends with its process, however that ends
    reservation.release()
    reservation.release()


def test_a_port_in_use_is_passed_over() -> None:
    port = free_ports(1)[0]
    with server(port), pytest.raises(NoFreePortError, match=rf"all 1 from {port} to {port} are taken"):
        reserve("127.0.0.1", port, port, "a/m-0")


def test_an_address_of_another_machine_is_an_error() -> None:
    with pytest.raises(OSError, match="assign requested address"):
        hold("192.0.2.1", 18000)
    with pytest.raises(OSError, match=r"not known|not supported|No address"):
        hold("node1.example.com", 18000)


def test_ipv6_ports_are_reserved_too() -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    port = free_ports(1)[0]
    try:
        reservation = hold("::1", port)
    except OSError:
        pytest.skip("no IPv6 loopback here")
    assert reservation is not None
    with reservation:
        assert hold("::1", port) is None
