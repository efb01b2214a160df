import logging

import pytest

from shoal.node.events import Event, Events


def test_events_are_kept_in_order_and_logged(caplog: pytest.LogCaptureFixture):
    events = Events(keep=2, clock=lambda: 1.0)
    with caplog.at_level(logging.INFO, "shoal"):
        events.add("one")
        events.add("two", "warning")
        events.add("three")
    assert events.last() == [Event(1.0, "warning", "two"), Event(1.0, "info", "three")]
    assert events.last(1) == [Event(1.0, "info", "three")]
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("INFO", "one"),
        ("WARNING", "two"),
        ("INFO", "three"),
    ]
