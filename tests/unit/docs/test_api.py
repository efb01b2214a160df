"""docs/api.md names every path that the gateway takes, and none that it does not."""

import re
from pathlib import Path
from unittest.mock import MagicMock

from shoal.batch.api import Api
from shoal.gateway import paths
from shoal.node.console import LIVE, REQUESTS
from shoal.node.control import control_app

TEXT = (Path(__file__).parents[3] / "docs/api.md").read_text()
NAMED = {path.partition("?")[0] for path in re.findall(r"`(?:GET )?(/[^`* ]*)`", TEXT)}
OF_PAGES = {"/"}
"""Told in docs/console.md."""


def test_every_path_is_named():
    batches = Api(*[MagicMock()] * 4).routes()
    control = {route.path for route in control_app(MagicMock()).routes}  # type: ignore[attr-defined]
    taken = {path.decode() for path in paths._EXACT} | control | {LIVE, REQUESTS}
    taken |= {route.path.replace("{id}", "ID") for route in batches}
    assert taken - NAMED == OF_PAGES


def test_every_path_that_is_named_leads_somewhere():
    whole = {path for path in NAMED if path not in ("/cancel", "/input_items")}
    assert [path for path in whole if paths.classify(path.encode()) is None] == []
    assert len(whole) > 40
