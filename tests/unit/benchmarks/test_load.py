import json

import pytest
from benchmarks.gateway.load import LoadError, chat_request, parse

LINE = (
    '{"sent":10,"completed":9,"failed":1,"events":0,"open":0,"seconds":1.5,"p50_us":80.1,'
    '"p99_us":120.0,"gap_p99_us":11.0,"error":"status 503"}'
)


def test_a_result_line_is_read() -> None:
    loaded = parse(LINE)
    assert (loaded.sent, loaded.completed, loaded.failed, loaded.error) == (10, 9, 1, "status 503")
    assert (loaded.p50, loaded.p99, loaded.gap_p99, loaded.seconds) == (80.1, 120.0, 11.0, 1.5)


@pytest.mark.parametrize("line", ["", "Killed", "[]", '{"sent": 1}'])
def test_anything_else_is_an_error_that_shows_it(line: str) -> None:
    with pytest.raises(LoadError, match="the load generator said"):
        parse(line)


@pytest.mark.parametrize(
    ("size", "stream"), [(1024, None), (32768, None), (1024, "events=5 rate=100 hold=0")]
)
def test_a_request_has_exactly_the_size_asked_for(size: int, stream: str | None) -> None:
    head, _, body = chat_request(size, stream).partition(b"\r\n\r\n")
    assert len(body) == size
    assert f"Content-Length: {size}".encode() in head
    fields = json.loads(body)
    assert fields.get("stream", False) is (stream is not None)
    assert (f"[[{stream}]]" in fields["messages"][0]["content"]) is (stream is not None)
