"""A stream of events on its way to a client, whichever engines it comes from.

Whole events go on as they come. What a stream of chat completions or completions says is kept, so that another engine
can go on when the first one fails; the token ids that are asked for to that end are taken out again.
"""

from __future__ import annotations

from shoal.gateway.continuation import (
    CHAT,
    COMPLETIONS,
    Asked,
    CannotResumeError,
    Continuation,
    continuation,
    exhausted,
    refuse,
)
from shoal.gateway.events import WholeEvents, payloads
from shoal.gateway.forms import EventForm, form_of
from shoal.gateway.splice import DONE_EVENT, EngineError, Splice, error_message, event
from shoal.gateway.transcript import Transcript, decode_chunk
from shoal.gateway.usage import StreamWatch

RESUMABLE = (CHAT, COMPLETIONS)
"""Paths whose streams can be continued."""

_IDS = b'token_ids":['  # as a key: inside a string its quote would be escaped
_NO_IDS = b'token_ids":null'
_ERROR = b'data: {"error"'  # inside a string the quotes would be escaped
_LOOKS = 8  # at events of a stream, until its form must be known
_NO_NEWS = (
    b'"delta":{},'  # what vLLM's parsers have nothing to say about is a chunk only because ids were asked for
)


class Relay:
    """The events of one client's stream.

    Args:
        path: of the request.
        body: of the request.
        mode: ``exact``, ``text`` or ``off``, see `recovery.resume`.
        limit: bytes kept of the stream at most.
        watched: find out what the stream takes.

    Attributes:
        done: the stream is complete, and so is what went to the client.
        said: what it has said; None where nothing is kept, since it cannot be continued.
        form: that of its usual events, once it is known.
        events: puts events together that come in parts.
        watch: knows what the stream has taken; None if nobody wants to.
    """

    def __init__(self, path: bytes, body: bytes, mode: str, limit: int, *, watched: bool = False) -> None:
        self._path = path
        self._body = body
        self._mode = mode
        self.said = Transcript(limit) if path in RESUMABLE and mode != "off" else None
        self._asked: Asked | None = None
        self.events = WholeEvents(chunked=True)
        self.watch = StreamWatch(whole=path in RESUMABLE) if watched else None
        self._strip = False
        self.form: EventForm | None = None
        self._looks = _LOOKS  # left
        self._splice: Splice | None = None
        self._plan: Continuation | None = None
        self._text_only = False
        self.done = False

    @property
    def tokens(self) -> int:
        """Tokens that the stream has had when it was last continued."""
        return self._plan.tokens if self._plan is not None else 0

    def begin(self, *, chunked: bool, strip: bool, strip_usage: bool = False) -> None:
        """A response has begun: the first one, or that to a continuation.

        Args:
            chunked: its body comes in chunks.
            strip: token ids were asked for that the client has not asked for.
            strip_usage: so was the usage.
        """
        self.events = WholeEvents(chunked)
        self._strip = strip
        if self.watch is not None:
            self.watch.begin(strip=strip_usage, repeated=self.tokens)
        self.form = None
        if self._plan is not None:
            assert self._asked is not None
            assert self.said is not None
            self._splice = Splice(self._asked, self.said, self._plan)

    def feed(self, data: bytes) -> bytes:
        """Return the events for the client that are complete with the next bytes of the body.

        Raises:
            EngineError: the engine ended the stream with an error.
            SeamError: another engine does not go on where the first one stopped.
            StreamError: the stream is wrong in another way.
        """
        return self._take(self.events.feed(data))

    def feed_content(self, content: bytes) -> bytes:
        """Return the same for a chunk's content.

        Raises:
            StreamError: as `feed`.
        """
        return self._take(self.events.feed_content(content))

    def _take(self, events: bytes) -> bytes:
        said = self.said
        if self.watch is not None:
            events = self.watch.feed(events)
        if said is None:
            return events
        if self._splice is not None:
            events = self._splice.feed(events)
        else:
            if _ERROR in events:
                _raise_error(events)
            said.keep(events)
            if self.form is None and self._looks:
                self._looks -= 1
                self.form = form_of(events, self._strip)
            if self._strip:
                first, *rest = events.split(_IDS)
                events = _NO_IDS.join((first, *[part.partition(b"]")[2] for part in rest]))
                if _NO_NEWS in events:
                    events = _without_empty(events)
        if events.endswith(DONE_EVENT):
            self.done = True
        return events

    def relayed(self) -> tuple[int | None, int]:
        """Return how many tokens the prompt has, None when not known, and about how many have gone to the client."""
        said = self.said
        if said is None or said.overflown:
            return None, self.watch.pieces if self.watch is not None else 0
        said.read()
        return said.prompt_tokens, said.counted

    def ended_early(self) -> bool:
        """Whether a response that has ended in good order lacks its end."""
        said = self.said
        if said is None or self.done:
            return False
        said.read()
        return said.finish_reason is None

    def rest(self, max_model_len: int | None) -> bytes | None:
        """Return the end of a broken stream where nothing is left to be generated, None where something is.

        Args:
            max_model_len: context length of its engines, tokens; None when not known.

        Raises:
            CannotResumeError: the stream cannot be continued.
        """
        said = self.said
        if said is None:
            what = (
                "recovery.resume is off"
                if self._mode == "off"
                else "only chat completions and completions can"
            )
            raise CannotResumeError(what)
        said.read()
        if said.head is None and not said.overflown:
            return None
        if self._asked is None:
            self._asked = Asked.read(self._path, self._body)
        asked = self._asked
        if said.finish_reason is None:
            refuse(asked, said)
            if not exhausted(asked, said, max_model_len):
                return None
        elif asked.usage and not said.usage_sent and said.prompt_tokens is None:
            raise CannotResumeError("how many tokens it took is not known")
        over = Continuation(
            target=b"", body=b"", exact=True, tokens=said.counted, covered=said.covered, repeats=""
        )
        self.done = True
        return Splice(asked, said, over).finish("length")

    def plan(self, *, token_ids: bool, max_model_len: int | None) -> Continuation | None:
        """Return the request that goes on from here; None for the client's own, where nothing was said yet.

        To be called after `rest`, for each engine that is asked.

        Args:
            token_ids: the engine gives token ids when asked to.
            max_model_len: its context length, tokens; None when not known.

        Raises:
            CannotResumeError: the stream cannot be continued.
        """
        said, self._splice, self._plan = self.said, None, None
        assert said is not None
        if said.head is None:
            return None
        assert self._asked is not None
        exact = self._mode == "exact" and not self._text_only
        self._plan = continuation(
            self._asked, said, exact=exact, token_ids=token_ids, max_model_len=max_model_len
        )
        return self._plan

    def seam_failed(self) -> bool:
        """A continuation from ids did not fit. Return whether one from text is still to be tried."""
        first = not self._text_only
        self._text_only = True
        return first


def _raise_error(events: bytes) -> None:
    """Raise the error that is among whole events. Those before it are generated again."""
    _, _, rest = events.partition(_ERROR)
    chunk = decode_chunk(payloads(_ERROR + rest)[0])
    if chunk.error is not None:
        raise EngineError(error_message(chunk.error))


def _without_empty(events: bytes) -> bytes:
    """Return events without chunks that say nothing."""
    kept = [e for e in events.split(b"\n\n") if e and not (_NO_NEWS in e and b'"finish_reason":null' in e)]
    return b"".join(e + b"\n\n" for e in kept)


def broken_event(path: bytes, message: str) -> bytes:
    """Return the event that tells a client that its stream ends unfinished, in the words of the API it speaks."""
    data: dict[str, object]
    if path == b"/v1/messages":
        data = {"type": "error", "error": {"type": "api_error", "message": message}}
        return b"event: error\n" + event(data)
    if path == b"/v1/responses":
        data = {"type": "error", "code": "server_error", "message": message, "param": None}
        return b"event: error\n" + event(data)
    error = {"message": message, "type": "server_error", "param": None, "code": "stream_broken"}
    return event({"error": error})
