"""The official `anthropic` client on /v1/messages, which vLLM serves too."""

import anthropic
import pytest

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture
def client(node: str) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=node, api_key="unused", max_retries=0)


def test_message(client: anthropic.Anthropic):
    answer = client.messages.create(model="sim-model", max_tokens=12, messages=HELLO)
    assert answer.content[0].text
    assert answer.role == "assistant"
    assert 0 < answer.usage.output_tokens <= 12


def test_streamed_message_is_the_same_text_in_pieces(client: anthropic.Anthropic):
    whole = client.messages.create(model="sim-model", max_tokens=24, messages=HELLO)
    with client.messages.stream(model="sim-model", max_tokens=24, messages=HELLO) as stream:
        pieces = list(stream.text_stream)
    assert "".join(pieces) == whole.content[0].text


def test_an_unknown_model_is_a_404(client: anthropic.Anthropic):
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(model="no-such-model", max_tokens=4, messages=HELLO)
