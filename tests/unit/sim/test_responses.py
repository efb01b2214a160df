"""Responses: chats in other clothes. Their shape is judged by OpenAI's own types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from openai.types.responses import Response

from shoal.sim.errors import ApiError
from shoal.sim.responses import as_chat

if TYPE_CHECKING:
    from support.sim import Sim

BODY = {"model": "sim-model", "input": "Why do fish swim?", "max_output_tokens": 6, "ignore_eos": True}


def test_a_response_is_a_chat_in_other_clothes() -> None:
    chat = as_chat(BODY | {"instructions": "be kind", "temperature": 0.5})
    assert chat["messages"] == [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "Why do fish swim?"},
    ]
    assert (chat["max_tokens"], chat["temperature"]) == (6, 0.5)
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
        {"type": "message", "role": "assistant", "content": "b"},
    ]
    assert as_chat(BODY | {"input": items})["messages"] == [
        {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
        {"role": "assistant", "content": "b"},
    ]


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"input": ...}, 400, "body.input"),
        ({"input": 5}, 400, "body.input.str"),
        ({"input": [{"type": "function_call_output"}]}, 400, "body.input.0"),
        ({"stream": True}, 501, "stream"),
        ({"background": True}, 501, "background"),
        ({"previous_response_id": "resp_1"}, 501, "previous_response_id"),
    ],
)
def test_what_is_wrong_or_not_simulated_is_named(change: dict[str, Any], status: int, param: str) -> None:
    body = {key: value for key, value in (BODY | change).items() if value is not ...}
    with pytest.raises(ApiError) as caught:
        as_chat(body)
    assert (caught.value.status, caught.value.param) == (status, param)


def test_it_answers_as_the_chat_would(sim: Sim) -> None:
    reply = sim.http.post("/v1/responses", json=BODY)
    assert reply.status_code == 200, reply.text
    response = Response.model_validate(reply.json(), strict=True)
    messages = [{"role": "user", "content": BODY["input"]}]
    chat = sim.http.post(
        "/v1/chat/completions",
        json={"model": "sim-model", "messages": messages, "max_tokens": 6, "ignore_eos": True},
    ).json()
    assert response.output_text == chat["choices"][0]["message"]["content"]
    assert response.usage is not None
    assert response.usage.input_tokens == chat["usage"]["prompt_tokens"]
    assert response.usage.output_tokens == 6
    assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")  # type: ignore[union-attr]
    assert sim.http.post("/v1/responses", json=BODY | {"model": "nope"}).status_code == 404
