from __future__ import annotations

from collections.abc import Callable

import pytest

Told = Callable[..., list[str]]
MINIMAL = "nodes: [{host: 127.0.0.1}]\nmodel: {path: a/b}\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "gateway: {keepalive: '5'}",
            '3:22: `gateway.keepalive` is "5"; it must be a whole number from 0 to 65536; remove the quotes',
        ),
        (
            "gateway: {keepalive: 5.5}",
            "3:22: `gateway.keepalive` is 5.5; it must be a whole number from 0 to 65536",
        ),
        (
            "gateway: {keepalive: true}",
            "3:22: `gateway.keepalive` is true; it must be a whole number from 0 to 65536",
        ),
        (
            "cluster: {leave_after: 5 min}",
            '3:24: `cluster.leave_after` is "5 min"; it must be a number above 0, at most 604800; '
            "a time is a number of seconds, without a unit",
        ),
        (
            "cluster: {leave_after: .inf}",
            "3:24: `cluster.leave_after` is inf; it must be a number above 0, at most 604800",
        ),
        (
            "logging: {level: WARN}",
            '3:18: `logging.level` is "WARN"; it must be debug, info, warning or error; did you mean warning?',
        ),
        ("logging: debug", '3:10: `logging` is "debug"; it must be a mapping (lines of `key: value`)'),
        (
            "gateway: {max_body: 64 MIBs}",
            '3:21: `gateway.max_body` is "64 MIBs"; a size is a number of bytes or a text such as 64MiB, 10MB or 1GiB',
        ),
        ("gateway: {max_body: 1}", "3:21: `gateway.max_body` is 1; it must be a size from 1KiB to 64GiB"),
        (
            "engines: {ports: 5000}",
            "3:18: `engines.ports` is 5000; it must be the first and the last port, as in [20000, 20999]",
        ),
        ("gatway: {workers: 1}", "3:1: unknown key `gatway`; did you mean `gateway`?"),
        (
            "cluster: {heartbeat-interval: 1}",
            "3:11: unknown key `heartbeat-interval` in `cluster`; did you mean `heartbeat_interval`?",
        ),
        ("secret: x", "3:1: unknown key `secret`; did you mean `cluster.secret`?"),
        (
            "routing: {zzz: 1}",
            "3:11: unknown key `zzz` in `routing`; known here are policy, allow_override, session_header, "
            "prefix_memory",
        ),
        (
            "routing: {policy: prefix}",
            '3:19: `routing.policy` is "prefix"; it must be one of least_connections, power_of_two, prefix_affinity, '
            "round_robin, session or weighted_round_robin, or a policy that a package installed here brings",
        ),
        (
            "cluster: {name: a b}",
            '3:17: `cluster.name` is "a b"; it does not have the form it needs. Nodes only listen to nodes of a '
            "cluster of the same name. Letters, digits, _ . and -.",
        ),
        (
            "cluster: {secret: short}",
            "3:19: `cluster.secret` is (hidden); it must be text of 16 to 1024 characters",
        ),
    ],
)
def test_messages_name_the_wrong_value_and_the_right_ones(told: Told, line: str, message: str) -> None:
    assert told(MINIMAL + line + "\n") == [message]


def test_a_word_for_true_is_recognised(model_with: Told) -> None:
    (message,) = model_with("{path: a/b, share_gpus: yes}")
    assert message.endswith('is "yes"; it must be true or false; write true, without quotes')


def test_what_is_missing_is_explained(told: Told) -> None:
    (message,) = told("nodes:\n  - port: 1\nmodel: {path: a/b}\n")
    assert message.startswith("2:5: `host` is missing in `nodes[0]` (IP address or name that the other nodes")


def test_a_required_key_without_a_value_is_told_at_the_key(told: Told) -> None:
    (message,) = told("nodes:\n  - port: 1\n    host:\nmodel: {path: a/b}\n")
    assert message.startswith("3:5: `nodes[0].host` has no value (IP address")


def test_the_variable_behind_a_value_is_named(told: Told) -> None:
    (message,) = told("nodes: [{host: ::1, port: '${P}'}]\nmodel: {path: a/b}\n", P="99999")
    assert message == (
        "1:27: `nodes[0].port` is 99999 (from the environment variable P); it must be a whole number from 1 to 65535"
    )


def test_an_empty_variable_is_named(told: Told) -> None:
    (message,) = told("nodes: [{host: '${H}'}]\nmodel: {path: a/b}\n", H="")
    assert message.startswith("1:10: `nodes[0].host` has no value (from the environment variable H)")


def test_a_bad_secret_from_the_environment_is_told_without_showing_it(told: Told) -> None:
    (message,) = told(MINIMAL, SHOAL_SECRET="hunter2")
    assert "`cluster.secret` is (hidden) (from the environment variable SHOAL_SECRET)" in message


def test_an_empty_list_of_nodes_is_told_once(told: Told) -> None:
    assert told("nodes: []\nmodel: {path: a/b}\n") == [
        "1:8: `nodes` is []; it must be a list with at least one entry"
    ]


def test_a_list_is_not_called_too_short_because_its_entries_are_wrong(told: Told) -> None:
    assert told("nodes: [5]\nmodel: {path: a/b}\n") == [
        "1:9: `nodes[0]` is 5; it must be a mapping (lines of `key: value`)"
    ]
