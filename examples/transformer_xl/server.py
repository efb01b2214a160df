"""An OpenAI completions server for the model beside it: ``python server.py --model DIRECTORY --port 8000``.

It is small on purpose: what it takes to be an engine of Shoal (docs/engines.md), and no more. One request is computed
at a time; others wait their turn.
"""

from __future__ import annotations

import argparse
import asyncio
import codecs
import json
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import torch
import uvicorn
from model import TransformerXL
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

_LONGEST = 4096  # bytes of one answer
_DEFAULT = 16


class Server:
    """Answers with one model.

    Args:
        model: it.
        name: what clients call it.
    """

    def __init__(self, model: TransformerXL, name: str) -> None:
        self._model = model
        self._name = name
        self._turn = asyncio.Lock()
        self.app = Starlette(
            routes=[
                Route("/health", self.health),
                Route("/v1/models", self.models),
                Route("/v1/completions", self.completions, methods=["POST"]),
            ]
        )

    async def health(self, _: Request) -> Response:
        """Answer 200: the model is loaded before the port is open."""
        return Response()

    async def models(self, _: Request) -> Response:
        """List the one model."""
        entry = {"id": self._name, "object": "model", "created": 0, "owned_by": "transformer_xl"}
        return JSONResponse({"object": "list", "data": [entry]})

    async def completions(self, request: Request) -> Response:
        """Complete a prompt, whole or as a stream."""
        try:
            body = await request.json()
            prompt, count = str(body["prompt"]).encode(), int(body.get("max_tokens") or _DEFAULT)
            temperature, seed = float(body.get("temperature", 1.0)), body.get("seed")
            if not 0 < count <= _LONGEST or temperature < 0:
                raise ValueError(f"max_tokens must be 1 to {_LONGEST}, temperature 0 or more")
        except (ValueError, KeyError, TypeError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            return JSONResponse({"error": {"message": reason, "type": "invalid_request_error"}}, 400)
        pieces = self._pieces(self._model.generate(prompt, count, temperature, seed))
        whole = {"id": f"cmpl-{uuid.uuid4().hex}", "object": "text_completion", "model": self._name}
        whole |= {"created": int(time.time())}
        usage = {
            "prompt_tokens": len(prompt),
            "completion_tokens": count,
            "total_tokens": len(prompt) + count,
        }
        if body.get("stream"):
            last = usage if (body.get("stream_options") or {}).get("include_usage") else None
            return StreamingResponse(_events(pieces, whole, last), media_type="text/event-stream")
        text = "".join([piece async for piece in pieces])
        return JSONResponse(whole | {"choices": [_choice(text, "length")], "usage": usage})

    async def _pieces(self, generated: Iterator[int]) -> AsyncIterator[str]:
        """Yield the text of each byte, "" while a character is not whole yet."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        async with self._turn:
            while (byte := await asyncio.to_thread(next, generated, None)) is not None:
                yield decoder.decode(bytes([byte]))
            yield decoder.decode(b"", final=True)


def _choice(text: str, reason: str | None) -> dict[str, Any]:
    return {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}


async def _events(
    pieces: AsyncIterator[str], whole: dict[str, Any], usage: dict[str, int] | None
) -> AsyncIterator[str]:
    async for piece in pieces:
        yield f"data: {json.dumps(whole | {'choices': [_choice(piece, None)]})}\n\n"
    yield f"data: {json.dumps(whole | {'choices': [_choice('', 'length')]})}\n\n"
    if usage is not None:
        yield f"data: {json.dumps(whole | {'choices': [], 'usage': usage})}\n\n"
    yield "data: [DONE]\n\n"


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Serve a Transformer-XL.")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--name", default="transformer-xl")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    torch.set_num_threads(1)  # for one byte at a time, several only wait for each other
    server = Server(TransformerXL.load(options.model), options.name)
    uvicorn.run(server.app, host=options.host, port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
