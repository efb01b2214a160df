from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import anthropic
import httpx
import openai
import pytest

if TYPE_CHECKING:
    from support.sim import Sim

ASKING = [{"role": "user", "content": "tell me something with faces"}]
LONG = {"max_tokens": 120, "ignore_eos": True}


def stream(sim: Sim, path: str, **body: Any) -> list[dict[str, Any]]:
    """Return the JSON of all events of a complete stream."""
    response = sim.http.post(path, json={"stream": True} | body)
    assert response.status_code == 200, response.text
    *lines, last = [line for line in response.text.split("\n") if line]
    assert last == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]


@pytest.fixture(scope="module")
def whole(sim: Sim) -> dict[str, Any]:
    body = {"messages": ASKING, "return_token_ids": True} | LONG
    return dict(sim.http.post("/v1/chat/completions", json=body).json())


def test_a_stream_says_the_same_as_the_whole_answer(sim: Sim, whole: dict[str, Any]) -> None:
    chunks = stream(sim, "/v1/chat/completions", messages=ASKING, return_token_ids=True, **LONG)
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert chunks[0]["prompt_token_ids"] == whole["prompt_token_ids"]
    content = "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks)
    ids = [token for chunk in chunks[1:] for token in chunk["choices"][0]["token_ids"]]
    assert content == whole["choices"][0]["message"]["content"]
    assert ids == whole["choices"][0]["token_ids"]
    assert {chunk["id"] for chunk in chunks} == {chunks[0]["id"]}
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[-2:]] == [None, "length"]


def test_no_event_holds_half_a_character(sim: Sim) -> None:
    chunks = stream(sim, "/v1/chat/completions", messages=ASKING, **LONG)
    pieces = [chunk["choices"][0]["delta"]["content"] for chunk in chunks]
    assert "\ufffd" not in "".join(pieces)
    assert any(len(piece.encode()) >= 3 for piece in pieces)


def test_token_ids_continue_identically_at_every_cut(sim: Sim, whole: dict[str, Any]) -> None:
    prompt, ids = whole["prompt_token_ids"], whole["choices"][0]["token_ids"]
    for cut in range(len(ids)):
        body = {
            "prompt": prompt + ids[:cut],
            "max_tokens": len(ids) - cut,
            "ignore_eos": True,
            "return_token_ids": True,
        }
        choice = sim.complete(**body)["choices"][0]
        assert choice["token_ids"] == ids[cut:]


def test_text_continues_identically_at_every_cut(sim: Sim, whole: dict[str, Any]) -> None:
    text = whole["choices"][0]["message"]["content"]
    chunks = stream(sim, "/v1/chat/completions", messages=ASKING, **LONG)
    for cut in range(2, len(chunks), 7):
        said = "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks[:cut])
        body = {
            "messages": [*ASKING, {"role": "assistant", "content": said}],
            "add_generation_prompt": False,
            "continue_final_message": True,
        }
        answer = sim.http.post("/v1/chat/completions", json=body | LONG).json()
        assert (said + answer["choices"][0]["message"]["content"]).startswith(text)


def test_a_prompt_that_ends_inside_a_character_is_repeated_as_by_vllm(sim: Sim) -> None:
    emoji = sim.http.post("/tokenize", json={"prompt": "ab😀"}).json()["tokens"]
    answer = sim.complete(prompt=emoji[:-1], max_tokens=1)["choices"][0]["text"]
    assert answer.startswith("ab")
    assert len(answer) == 3


def test_usage_comes_at_the_end_or_with_every_chunk(sim: Sim) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = stream(
        sim, "/v1/completions", prompt="hello", max_tokens=3, ignore_eos=True, stream_options=options
    )
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [1, 2, 3, 3]
    assert chunks[-1]["choices"] == []
    chunks = stream(
        sim,
        "/v1/completions",
        prompt="hello",
        max_tokens=3,
        stream_options={"include_usage": True},
        ignore_eos=True,
    )
    assert [("usage" in chunk) for chunk in chunks] == [False, False, False, True]


def test_several_prompts_and_answers_keep_their_indexes(sim: Sim) -> None:
    answer = sim.complete(prompt=["one", "two"], n=2, max_tokens=4)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    texts = [choice["text"] for choice in answer["choices"]]
    assert len(set(texts)) == 4
    assert texts[0] == sim.complete(prompt="one", max_tokens=4)["choices"][0]["text"]
    chunks = stream(sim, "/v1/completions", prompt=["one", "two"], n=2, max_tokens=4)
    streamed = ["", "", "", ""]
    for chunk in chunks:
        streamed[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
    assert streamed == texts


def test_a_stop_string_ends_a_stream(sim: Sim, whole: dict[str, Any]) -> None:
    text = whole["choices"][0]["message"]["content"]
    stop = text[20:24]
    chunks = stream(sim, "/v1/chat/completions", messages=ASKING, stop=stop, **LONG)
    content = "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks)
    assert content == text.partition(stop)[0]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["choices"][0]["stop_reason"] == stop


def test_salt_makes_another_model(sim: Sim, start_sim: Callable[..., Sim]) -> None:
    salted = start_sim("--time-scale", "0", "--salt", "other")
    assert salted.complete()["choices"][0]["text"] != sim.complete()["choices"][0]["text"]


def test_a_client_that_leaves_aborts_its_request(start_sim: Callable[..., Sim]) -> None:
    slow = start_sim("--decode-ms", "20")
    endless = {"prompt": "x", "max_tokens": 10_000, "ignore_eos": True}
    with (
        slow.another() as client,
        client.stream("POST", "/v1/completions", json=endless | {"stream": True}) as response,
    ):
        lines = response.iter_lines()
        next(lines)
        assert slow.state()["running"] == 1
    slow.wait(
        lambda state: bool(state["aborted"] == 1 and state["running"] == 0 and state["kv"]["used"] == 0)
    )
    with slow.another(timeout=0.2) as client, pytest.raises(httpx.ReadTimeout):
        client.post("/v1/completions", json=endless)
    slow.wait(lambda state: bool(state["aborted"] == 2 and state["running"] == 0))
    assert slow.state()["finished"] == 0


def test_the_openai_client_is_content(sim: Sim) -> None:
    client = openai.OpenAI(base_url=f"{sim.url}/v1", api_key="none", max_retries=0)
    answer = client.chat.completions.create(model="sim-model", messages=ASKING, max_tokens=20)
    pieces = client.chat.completions.create(model="sim-alias", messages=ASKING, max_tokens=20, stream=True)
    joined = "".join(chunk.choices[0].delta.content or "" for chunk in pieces)
    assert joined == answer.choices[0].message.content
    assert answer.usage is not None and answer.usage.completion_tokens == 20
    completion = client.completions.create(model="sim-model", prompt="hello", max_tokens=5, logprobs=2)
    assert completion.choices[0].logprobs is not None
    chatty = client.chat.completions.create(
        model="sim-model", messages=ASKING, max_tokens=5, logprobs=True, top_logprobs=2
    )
    assert len(chatty.choices[0].logprobs.content[0].top_logprobs) == 2
    assert len(client.embeddings.create(model="sim-model", input=["a", "b"]).data) == 2
    assert [model.id for model in client.models.list()] == ["sim-model", "sim-alias"]
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.completions.create(model="nope", prompt="x")


def test_the_anthropic_client_is_content(sim: Sim) -> None:
    client = anthropic.Anthropic(base_url=sim.url, api_key="none", max_retries=0)
    ask: dict[str, Any] = {"model": "sim-model", "max_tokens": 20, "messages": ASKING, "system": "be brief"}
    answer = client.messages.create(**ask)
    with client.messages.stream(**ask) as streaming:
        assert "".join(streaming.text_stream) == answer.content[0].text
        assert streaming.get_final_message().usage.output_tokens == 20
    assert answer.stop_reason == "max_tokens"
    assert client.messages.count_tokens(model="sim-model", messages=ASKING).input_tokens > 5
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(**(ask | {"model": "nope"}))


def test_usage_flags_of_vllm_are_honoured(start_sim: Callable[..., Sim]) -> None:
    telling = start_sim("--time-scale", "0", "--enable-prompt-tokens-details", "--enable-force-include-usage")
    prompt = "many words that fill more than one block of the cache, surely, they do"
    telling.complete(prompt=prompt)
    usage = telling.complete(prompt=prompt)["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] >= 16
    chunks = stream(telling, "/v1/completions", prompt=prompt, max_tokens=2)
    assert all("usage" in chunk for chunk in chunks)
