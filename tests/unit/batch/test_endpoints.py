"""Batches take whatever the gateway has engines answer, but for what no line of JSON can hold."""

from __future__ import annotations

from shoal.batch.desk import ENDPOINTS
from shoal.gateway import paths
from shoal.gateway.paths import Endpoint, classify

_SOUND = "/v1/audio/speech"


def test_every_path_whose_request_and_answer_are_json_can_be_a_batchs():
    assert set(paths._JSON.split()) - ENDPOINTS == {_SOUND}
    assert all(classify(path.encode()) is Endpoint.JSON for path in ENDPOINTS)
