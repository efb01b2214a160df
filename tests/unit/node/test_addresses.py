from shoal.node.addresses import base_url, reachable


def test_listening_on_all_addresses_is_reached_on_this_machine():
    assert [reachable("0.0.0.0"), reachable("::"), reachable("10.0.0.1")] == ["127.0.0.1", "::1", "10.0.0.1"]


def test_ipv6_addresses_get_brackets():
    assert base_url("fd00::7", 8000) == "http://[fd00::7]:8000"
    assert base_url("::", 1) == "http://[::1]:1"
    assert base_url("node1.example.com", 8000) == "http://node1.example.com:8000"
    assert base_url("::1", 8000, tls=True) == "https://[::1]:8000"
