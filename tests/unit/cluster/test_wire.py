from __future__ import annotations

import contextlib
import random

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shoal.cluster.view import EngineReport, EngineState, Heard, NodeReport
from shoal.cluster.wire import (
    MAX_DATAGRAM,
    Codec,
    Goodbye,
    Heartbeat,
    Hello,
    Malformed,
    Message,
    Payload,
    ProbeReply,
    ProbeRequest,
    TooLarge,
    Traffic,
    WireError,
    WrongCluster,
    WrongSecret,
    WrongVersion,
    derive_key,
)
from support.thorough import tries

SECRET = "a secret of more than sixteen characters"
CODEC = Codec("shoal", SECRET)
NAMES = st.text(min_size=1, max_size=40)
COUNTS = st.integers(0, 2**63 - 1)
ENGINES = st.builds(
    EngineReport,
    id=NAMES,
    model=NAMES,
    kind=st.sampled_from(["vllm", "sim", "external"]),
    state=st.sampled_from(EngineState),
    host=NAMES,
    port=st.integers(0, 65535),
    served=st.lists(NAMES, max_size=3).map(tuple),
    kv_usage=st.floats(0, 1),
    detail=st.text(max_size=60),
)
REPORTS = st.builds(
    NodeReport,
    name=st.just("a:1"),
    version=NAMES,
    engines=st.lists(ENGINES, max_size=4).map(tuple),
    in_flight=st.dictionaries(NAMES, COUNTS, max_size=4),
    heard=st.dictionaries(NAMES, st.builds(Heard, COUNTS, st.none() | COUNTS, NAMES, COUNTS), max_size=4),
)
PAYLOADS = st.one_of(
    st.builds(Heartbeat, REPORTS),
    st.builds(ProbeRequest, NAMES),
    st.builds(ProbeReply, NAMES, COUNTS, st.none() | COUNTS, st.none() | st.booleans()),
    st.just(Hello()),
    st.just(Goodbye()),
    st.builds(
        Traffic,
        in_flight=st.dictionaries(NAMES, COUNTS, max_size=3),
        work=st.dictionaries(NAMES, COUNTS, max_size=3),
        blocks=st.dictionaries(NAMES, st.binary(max_size=40), max_size=3),
    ),
)


def message(payload: Payload | None = None) -> Message:
    return Message("a:1", 1_700_000_000_000, 7, payload or Hello())


@given(payload=PAYLOADS, incarnation=COUNTS, sequence=COUNTS)
def test_what_is_encoded_comes_out_equal(payload: Payload, incarnation: int, sequence: int) -> None:
    sent = Message("a:1", incarnation, sequence, payload)
    assert CODEC.decode(CODEC.encode(sent)) == sent


@given(st.binary(max_size=300))
@example(b"")
@example(b"\x01" * 41)
@example(b"\x01" * 42)
@example(b"\x00" * (MAX_DATAGRAM + 1))
def test_any_bytes_give_a_typed_error_and_nothing_else(garbage: bytes) -> None:
    with pytest.raises(WireError):
        CODEC.decode(garbage)


@given(body=st.binary(min_size=1, max_size=200))
@settings(max_examples=tries(300))
def test_any_authentic_body_is_a_message_or_malformed(body: bytes) -> None:
    start = CODEC.encode(message())[:9]
    datagram = start + CODEC._mac(start, body) + body
    with contextlib.suppress(Malformed):
        assert isinstance(CODEC.decode(datagram), Message)


@pytest.mark.parametrize("nesting", [b"\x91", b"\x81\xa1a"])
def test_an_authentic_body_nested_without_end_is_malformed(nesting: bytes) -> None:
    body = b"\x81\xa1a" + nesting * 10_000 + b"\xc0"
    start = CODEC.encode(message())[:9]
    with pytest.raises(Malformed):
        CODEC.decode(start + CODEC._mac(start, body) + body)


def test_every_flipped_bit_is_noticed() -> None:
    datagram = CODEC.encode(message(Heartbeat(NodeReport(name="a:1", version="1"))))
    for bit in range(len(datagram) * 8):
        broken = bytearray(datagram)
        broken[bit // 8] ^= 1 << bit % 8
        with pytest.raises(WireError):
            CODEC.decode(bytes(broken))


def test_every_truncation_is_noticed() -> None:
    datagram = CODEC.encode(message())
    for size in range(len(datagram)):
        with pytest.raises(WireError):
            CODEC.decode(datagram[:size])


def test_another_secret_another_cluster_and_another_version_are_told_apart() -> None:
    datagram = CODEC.encode(message())
    with pytest.raises(WrongSecret):
        Codec("shoal", "another secret of sixteen").decode(datagram)
    with pytest.raises(WrongSecret):
        Codec("shoal", None).decode(datagram)
    with pytest.raises(WrongCluster):
        Codec("other", SECRET).decode(datagram)
    with pytest.raises(WrongCluster):
        Codec("other", "another secret of sixteen").decode(datagram)
    with pytest.raises(WrongVersion, match="format 2"):
        CODEC.decode(b"\x02" + datagram[1:])
    with pytest.raises(Malformed):
        Codec("other", SECRET).decode(b"\x02" + datagram[1:])


def test_a_report_for_another_node_than_the_sender_is_malformed() -> None:
    datagram = CODEC.encode(message(Heartbeat(NodeReport(name="b:1", version="1"))))
    with pytest.raises(Malformed, match="another node"):
        CODEC.decode(datagram)


def test_fields_of_a_later_release_are_passed_over() -> None:
    body = msgspec.msgpack.encode(
        {
            "sender": "a:1",
            "incarnation": 1,
            "sequence": 2,
            "mood": [1, {"x": None}],
            "payload": {
                "type": "heartbeat",
                "report": {
                    "name": "a:1",
                    "version": "9",
                    "heard": {"b:1": [5, 6, "h", 7, "extra"]},
                    "new": 1,
                },
            },
        }
    )
    start = CODEC.encode(message())[:9]
    got = CODEC.decode(start + CODEC._mac(start, body) + body)
    assert isinstance(got.payload, Heartbeat)
    assert got.payload.report.heard["b:1"] == Heard(5, 6, "h", 7)


def engine(number: int, detail: str) -> EngineReport:
    return EngineReport(
        id=f"m-{number}", model="m", kind="sim", state=EngineState.READY, host="127.0.0.1", detail=detail
    )


def test_a_report_that_does_not_fit_loses_its_details_first() -> None:
    report = NodeReport(name="a:1", version="1", engines=tuple(engine(i, "x" * 500) for i in range(200)))
    datagram = CODEC.encode(message(Heartbeat(report)))
    assert len(datagram) <= MAX_DATAGRAM
    got = CODEC.decode(datagram)
    assert isinstance(got.payload, Heartbeat)
    assert [e.id for e in got.payload.report.engines] == [e.id for e in report.engines]
    assert {e.detail for e in got.payload.report.engines} == {""}


def test_a_report_that_does_not_fit_at_all_is_a_typed_error() -> None:
    report = NodeReport(name="a:1", version="1", engines=tuple(engine(i, "") for i in range(2000)))
    with pytest.raises(TooLarge, match="does not fit"):
        CODEC.encode(message(Heartbeat(report)))


def test_the_first_byte_is_never_one_of_a_quic_packet() -> None:
    assert CODEC.encode(message())[0] & 0b1100_0000 == 0
    with pytest.raises(Malformed):
        CODEC.decode(bytes([0xC0]) + random.Random(1).randbytes(1199))


def test_keys_differ_by_secret_and_purpose() -> None:
    keys = {derive_key(secret, purpose) for secret in (None, "a", "b") for purpose in ("heartbeat", "other")}
    assert len(keys) == 6
    assert {len(key) for key in keys} == {32}
