import json
from pathlib import Path

import pytest
from benchmarks.chaos.peers import PEERS, Peer, haproxy, litellm
from benchmarks.gateway.peers import Site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "program", tmp_path, 9000, 9001, [1001, 1002, 1003])


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_every_peer_is_told_its_port_and_all_engines(peer: Peer, site: Site) -> None:
    words = " ".join(peer.command(site).arguments)
    written = "".join(file.read_text() for file in site.directory.iterdir())
    for port in (site.port, *site.engines):
        assert str(port) in words + written


def test_what_haproxy_has_against_failures_is_on(site: Site) -> None:
    haproxy(site)
    text = (site.directory / "haproxy.cfg").read_text()
    assert "option httpchk" in text
    assert "retry-on" in text
    assert text.count(" e1 127.0.0.1:1002") == 1


def test_what_litellm_has_against_failures_is_on(site: Site) -> None:
    litellm(site)
    settings = json.loads((site.directory / "litellm.yaml").read_text())
    assert settings["router_settings"]["num_retries"] > 0
    assert len(settings["model_list"]) == 3
