import os
import socket
from collections.abc import Iterator

import pytest

from lib.ports import taken


@pytest.fixture(params=[socket.SOCK_STREAM, socket.SOCK_DGRAM])
def holder(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, request.param) as holder:
        holder.bind(("127.0.0.1", 0))
        if request.param == socket.SOCK_STREAM:
            holder.listen()
        yield holder


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
