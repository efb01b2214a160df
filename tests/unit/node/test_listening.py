import socket

import pytest

from shoal.node.errors import StartError
from shoal.node.listening import listening_sockets


def test_all_sockets_listen_on_the_same_port():
    first = listening_sockets("127.0.0.1", 0, 1)[0]
    port = first.getsockname()[1]
    others = listening_sockets("127.0.0.1", port, 2)
    assert {s.getsockname() for s in (first, *others)} == {("127.0.0.1", port)}
    for sock in (first, *others):
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
        sock.close()


def test_an_address_that_cannot_be_listened_on_is_told():
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(StartError, match="cannot listen on"):
        listening_sockets("127.0.0.1", taken.getsockname()[1], 1)
