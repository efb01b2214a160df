import os
import socket
from collections.abc import Iterator

import pytest

from lib.ports import taken
from shoal.node.ports import is_free


@pytest.fixture(params=[socket.SOCK_STREAM, socket.SOCK_DGRAM])
def holder(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    for _ in range(20):
        with socket.socket(socket.AF_INET, request.param) as holder:
            holder.bind(("127.0.0.1", 0))
            if request.param == socket.SOCK_STREAM:
                holder.listen()
            elif not is_free(*holder.getsockname()):
                continue  # somebody's TCP connection has that number
            yield holder
            return
    pytest.fail("no port is free for both TCP and UDP")


def test_a_connection_from_the_port_is_told_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        with client, server.accept()[0]:
            reason = taken("127.0.0.1", client.getsockname()[1])
    assert reason is not None
    assert f"process {os.getpid()}" in reason


def test_a_port_in_use_is_told_with_its_holder(holder: socket.socket) -> None:
    port = holder.getsockname()[1]
    reason = taken("127.0.0.1", port)
    assert reason is not None
    assert f"process {os.getpid()}" in reason
    holder.close()
    assert taken("127.0.0.1", port) is None


def test_an_address_of_another_machine_is_told() -> None:
    reason = taken("192.0.2.1", 8000)
    assert reason is not None
    assert reason.startswith("cannot be used")
