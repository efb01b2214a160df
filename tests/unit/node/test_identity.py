import pytest

from shoal.config import Config, Node
from shoal.node.errors import StartError
from shoal.node.identity import find_self, listen_address, local_nodes
from support.configs import config

NAMES = {"a.example": ["10.0.0.1"], "b.example": ["10.0.0.2"], "127.0.0.1": ["127.0.0.1"]}


def resolver(host: str) -> list[str]:
    return NAMES.get(host, [])


def cluster(*hosts: str) -> Config:
    nodes = ", ".join(f"{{host: {h}, port: {8000 + i}}}" for i, h in enumerate(hosts))
    return config(f"nodes: [{nodes}]\nmodel: {{path: m}}\ncluster: {{secret: 0123456789abcdef}}")


def test_the_nodes_of_this_machine_are_found_by_its_addresses():
    c = cluster("a.example", "b.example", "gone.example")
    assert [n.host for n in local_nodes(c, ["10.0.0.2"], resolver)] == ["b.example"]


def test_a_node_that_is_named_is_taken():
    c = cluster("127.0.0.1", "127.0.0.1")
    assert find_self(c, "127.0.0.1:8001", lambda _: False).port == 8001


def test_a_name_that_is_not_in_the_file_is_refused_with_those_that_are():
    with pytest.raises(StartError, match=r"127.0.0.1:8000, 127.0.0.1:8001"):
        find_self(cluster("127.0.0.1", "127.0.0.1"), "127.0.0.1:9", lambda _: True)


def test_one_local_node_is_this_one():
    assert find_self(cluster("127.0.0.1", "192.0.2.1"), None, lambda _: True).port == 8000


def test_of_several_local_nodes_the_one_with_a_free_port_is_this_one():
    def only_second(node: Node) -> bool:
        return node.port == 8001

    assert find_self(cluster("127.0.0.1", "127.0.0.1"), None, only_second).port == 8001


def test_several_possible_nodes_are_refused_with_what_to_do():
    with pytest.raises(StartError, match=r"--node 127.0.0.1:8000.*--local"):
        find_self(cluster("127.0.0.1", "127.0.0.1"), None, lambda _: True)
    with pytest.raises(StartError, match="do they run already"):
        find_self(cluster("127.0.0.1", "127.0.0.1"), None, lambda _: False)


def test_a_machine_that_is_not_in_the_file_is_told_its_own_addresses():
    with pytest.raises(StartError, match=r"none of the nodes.*--node HOST:PORT"):
        find_self(cluster("192.0.2.1"), None, lambda _: True)


def test_listen_address():
    assert listen_address(cluster("127.0.0.1").nodes[0], resolver) == "127.0.0.1"
    assert (
        listen_address(cluster("a.example").nodes[0], resolver) == "0.0.0.0"
    )  # not an address of this machine
    bound = config("nodes: [{host: 127.0.0.1, bind: 0.0.0.0}]\nmodel: {path: m}").nodes[0]
    assert listen_address(bound, resolver) == "0.0.0.0"
