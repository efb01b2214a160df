"""What a stream has said so far, kept so that another engine can go on from there.

The events of a healthy stream are kept as they came and not looked at. They are read when the stream has broken, or
when there are so many that reading them saves memory: read, an event takes a tenth of its size.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from itertools import accumulate, chain, compress, repeat
from typing import Any

import msgspec

from shoal.gateway.events import payloads

DONE = b"[DONE]"
FOLD_PIECES = 256
"""Events of which only pieces are kept; whoever adds the last of them has them read."""

_FOLD_AT = 32 * 1024  # bytes of unread events
_TOKEN_SIZE = 16  # bytes that a token takes once it is read, text and marks included, about


class Delta(msgspec.Struct, gc=False):
    """What a chat chunk adds to the message (the fields that matter here)."""

    role: str | None = None
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[Any] | None = None


class Choice(msgspec.Struct, gc=False):
    """A choice of a chunk: of chat completions (`delta`) or completions (`text`)."""

    index: int = 0
    delta: Delta | None = None
    text: str | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None

    @property
    def content(self) -> str:
        """The text this adds to the answer."""
        return (self.delta.content if self.delta is not None else self.text) or ""


class Usage(msgspec.Struct, gc=False):
    """Token counts as an engine gives them."""

    prompt_tokens: int = 0
    completion_tokens: int | None = 0
    prompt_tokens_details: dict[str, Any] | None = None


class Chunk(msgspec.Struct, gc=False):
    """One event of ``/v1/chat/completions`` or ``/v1/completions``."""

    id: str = ""
    created: int = 0
    model: str = ""
    choices: list[Choice] = []
    usage: Usage | None = None
    prompt_token_ids: list[int] | None = None
    system_fingerprint: str | None = None
    error: Any = None


decode_chunk = msgspec.json.Decoder(Chunk).decode
_decode_chunks = msgspec.json.Decoder(list[Chunk]).decode
_decode_texts = msgspec.json.Decoder(list[str]).decode
_decode_ids = msgspec.json.Decoder(list[list[int]]).decode


class Transcript:
    """What one stream has said.

    Args:
        limit: bytes kept at most; beyond it the stream cannot be continued.

    Attributes:
        overflown: there was more than `limit`: nothing is kept any more.
        head: the first chunk, None before there was one: who it is (id, created, model).
        prompt_ids: token ids of the prompt, None where the engine did not give them.
        ids: token ids of the answer.
        chars: characters of the answer that have gone to the client.
        covered: characters that `ids` stand for: `chars`, except while another engine repeats what was sent.
        ahead: token ids behind `ids` that had come already, while another engine generates them again.
        mark_ids: for every chunk with text, how many ids there were with it,
        mark_chars: and how many characters (`covered`).
        counted: tokens of the answer; where there are no ids, chunks: engines send one for each token.
        spoken: those of them that `covered` stands for: without the first tokens of a character that is not whole yet.
        finish_reason: how the answer ended, None before it did.
        reasoning: some of the answer was reasoning.
        last_reasoning: the last of it was.
        tool_calls: the answer calls tools.
        several: there is more than one choice.
        prompt_tokens: tokens of the prompt, None when not known.
        completion_tokens: of the answer, as the last usage has them; 0 without one.
        with_usage: chunks carry the usage so far.
        usage_sent: the usage at the end has been sent.
        pieces: of events that have gone to the client after those that `keep` was told of, and of which all that counts
            is known: the insides of the JSON strings with their texts. Always the same list.
        piece_ids: the insides of the JSON lists with their token ids: in a stream, always or never.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._unread: list[bytes] = []
        self._unread_size = 0
        self.pieces: list[bytes] = []
        self.piece_ids: list[bytes] = []
        self.overflown = False
        self.head: Chunk | None = None
        self.prompt_ids: list[int] | None = None
        self.ids: array[int] = array("I")
        self.ahead: array[int] = array("I")
        self._text: list[str] = []
        self.chars = 0
        self.covered = 0
        self.mark_ids: array[int] = array("I")
        self.mark_chars: array[int] = array("I")
        self.counted = self.spoken = 0
        self.finish_reason: str | None = None
        self.reasoning = self.last_reasoning = self.tool_calls = self.several = False
        self.prompt_tokens: int | None = None
        self.completion_tokens = 0
        self.with_usage = self.usage_sent = False

    @property
    def text(self) -> str:
        """The answer as far as it has gone to the client."""
        if len(self._text) > 1:
            self._text = ["".join(self._text)]
        return self._text[0] if self._text else ""

    def keep(self, events: bytes) -> None:
        """Note whole events that go to the client."""
        if self.overflown:
            return
        if self.pieces:
            self.read()  # they came before
        self._unread.append(events)
        self._unread_size += len(events)
        if self._unread_size > _FOLD_AT:
            self.read()

    def read(self) -> None:
        """Read what was kept unread."""
        if self.overflown:
            self._drop_pieces()
            return
        try:
            if self._unread:
                events, self._unread, self._unread_size = b"".join(self._unread), [], 0
                chunks = b",".join([data for data in payloads(events) if data != DONE])
                for chunk in _decode_chunks(b"[%b]" % chunks):
                    self.note(chunk)
            if self.pieces:
                self._read_pieces()
        except (msgspec.MsgspecError, UnicodeDecodeError, OverflowError):
            self._overflow()  # what it says is not known, so neither is how to go on from it
        self._text = [self.text]  # one string instead of thousands of pieces
        if _TOKEN_SIZE * (len(self.ids) + len(self.prompt_ids or ())) + self.chars > self._limit:
            self._overflow()

    def _read_pieces(self) -> None:
        """Read pieces as `note` reads events, all at once."""
        pieces, piece_ids = self.pieces[:], self.piece_ids[:]
        self._drop_pieces()
        texts = _decode_texts(b'["%b"]' % b'","'.join(pieces))
        if len(texts) != len(pieces):
            raise msgspec.DecodeError("a text is not what it seemed")
        before = len(self.ids)
        counts: Iterable[int] = repeat(before, len(texts))
        sizes: Iterable[int] = repeat(1, len(texts))
        if piece_ids:
            ids = _decode_ids(b"[[%b]]" % b"],[".join(piece_ids))
            sizes = list(map(len, ids))
            counts = list(accumulate(sizes, initial=before))[1:]
            self.ids.extend(chain.from_iterable(ids))
        counted = list(accumulate(sizes, initial=self.counted))[1:]
        self.counted = counted[-1]
        self.spoken = max(compress(counted, texts), default=self.spoken)
        chars = list(accumulate(map(len, texts), initial=self.covered))[1:]
        self.mark_ids.extend(compress(counts, texts))  # an empty text leaves no mark
        self.mark_chars.extend(compress(chars, texts))
        self.chars += chars[-1] - self.covered
        self.covered = chars[-1]
        self._text += texts
        self.last_reasoning = self.last_reasoning and not any(texts)

    def _overflow(self) -> None:
        self.overflown = True
        self._text, self.prompt_ids = [], None
        self._unread = []
        self._drop_pieces()
        self.ids, self.mark_ids, self.mark_chars = array("I"), array("I"), array("I")

    def _drop_pieces(self) -> None:
        self.pieces.clear()
        self.piece_ids.clear()

    def note(self, chunk: Chunk) -> None:
        """Note what a chunk says that goes to the client."""
        if self.head is None:
            self.head = chunk
        ids = chunk.prompt_token_ids
        if chunk.usage is not None:
            self.prompt_tokens = chunk.usage.prompt_tokens
            self.completion_tokens = chunk.usage.completion_tokens or 0
            self.with_usage = self.with_usage or bool(chunk.choices)
            self.usage_sent = self.usage_sent or not chunk.choices
        for choice in chunk.choices:
            self.several = self.several or choice.index > 0
            ids = ids or choice.prompt_token_ids
            self._note_choice(choice)
        if ids and self.prompt_ids is None:
            self.prompt_ids = ids
            self.prompt_tokens = len(ids)

    def _note_choice(self, choice: Choice) -> None:
        delta = choice.delta
        if delta is not None:
            self.tool_calls = self.tool_calls or bool(delta.tool_calls)
            if delta.reasoning or delta.reasoning_content:
                self.reasoning = self.last_reasoning = True
            elif delta.content:
                self.last_reasoning = False
        text = choice.content
        begins = delta is not None and delta.role is not None and not text
        self.extend([] if begins else choice.token_ids, text, text)
        if choice.finish_reason is not None:
            self.finish_reason = choice.finish_reason

    def extend(self, ids: list[int] | None, text: str, sent: str) -> None:
        """Add to the answer.

        Args:
            ids: token ids, None where there are none.
            text: what the engine has made of them.
            sent: the part of it that is news to the client.
        """
        if ids is not None:
            self.ids.extend(ids)
            self.counted += len(ids)
        else:
            self.counted += 1
        self.covered += len(text)
        if text:
            self.spoken = self.counted
        if sent:
            self._text.append(sent)
            self.chars += len(sent)
        if text:
            self.mark_ids.append(len(self.ids))
            self.mark_chars.append(self.covered)

    def rewind(self, tokens: int, covered: int) -> None:
        """Put the token ids behind the first `tokens`, which stand for `covered` characters, `ahead`."""
        self.ahead = self.ids[tokens:] + self.ahead
        del self.ids[tokens:]
        self.counted = self.spoken = tokens
        self.covered = covered
        while self.mark_ids and self.mark_ids[-1] > tokens:
            self.mark_ids.pop()
            self.mark_chars.pop()

    def news_of(self, ids: list[int]) -> list[int]:
        """Return ids that were generated again without those that are `ahead`, as far as they are the same."""
        ahead, same = self.ahead, 0
        while same < len(ids) and same < len(ahead) and ids[same] == ahead[same]:
            same += 1
        # Others than those that were sent, which cannot be taken back, are news with all that follows.
        self.ahead = ahead[same:] if same == len(ids) else ahead[:0]
        return ids[same:]
