from io import StringIO
from typing import Any

from rich.console import Console

from shoal.cli.explain import render


def told(**more: Any) -> dict[str, Any]:
    return {
        "node": "a:1", "id": "r-1", "answer_id": "", "began": 0.0, "method": "POST", "path": "/v1/completions",
        "model": "m", "key": "", "stream": True, "status": 200, "seconds": 2.5, "queued": 0.0, "first": 0.1,
        "events": 70, "engine": "b:1/m-0", "attempts": 2, "followed": True, "steps": [],
    } | more  # fmt: skip


def shown(document: dict[str, Any]) -> str:
    out = StringIO()
    Console(file=out, width=200).print(render(document))
    return out.getvalue()


def test_a_way_with_everything_in_it():
    row = {"open": 3, "cached": 1024, "missing": 64, "work": 0, "queued": 1, "kv": 0.5, "cost": 4000}
    steps = [
        {"at": 0.0, "what": "queued", "seconds": 1.25},
        {
            "at": 1.25, "what": "picked", "engine": "a:1/m-0", "policy": "prefix_affinity", "of": 3,
            "candidates": [{"engine": "a:1/m-0", **row}, {"engine": "b:1/m-0", **row, "over": 1}],
        },
        {"at": 1.5, "what": "failed", "engine": "a:1/m-0", "text": "connection refused"},
        {"at": 1.6, "what": "picked", "engine": "b:1/m-0"},
        {"at": 1.7, "what": "resumed", "engine": "b:1/m-0", "tokens": 12},
        {"at": 1.8, "what": "broken", "text": "no other engine is left"},
        {"at": 1.9, "what": "refused", "text": "the engines are busy"},
    ]  # fmt: skip
    text = shown(told(steps=steps, queued=1.25, key="team", answer_id="cmpl-1"))
    for part in (
        "queued 1.250 s",
        "refused by the gateway: the engines are busy",
        "key team",
        "answer cmpl-1",
        "picked by prefix_affinity among 2 of 3 engines",
        "=>  a:1/m-0",
        "1,024 B",
        "50%",
        "more than its share",
        "failed on a:1/m-0: connection refused",
        "sent to b:1/m-0: there was nothing to choose",
        "goes on on b:1/m-0 after 12 tokens",
        "broken off: no other engine is left",
    ):
        assert part in text, text


def test_what_is_not_known_is_said():
    text = shown(told(followed=False, status=499, engine="", stream=False, first=0.0, events=0))
    assert "Followed from its first mishap on" in text
    assert "its client went away after 2.500 s" in text
    assert "no engine" in text
