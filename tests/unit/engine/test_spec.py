from __future__ import annotations

from typing import Any

import pytest

from shoal.engine.spec import Tls
from unit.engine.fakes import engine_spec

TLS = Tls(authority="a", ca="/s/tls/a/ca.pem", certificate="/s/tls/a/node.pem", key="/s/tls/a/node.key")


@pytest.mark.parametrize("change", [{"port": 20001}, {"id": "m-1"}], ids=str)
def test_fingerprint_stays_the_same_when_only_the_place_changes(change: dict[str, Any]) -> None:
    assert engine_spec(**change).fingerprint() == engine_spec().fingerprint()


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "sim"},
        {"model_path": "/models/n"},
        {"served_name": "n"},
        {"args": ("--enforce-eager",)},
        {"env": {"A": "1"}},
        {"gpus": ()},
        {"gpus": (0,)},
        {"host": "10.0.0.1"},
        {"python": "/other/python"},
        {"tls": TLS},
    ],
    ids=str,
)
def test_fingerprint_changes_with_whatever_needs_a_restart(change: dict[str, Any]) -> None:
    assert engine_spec(**change).fingerprint() != engine_spec().fingerprint()


def test_fingerprint_changes_with_the_authority_of_its_certificates() -> None:
    other = Tls(authority="b", ca="/s/tls/b/ca.pem", certificate="/s/tls/b/node.pem", key="/s/tls/b/node.key")
    assert engine_spec(tls=TLS).fingerprint() != engine_spec(tls=other).fingerprint()


def test_fingerprint_does_not_depend_on_the_order_of_variables() -> None:
    one = engine_spec(env={"A": "1", "B": "2"}).fingerprint()
    assert one == engine_spec(env={"B": "2", "A": "1"}).fingerprint()


def test_parts_show_no_values() -> None:
    parts = engine_spec(args=("--api-key", "hunter2"), env={"HF_TOKEN": "hf_abc"}).parts()
    assert "hunter2" not in str(parts)
    assert "hf_abc" not in str(parts)
    assert {"args", "env", "gpus"} <= parts.keys()
