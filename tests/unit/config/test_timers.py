from __future__ import annotations

from collections.abc import Callable

import pytest

from shoal.config.errors import spell
from shoal.config.schema import Config
from shoal.config.shape import fields_of, shape_of
from shoal.config.timers import INEQUALITIES, seconds

MINIMAL = "nodes: [{host: 127.0.0.1}, {host: ::1, role: standby}]\nmodel: {path: a/b}\n"
BROKEN = {
    "cluster.confirm_timeout": "cluster: {confirm_timeout: 1.6}",
    "cluster.leave_after": "cluster: {leave_after: 1.9}",
    "gateway.connect_timeout": "gateway: {connect_timeout: 30}",
    "engines.probe_interval": "engines: {start_timeout: 6, probe_interval: 6}",
    "engines.probe_timeout": "engines: {start_timeout: 5}",
    "recovery.restart_delay": "recovery: {restart_delay: 61}",
    "recovery.healthy_after": "recovery: {healthy_after: 1}",
    "recovery.takeover_after": "recovery: {takeover_after: 1}",
    "recovery.return_after": "recovery: {return_after: 1.9}",
    "recovery.stall_timeout": "recovery: {stall_timeout: 1}",
}


def test_all_hold_by_default(config_of: Callable[..., Config]) -> None:
    config = config_of(MINIMAL)
    assert all(rule.holds(config) for rule in INEQUALITIES)


@pytest.mark.parametrize("rule", INEQUALITIES, ids=lambda rule: spell(rule.left))
def test_a_broken_inequality_is_an_error_with_both_sides_and_the_reason(
    told: Callable[..., list[str]], rule: object
) -> None:
    inequality = next(i for i in INEQUALITIES if i is rule)
    (message,) = told(MINIMAL + BROKEN[spell(inequality.left)] + "\n")
    assert message.startswith("3:")
    assert f"`{spell(inequality.left)}` is" in message
    assert inequality.right in message
    assert inequality.reason in message


def test_equal_is_enough_where_the_inequality_says_so(told: Callable[..., list[str]]) -> None:
    assert told(MINIMAL + "cluster: {confirm_timeout: 1.5}\nrecovery: {restart_delay: 60}\n") == []


def test_it_is_told_at_the_setting_that_the_file_gives(told: Callable[..., list[str]]) -> None:
    (message,) = told(MINIMAL + "cluster:\n  heartbeat_interval: 0.1\n")
    assert message.startswith("4:23: `cluster.confirm_timeout` is 0.4 s; it must be at most")


@pytest.mark.parametrize("rule", INEQUALITIES, ids=lambda rule: spell(rule.left))
def test_the_bounded_setting_documents_its_bound(rule: object) -> None:
    inequality = next(i for i in INEQUALITIES if i is rule)
    shape = shape_of(inequality.left[:-1])
    assert shape is not None
    assert shape.section is not None
    description = fields_of(shape.section)[str(inequality.left[-1])].description or ""
    assert all(str(path[-1]) in description for path in inequality.settings)


def test_the_sign_and_the_sides_fit(config_of: Callable[..., Config]) -> None:
    config = config_of(MINIMAL)
    for rule in INEQUALITIES:
        left, right = rule.sides(config)
        assert (left > right) if rule.relation == ">" else (left <= right)


def test_times_are_written_with_their_unit() -> None:
    assert [seconds(t) for t in (1.9, 30.0, 0.05, 604800.0)] == ["1.9 s", "30 s", "0.05 s", "604800 s"]


def test_what_is_about_standby_nodes_matters_only_where_there_is_one(
    config_of: Callable[..., Config],
) -> None:
    config = config_of("nodes: [{host: 127.0.0.1}]\nmodel: {path: a/b}\ncluster: {heartbeat_interval: 9}\n")
    assert {spell(rule.left) for rule in INEQUALITIES if not rule.applies(config)} == {
        "recovery.takeover_after",
        "recovery.return_after",
    }
