"""The routing table is data that cannot be changed."""

from __future__ import annotations

import pytest

from shoal.routing.table import RoutingTable


def test_a_table_is_immutable_and_its_defaults_are_its_own():
    first, second = RoutingTable(version=1), RoutingTable(version=2)
    assert first.routes == {}
    assert first.routes is not second.routes
    with pytest.raises(AttributeError):
        first.version = 3  # type: ignore[misc]
