import os
import socket

import pytest

from shoal.node.errors import StartError
from shoal.node.ports import is_free, require_free
from support.ports import free_ports


def test_a_free_port_is_free():
    (port,) = free_ports(1)
    assert is_free("127.0.0.1", port)
    require_free("127.0.0.1:1", "127.0.0.1", port)


def test_a_taken_port_is_refused_with_who_has_it():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert not is_free("127.0.0.1", port)
        with pytest.raises(StartError, match=rf"{port}: the port is taken by process {os.getpid()}"):
            require_free("n", "127.0.0.1", port)


def test_an_address_of_another_machine_is_told_as_such():
    with pytest.raises(StartError, match=r"192\.0\.2\.1 is not an address of this machine"):
        require_free("n", "192.0.2.1", 8000)
