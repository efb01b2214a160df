"""The shapes themselves are compared with vLLM's in test_server.py; here is what depends on the request."""

from __future__ import annotations

import json
from typing import Any

from shoal.sim import text
from shoal.sim.detokenizer import Detokenizer
from shoal.sim.generation import Generation, Outbox, Sampling
from shoal.sim.openai import TextRequest
from shoal.sim.render import ChatRenderer, CompletionRenderer, logprob, usage_of
from shoal.sim.scheduler import Request

PROMPT = text.encode("ask")
ANSWER = text.encode(" some words")


def done(index: int = 0, prompt: list[int] = PROMPT) -> Generation:
    detokenizer = Detokenizer(prompt)
    for token in ANSWER:
        detokenizer.push(token)
    request = Request("r", [*prompt, *ANSWER], len(prompt), 100)
    continuation = text.Continuation(prompt)
    generation = Generation(request, Sampling(50), Outbox(), True, index, continuation, detokenizer)
    generation.finish_reason = "length"
    return generation


def asked(**how: Any) -> TextRequest:
    return TextRequest(
        **({"id": "x", "prompts": [PROMPT], "samplings": [Sampling(50)], "echo_text": ["ask"]} | how)
    )


def read(stream: bytes) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in stream.split(b"\n") if line.startswith(b"data: {")]


def test_usage_counts_the_prompt_of_several_answers_once() -> None:
    usage = usage_of([done(0), done(1), done(2), done(3)], 2, cached=False)
    assert usage["prompt_tokens"] == 2 * len(PROMPT)
    assert usage["completion_tokens"] == 4 * len(ANSWER)
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_every_answer_of_a_chat_begins_with_its_role_and_echo() -> None:
    chunks = read(
        ChatRenderer(asked(n=2, stream=True, echo=True, role="user"), "m").start([done(0), done(1)])
    )
    assert [chunk["choices"][0]["delta"].get("role") for chunk in chunks] == ["user", "user", None, None]
    assert chunks[2]["choices"][0]["delta"]["content"] == "ask"


def test_an_echo_stands_in_front_of_the_answer() -> None:
    chat = json.loads(ChatRenderer(asked(echo=True), "m").full([done()]))
    assert chat["choices"][0]["message"]["content"] == "ask some words"
    completion = json.loads(CompletionRenderer(asked(echo=True, logprobs=1), "m").full([done()]))
    assert completion["choices"][0]["text"] == "ask some words"
    assert "".join(completion["choices"][0]["logprobs"]["tokens"]) == "ask some words"
    only = json.loads(CompletionRenderer(asked(echo=True, echo_only=True), "m").full([done()]))
    assert only["choices"][0]["text"] == "ask"


def test_vllm_leaves_the_echo_out_when_token_ids_are_asked_for() -> None:
    answer = json.loads(CompletionRenderer(asked(echo=True, return_token_ids=True), "m").full([done()]))
    assert answer["choices"][0]["text"] == " some words"
    assert answer["choices"][0]["prompt_token_ids"] == PROMPT


def test_a_streamed_completion_gives_prompt_and_echo_once() -> None:
    renderer = CompletionRenderer(asked(stream=True, echo=True), "m")
    first, second = (read(renderer.delta(done(), [ANSWER[0]], piece, 1))[0] for piece in (" some", " words"))
    assert (first["choices"][0]["text"], first["choices"][0]["prompt_token_ids"]) == ("ask some", PROMPT)
    assert (second["choices"][0]["text"], second["choices"][0]["prompt_token_ids"]) == (" words", None)


def test_a_stream_is_finished_only_when_nothing_is_left_to_take() -> None:
    generation = done()
    generation.news = [(5, "x")]
    chunk = read(CompletionRenderer(asked(stream=True), "m").delta(generation, [4], "y", 1))[0]
    assert chunk["choices"][0]["finish_reason"] is None
    assert "system_fingerprint" not in chunk


def test_logprobs_are_probabilities_and_depend_on_the_token() -> None:
    assert all(logprob(token) < 0 for token in range(5000))
    assert logprob(5) == logprob(5) != logprob(6)


def test_offsets_of_logprobs_point_into_the_text() -> None:
    found = json.loads(CompletionRenderer(asked(logprobs=2), "m").full([done()]))["choices"][0]["logprobs"]
    for offset, token in zip(found["text_offset"], found["tokens"], strict=True):
        assert " some words"[offset:].startswith(token)


def test_a_failed_stream_says_so_and_ends_as_vllms() -> None:
    assert ChatRenderer(asked(stream=True), "m").error("it broke") == (
        b'data: {"error":{"message":"it broke","type":"InternalServerError","param":null,"code":500}}\n\n'
        b"data: [DONE]\n\n"
    )
