"""A hub of models on this machine, as Hugging Face's library asks one."""

import hashlib
import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

_COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Serves one model while the `with` block runs.

    Attributes:
        url: value for HF_ENDPOINT.
        got: how often each file was downloaded.
    """

    def __init__(self, model: str, files: dict[str, bytes]) -> None:
        self.got: Counter[str] = Counter()
        got = self.got

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                prefix = f"/{model}/resolve/{_COMMIT}/"
                if path.startswith(f"/api/models/{model}/tree/"):
                    tree = [
                        {"type": "file", "path": n, "size": len(c), "oid": hashlib.sha1(c).hexdigest()}
                        for n, c in files.items()
                    ]
                    self._answer(json.dumps(tree).encode())
                elif path.startswith(f"/api/models/{model}"):
                    siblings = [{"rfilename": n} for n in files]
                    info = {"id": model, "modelId": model, "sha": _COMMIT, "siblings": siblings}
                    self._answer(json.dumps(info).encode())
                elif path.startswith(prefix) and path.removeprefix(prefix) in files:
                    name = path.removeprefix(prefix)
                    got[name] += self.command == "GET"
                    self._answer(files[name], etag=hashlib.sha1(files[name]).hexdigest())
                else:
                    self.send_error(404)

            def _answer(self, body: bytes, etag: str = "") -> None:
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.send_header("x-repo-commit", _COMMIT)
                if etag:
                    self.send_header("etag", f'"{etag}"')
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "Hub":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
