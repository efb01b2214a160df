"""Messages as bytes and back."""

import pytest

from shoal.transport.contract import Call
from shoal.transport.queued.frames import (
    Alive,
    Attempt,
    Broken,
    Cancel,
    FormatError,
    Frame,
    Go,
    Head,
    Piece,
    Taken,
    encoded,
    frame_in,
    request_in,
    request_of,
)

A = Attempt("call", 1, 2, "token", "inbox")


def test_a_request_comes_back_as_the_call_it_was() -> None:
    call = Call(
        id="x",
        engine="n/e",
        model="m",
        method=b"POST",
        target=b"/v1/x?y",
        headers=((b"a", b"\xff"), (b"a", b"2")),
        body=bytes(range(256)),
        deadline=12.5,
        priority=0,
    )
    request = request_in(encoded(request_of(call, 3, "inbox")))
    assert request.call() == call
    assert (request.round, request.inbox) == (3, "inbox")


@pytest.mark.parametrize(
    "frame",
    [
        Taken(A),
        Taken(A, True),
        Go("call", "token"),
        Alive((A, A)),
        Head(A, 200, ((b"a", b"b"),), "n/e", b"\x00", False),
        Piece(A, 7, b"x", True),
        Broken(A, "why", False),
        Cancel("call", ""),
    ],
)
def test_frames_come_back_as_they_were(frame: Frame) -> None:
    assert frame_in(encoded(frame)) == frame


@pytest.mark.parametrize("data", [b"", b"\xc1", b"{}", encoded(Cancel("call", ""))[:-1], b"\x91\xa4else"])
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        frame_in(data)
    with pytest.raises(FormatError):
        request_in(data)
