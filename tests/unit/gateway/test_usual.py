"""The short way of what is nearly always asked (`dispatch._usual`) does just what the long way does."""

from __future__ import annotations

from typing import Any

import pytest

from shoal.gateway import dispatch
from shoal.gateway.keys import KeyTable
from shoal.gateway.open_requests import open_requests as listed
from support.keys import bearer, key

LONG = b"a document of words " * 1000
ANSWER = b'{"id":"c","usage":{"prompt_tokens":7,"total_tokens":12,"completion_tokens":5}}'
EVENTS = b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\ndata: [DONE]\n\n'
BODIES = {
    "usual": b'{"model":"m","messages":[]}',
    "no stream": b'{"model":"m","stream":false,"n":1}',
    "stream": b'{"model":"m","stream":true}',
    "stream of another kind": b'{"model":"m","stream":"yes"}',
    "priority": b'{"model":"m","priority":3}',
    "no priority": b'{"model":"m","priority":null}',
    "unknown model": b'{"model":"other"}',
    "model without engines": b'{"model":"empty"}',
    "no model": b'{"messages":[]}',
    "model of another kind": b'{"model":7}',
    "no object": b"[1,2,3]",
    "no JSON": b'{"model":"m"',
    "no UTF-8": b'{"model":"\xff"}',
    "too deep": b'{"model":"m","x":' + b"[" * 3000 + b"]" * 3000 + b"}",
    "long": b'{"model":"m","prompt":"%b"}' % LONG,
    "long, model last": b'{"prompt":"%b","model":"m"}' % LONG,
    "long stream": b'{"model":"m","prompt":"%b","stream":true}' % LONG,
    "long name": b'{"model":"%b"}' % LONG,
    "long without model": b'{"prompt":"%b"}' % LONG,
    "long and no JSON": b'{"model":"m","prompt":"%b",}' % LONG,
}
KEYS = {
    "none": None,
    "plain": {},
    "admin": {"admin": True},
    "model": {"models": frozenset(("m",))},
    "other model": {"models": frozenset(("other",))},
    "priority": {"priority": 2},
    "limits": {"requests_per_minute": 600, "tokens_per_minute": 6000},
    "one at a time": {"max_concurrent": 1},
    "expires": {"expires": 4e9},
    "expired": {"expires": 1.0},
}
# Lines that differ between two equal requests: times, and the names that the gateway makes up for those that fail.
CHANGES = (b"date:", b"x-ratelimit-re", b"x-request-id:")
EXTRAS = {
    "priority": "x-shoal-priority: 1\r\n",
    "name": "x-request-id: mine\r\n",
    "policy": "x-shoal-policy: nonsense\r\n",
    "encoding": "Accept-Encoding: gzip\r\n",
    "key in another line": "x-api-key: sk\r\n",
}


async def behave(connection, seen) -> None:
    if b'"stream":true' in seen.body:
        kind, body = b"text/event-stream", EVENTS
    else:
        kind, body = b"application/json", ANSWER
    await connection.send(
        b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n%b" % (kind, len(body), body)
    )


async def outcomes(stage, data: bytes, monkeypatch, *, short: bool, **options: Any) -> tuple[Any, int]:
    """Return what can be seen of the last of some equal requests, and how many of them took the short way."""
    taken = 0
    usual = dispatch._usual

    def counted(*arguments: Any) -> Any:
        nonlocal taken
        found = usual(*arguments) if short else None
        taken += found is not None
        return found

    async def look_and_behave(connection, request) -> None:
        looks.extend(
            (row.key, row.model, row.engine, row.stream) for row in listed(stage.gateway.connections)
        )
        await behave(connection, request)

    looks: list[Any] = []
    monkeypatch.setattr(dispatch, "_usual", counted)
    engine = await stage.engine(look_and_behave)
    routes = {"m": stage.route(engine, **options.pop("target", {})), "empty": stage.route(model="empty")}
    await stage.open(table=stage.table(routes), **options)
    client = await stage.client()
    seen: list[Any] = []
    for _ in range(4):  # from the third on, the head is known
        before = cells(stage)
        reply = await client.request(data)
        raw = b"\r\n".join(line for line in reply.raw.split(b"\r\n") if not line.startswith(CHANGES))
        counts = [b - a for a, b in zip(before, cells(stage), strict=True)]
        used = stage.used() if stage.gateway.access is not None else None
        seen.append((raw, [(s.head, s.body) for s in engine.seen], counts, used, looks.copy()))
        engine.seen.clear()
        looks.clear()
    assert stage.open_requests() == 0
    monkeypatch.setattr(dispatch, "_usual", usual)
    await stage.clear()
    return seen, taken


def cells(stage) -> list[int]:
    """Return what is counted, times left out."""
    found = list(stage.gateway.cells.tolist())
    for row in (stage.metrics.engine_requests(0), stage.metrics.engine_faults(0)):
        found += row[:4].tolist()
    keys = stage.key_cells
    for row in (keys.open(0), keys.requests(0), keys.tokens(0)):
        found += row[:4].tolist()
    return [*found, sum(stage.metrics.outcome(0).whole.counts), stage.open_requests()]


async def compare(stage, monkeypatch, data: bytes, **options: Any) -> int:
    """Send requests both ways and compare. Return how many took the short way."""
    long, none = await outcomes(stage, data, monkeypatch, short=False, **options)
    stage.engines.clear()
    short, taken = await outcomes(stage, data, monkeypatch, short=True, **options)
    assert short == long
    assert none == 0
    return taken


@pytest.mark.parametrize(
    ("what", "who"),
    [*((what, "plain") for what in BODIES), *(("usual", who) for who in KEYS if who != "plain")],
)
async def test_whatever_is_asked_and_whoever_asks(stage, monkeypatch, what, who):
    limits = KEYS[who]
    keys = None if limits is None else KeyTable(keys=(key("anna", 1, **limits),))
    extra = "" if limits is None else bearer("anna")
    taken = await compare(stage, monkeypatch, stage.post(BODIES[what], extra=extra), keys=keys)
    usual = what in ("usual", "no stream", "no priority", "long", "long, model last")
    assert taken == (2 if usual and who in ("none", "plain", "admin") else 0)


@pytest.mark.parametrize("extra", EXTRAS)
@pytest.mark.parametrize("target", [{}, {"host_header": "h:1", "base_path": "/p/", "api_key": "theirs"}])
async def test_whatever_the_head_says_and_whatever_the_engine_wants(stage, monkeypatch, extra, target):
    keys = KeyTable(keys=(key("anna", 1),))
    for more in ({}, {"allow_override": True}, {"explain": "all"}):
        data = stage.post(extra=bearer("anna") + EXTRAS[extra])
        if "explain" in more and extra != "name":
            continue  # its name is another one each time
        stage.engines.clear()
        taken = await compare(stage, monkeypatch, data, keys=keys, target=dict(target), **more)
        assert taken == (2 if extra in ("policy", "encoding", "key in another line") and not more else 0)


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/nothing", "/tokenizer_info", "/shoal/v1/status"])
async def test_whatever_the_path_is(stage, monkeypatch, path):
    taken = await compare(stage, monkeypatch, stage.post(path=path))
    assert taken == (2 if path == "/v1/embeddings" else 0)


async def test_a_revoked_key_does_not_open_the_short_way(stage):
    engine = await stage.engine(behave)
    await stage.open(engine, keys=KeyTable(keys=(key("anna", 1),)))
    client = await stage.client()
    data = stage.post(extra=bearer("anna"))
    for _ in range(4):
        assert (await client.request(data)).status == 200
    stage.gateway.access.replace(KeyTable(keys=(key("anna", 1, models=frozenset(("other",))),)))
    assert (await client.request(data)).status == 403
    stage.gateway.access.replace(KeyTable())
    assert (await client.request(data)).status == 401
