import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.gateway.events import StreamError, WholeEvents, payloads

EVENTS = [b"data: {}\n\n", b": a comment\n\n", b"event: error\ndata: a\ndata: b\n\n", b"data: x\r\n\r\n"]


def chunked(pieces: list[bytes]) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in pieces if p)


@given(st.lists(st.sampled_from(EVENTS)), st.lists(st.integers(1, 40)), st.booleans())
def test_however_the_bytes_come_only_whole_events_go_on(
    events: list[bytes], cuts: list[int], in_chunks: bool
):
    whole = b"".join(events)
    reader = WholeEvents(in_chunks)
    data = chunked([whole[:7], whole[7:]]) if in_chunks else whole
    out, start = b"", 0
    for size in [*cuts, len(data)]:
        piece, start = data[start : start + size], start + size
        if piece:
            given_out = reader.feed(piece)
            assert not given_out or given_out.endswith((b"\n\n", b"\r\n\r\n"))
            out += given_out
    assert out == whole


def test_the_beginning_of_an_event_waits_for_its_end():
    reader = WholeEvents(chunked=False)
    assert reader.feed(b"data: 1\n\ndata: 2") == b"data: 1\n\n"
    assert reader.feed(b"\n") == b""
    assert reader.feed(b"\n") == b"data: 2\n\n"


def test_an_event_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("shoal.gateway.events._MAX_EVENT", 100)
    reader = WholeEvents(chunked=False)
    with pytest.raises(StreamError, match="without an end"):
        reader.feed(b"x" * 101)


def test_payloads_are_the_data_alone():
    assert payloads(b"".join(EVENTS)) == [b"{}", b"a\nb", b"x"]
