"""A small chat server with the standard library alone, for `engine: command`: not vLLM, and no model.

It knows /ready and /v1/chat/completions, and nothing else: no /health, no /metrics, no /v1/models. Its answer is the
question's last message backwards, word by word.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    name = ""

    def do_GET(self) -> None:
        self.reply(200 if self.path == "/ready" else 404, {"pid": os.getpid()})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path != "/v1/chat/completions":
            self.reply(404, {"error": "no such path"})
            return
        words = body["messages"][-1]["content"].split()[::-1][: body.get("max_tokens", 100)]
        if body.get("stream"):
            self.stream(words, body.get("pause", 0.0))
        else:
            message = {"role": "assistant", "content": " ".join(words)}
            self.reply(200, self.whole(choices=[{"index": 0, "message": message, "finish_reason": "stop"}]))

    def whole(self, **more: Any) -> dict[str, Any]:
        return {"id": "c", "created": 0, "model": self.name, "object": "chat.completion"} | more

    def reply(self, status: int, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def stream(self, words: list[str], pause: float) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for word in words:
            choice = {"index": 0, "delta": {"content": word + " "}, "finish_reason": None}
            self.chunk(json.dumps(self.whole(object="chat.completion.chunk", choices=[choice])))
            time.sleep(pause)
        last = {"index": 0, "delta": {}, "finish_reason": "stop"}
        self.chunk(json.dumps(self.whole(object="chat.completion.chunk", choices=[last])))
        self.chunk("[DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def chunk(self, text: str) -> None:
        event = f"data: {text}\n\n".encode()
        self.wfile.write(b"%x\r\n%b\r\n" % (len(event), event))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--name")
    options = parser.parse_args()
    Handler.name = options.name
    ThreadingHTTPServer((options.host, options.port), Handler).serve_forever()
