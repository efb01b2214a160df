"""The HTTP side: routes, keys and vLLM's small endpoints. A raw ASGI application."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import msgspec

from shoal.sim import anthropic, chat, responses, text
from shoal.sim.call import JSON, Call, Receive, Scope, Send
from shoal.sim.control import Control
from shoal.sim.engine import Engine
from shoal.sim.errors import ApiError, missing
from shoal.sim.family import Family
from shoal.sim.faults import Fault, FaultBoard, FaultError
from shoal.sim.fields import Fields, decode_json
from shoal.sim.generate import Generator
from shoal.sim.generation import ClientGoneError
from shoal.sim.group import Leader
from shoal.sim.openai import Service, TextRequest, parse_chat, parse_completion, read_prompts
from shoal.sim.pooling import parse_pooling
from shoal.sim.render import VERSION, ChatRenderer, CompletionRenderer, Renderer

# What vLLM's AuthenticationMiddleware guards; everything else is open to everybody, also there.
_GUARDED = ("/v1", "/v2", "/inference", "/cohere")
_PLAIN = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")
_UNAUTHORIZED = b'{"error":"Unauthorized"}'
_NOT_FOUND = b'{"detail":"Not Found"}'
_WRONG_METHOD = b'{"detail":"Method Not Allowed"}'
_WRONG_TYPE = "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed"

Handler = Callable[[Call], Awaitable[None]]


class App:
    """The application of one simulated engine.

    Args:
        service: names and limits of the model.
        model_path: what ``/v1/models`` gives as ``root``.
        engine: does the work.
        generator: answers requests for text with it.
        board: faults in force.
        control: carries out new ones.
        family: helper processes, if there are any.
        leader: the followers, where the engine spans several processes.
        api_keys: keys that open the guarded paths; none leaves them open.
        embedding_size: dimensions of the model's vectors.
        cached_tokens: name cached prompt tokens in the usage (``--enable-prompt-tokens-details``).
        force_usage: give the usage in every stream (``--enable-force-include-usage``).
    """

    def __init__(
        self,
        *,
        service: Service,
        model_path: str,
        engine: Engine,
        generator: Generator,
        board: FaultBoard,
        control: Control,
        family: Family | None = None,
        leader: Leader | None = None,
        api_keys: tuple[str, ...] = (),
        embedding_size: int = 64,
        cached_tokens: bool = False,
        force_usage: bool = False,
    ) -> None:
        self._service = service
        self._model_path = model_path
        self._engine = engine
        self._generator = generator
        self._board = board
        self._control = control
        self._family = family
        self._leader = leader
        self._keys = [hashlib.sha256(key.encode()).digest() for key in api_keys]
        self._embedding_size = embedding_size
        self._cached_tokens = cached_tokens
        self._force_usage = force_usage
        self._started = time.monotonic()
        self._by_path: Counter[str] = Counter()
        self._routes = self._make_routes()

    def _make_routes(self) -> dict[str, dict[str, Handler]]:
        get: dict[str, Handler] = {
            "/health": self._health,
            "/ping": self._health,
            "/version": self._version,
            "/load": self._load,
            "/metrics": self._metrics,
            "/v1/models": self._models,
            "/sim/state": self._state,
            "/sim/fault": self._list_faults,
        }
        post: dict[str, Handler] = {
            "/ping": self._health,
            "/tokenize": self._tokenize,
            "/detokenize": self._detokenize,
            "/v1/messages/count_tokens": self._count_tokens,
            "/reset_prefix_cache": self._reset_prefix_cache,
            "/sim/fault": self._order_fault,
        }
        for path in (
            "/v1/chat/completions",
            "/v1/completions",
            "/v1/messages",
            "/v1/responses",
            "/invocations",
            "/v1/embeddings",
            "/pooling",
            "/classify",
            "/score",
            "/v1/score",
            "/rerank",
            "/v1/rerank",
            "/v2/rerank",
        ):
            post[path] = self._infer
        routes: dict[str, dict[str, Handler]] = {}
        for method, handlers in (("GET", get), ("POST", post)):
            for path, handler in handlers.items():
                routes.setdefault(path, {})[method] = handler
        return routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; see ASGI."""
        call = Call(scope, receive, send)
        try:
            await self._answer(call)
        except ClientGoneError:
            return
        except ApiError as error:
            body = anthropic.error_body(error) if call.path.startswith("/v1/messages") else error.body()
            await call.respond(error.status, body, (JSON, *error.headers))

    async def _answer(self, call: Call) -> None:
        path = call.path
        if not path.startswith("/sim/"):
            await self._control.calm()
            if (
                self._keys
                and path.startswith(_GUARDED)
                and call.method != "OPTIONS"
                and not self._may_enter(call)
            ):
                await call.respond(401, _UNAUTHORIZED)
                return
        methods = self._routes.get(path)
        if methods is None:
            await call.respond(404, _NOT_FOUND)
        elif call.method not in methods:
            allow = (b"allow", ", ".join(methods).encode())
            await call.respond(405, _WRONG_METHOD, (JSON, allow))
        else:
            await methods[call.method](call)

    def _may_enter(self, call: Call) -> bool:
        scheme, _, key = call.headers.get(b"authorization", b"").partition(b" ")
        digest = hashlib.sha256(key).digest()
        matches = [hmac.compare_digest(digest, known) for known in self._keys]
        return scheme.lower() == b"bearer" and any(matches)

    async def _json(self, call: Call) -> object:
        body = await call.body()
        kind = call.headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        if kind != b"application/json":
            raise ApiError(_WRONG_TYPE, 400, "Bad Request")
        return decode_json(body)

    # --- inference -----------------------------------------------------------------------------------------------

    async def _infer(self, call: Call) -> None:
        self._by_path[call.path] += 1
        body = await self._json(call)
        self._fail_as_ordered()
        path = call.path
        if path == "/invocations":
            path = _invoked(body)
        task = path.rpartition("/")[2]
        model = self._service.served[0]
        renderer: Renderer
        if path == "/v1/chat/completions":
            request = self._with_usage(parse_chat(body, call.headers, self._service))
            renderer = ChatRenderer(request, model, cached_tokens=self._cached_tokens)
        elif path == "/v1/completions":
            request = self._with_usage(parse_completion(body, call.headers, self._service))
            renderer = CompletionRenderer(request, model, cached_tokens=self._cached_tokens)
        elif path == "/v1/messages":
            request = anthropic.parse_messages(body, call.headers, self._service)
            renderer = anthropic.MessagesRenderer(request, model, cached_tokens=self._cached_tokens)
        elif path == "/v1/responses":
            request = responses.parse_responses(body, call.headers, self._service)
            renderer = responses.ResponsesRenderer(request, model, body)
        else:
            pooling = parse_pooling(task, body, call.headers, self._service, self._embedding_size)
            await self._generator.pooling(call, pooling)
            await call.respond(200, msgspec.json.encode(pooling.respond()))
            return
        await self._generator.text(call, request, renderer)

    def _with_usage(self, request: TextRequest) -> TextRequest:
        if not self._force_usage:
            return request
        return replace(request, include_usage=True, continuous_usage=True)

    def _fail_as_ordered(self) -> None:
        fault = self._board.use("status")
        if fault is not None:
            headers: tuple[tuple[bytes, bytes], ...] = ()
            if fault.retry_after is not None:
                headers = ((b"retry-after", b"%d" % fault.retry_after),)
            raise ApiError(fault.message or f"Simulated fault: {fault.status}", fault.status, headers=headers)

    # --- vLLM's other endpoints ----------------------------------------------------------------------------------

    async def _health(self, call: Call) -> None:
        await call.respond(503 if self._engine.dead else 200, b"", ())

    async def _version(self, call: Call) -> None:
        await call.respond(200, msgspec.json.encode({"version": VERSION}))

    async def _load(self, call: Call) -> None:
        await call.respond(200, msgspec.json.encode({"server_load": self._engine.open}))

    async def _metrics(self, call: Call) -> None:
        await call.respond(200, self._engine.page().encode(), (_PLAIN,))

    async def _models(self, call: Call) -> None:
        now = int(time.time())
        cards = [
            {
                "id": name,
                "object": "model",
                "created": now,
                "owned_by": "vllm",
                "root": self._model_path,
                "parent": None,
                "max_model_len": self._service.max_model_len,
                "permission": [_permission(now)],
            }
            for name in self._service.served
        ]
        await call.respond(200, msgspec.json.encode({"object": "list", "data": cards}))

    async def _tokenize(self, call: Call) -> None:
        fields = Fields(await self._json(call))
        if "messages" in fields.data:
            messages = chat.check_messages(fields.require("messages"))
            prompt = chat.render(
                messages,
                add_generation_prompt=fields.boolean("add_generation_prompt", True),
                continue_final_message=fields.boolean("continue_final_message"),
                tools=fields.items("tools"),
            )
        else:
            fields.require("prompt")
            prompt = fields.string("prompt") or ""
        self._service.check_model(fields.string("model"))
        tokens = text.encode(prompt)
        strings = [text.decode((token,)) for token in tokens] if fields.boolean("return_token_strs") else None
        answer = {
            "count": len(tokens),
            "max_model_len": self._service.max_model_len,
            "tokens": tokens,
            "token_strs": strings,
        }
        await call.respond(200, msgspec.json.encode(answer))

    async def _detokenize(self, call: Call) -> None:
        fields = Fields(await self._json(call))
        if "tokens" not in fields.data:
            raise missing("tokens", fields.data)
        self._service.check_model(fields.string("model"))
        tokens = [token for token in fields.items("tokens") or [] if isinstance(token, int)]
        await call.respond(200, msgspec.json.encode({"prompt": text.decode(tokens)}))

    async def _count_tokens(self, call: Call) -> None:
        data = anthropic.as_chat(await self._json(call), max_tokens_required=False)
        self._service.check_model(data["model"])
        count = len(text.encode(chat.render(data["messages"])))
        answer = {"input_tokens": count, "context_management": {"original_input_tokens": count}}
        await call.respond(200, msgspec.json.encode(answer))

    async def _reset_prefix_cache(self, call: Call) -> None:
        await call.body()
        self._engine.scheduler.pool.forget()
        await call.respond(200, b"", ())

    # --- the simulation itself -----------------------------------------------------------------------------------

    async def _state(self, call: Call) -> None:
        await call.respond(200, msgspec.json.encode(self.state()))

    def state(self) -> dict[str, Any]:
        """Return what ``GET /sim/state`` says; nothing in it is secret."""
        engine = self._engine
        pool = engine.scheduler.pool
        return {
            "pid": os.getpid(),
            "uptime": time.monotonic() - self._started,
            "models": self._service.served,
            "requests": engine.seen,
            "running": len(engine.scheduler.running),
            "waiting": engine.scheduler.waiting,
            "finished": engine.finished,
            "aborted": engine.aborted,
            "preemptions": engine.scheduler.preemptions,
            "prompt_tokens": engine.metrics.prompt_tokens,
            "generation_tokens": engine.metrics.generation_tokens,
            "prefix_cache": {"queries": pool.queries, "hits": pool.hits, "blocks": pool.cached},
            "kv": {"blocks": pool.capacity, "used": pool.used, "block_size": pool.block_size},
            "calls": dict(self._by_path),
            "order": engine.order[-1000:],
            "faults": self._board.as_list(),
            "children": self._family.pids if self._family else [],
            "segment": self._family.segment if self._family else None,
            "group": self._leader.describe() if self._leader else None,
        }

    async def _list_faults(self, call: Call) -> None:
        await call.respond(200, msgspec.json.encode({"faults": self._board.as_list()}))

    async def _order_fault(self, call: Call) -> None:
        try:
            fault = Fault.parse(decode_json(await call.body()))
        except FaultError as error:
            raise ApiError(str(error)) from error
        await self._control.order(fault)
        await call.respond(
            200, msgspec.json.encode({"ordered": fault.as_dict(), "faults": self._board.as_list()})
        )


def _invoked(body: object) -> str:
    """Return the path a SageMaker ``/invocations`` body means."""
    fields = Fields(body)
    if "messages" in fields.data:
        return "/v1/chat/completions"
    if "prompt" in fields.data:
        return "/v1/completions"
    if "input" in fields.data:
        read_prompts(fields, "input")
        return "/v1/embeddings"
    raise ApiError("Cannot find suitable handler for request. Expected one of: messages, prompt, input")


def _permission(now: int) -> dict[str, Any]:
    return {
        "id": f"modelperm-{secrets.token_hex(8)}",
        "object": "model_permission",
        "created": now,
        "allow_create_engine": False,
        "allow_sampling": True,
        "allow_logprobs": True,
        "allow_search_indices": False,
        "allow_view": True,
        "allow_fine_tuning": False,
        "organization": "*",
        "group": None,
        "is_blocking": False,
    }
