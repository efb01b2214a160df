"""The official `openai` client against a node."""

import openai
import pytest

from support.cluster import Cluster
from support.wait import wait_until

MODEL = "sim-model"
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture
def client(node: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{node}/v1", api_key="unused", max_retries=0)


def test_chat(client: openai.OpenAI):
    answer = client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=12)
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage is not None
    assert 0 < answer.usage.completion_tokens <= 12


def test_streamed_chat_is_the_same_text_in_pieces(client: openai.OpenAI):
    whole = client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=32)
    chunks = list(
        client.chat.completions.create(
            model=MODEL, messages=HELLO, max_tokens=32, stream=True, stream_options={"include_usage": True}
        )
    )
    pieces = [c.choices[0].delta.content or "" for c in chunks if c.choices]
    assert "".join(pieces) == whole.choices[0].message.content
    assert len([p for p in pieces if p]) > 1
    assert chunks[-1].usage is not None
    assert chunks[-1].usage == whole.usage
    assert len({c.id for c in chunks}) == 1


def test_completions(client: openai.OpenAI):
    answer = client.completions.create(model=MODEL, prompt="Once upon", max_tokens=12)
    assert answer.choices[0].text
    streamed = client.completions.create(model=MODEL, prompt="Once upon", max_tokens=12, stream=True)
    assert "".join(c.choices[0].text for c in streamed) == answer.choices[0].text


def test_embeddings(client: openai.OpenAI):
    answer = client.embeddings.create(model=MODEL, input=["one", "two"])
    assert [d.index for d in answer.data] == [0, 1]
    assert len(answer.data[0].embedding) == len(answer.data[1].embedding) > 1


def test_models_are_the_union_over_ready_engines(client: openai.OpenAI):
    assert [m.id for m in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL


def test_an_unknown_model_is_a_404_that_names_the_known_ones(client: openai.OpenAI):
    with pytest.raises(openai.NotFoundError, match=MODEL):
        client.chat.completions.create(model="no-such-model", messages=HELLO)
    with pytest.raises(openai.NotFoundError, match=MODEL):
        client.models.retrieve("no-such-model")


def test_an_engines_own_errors_come_through(client: openai.OpenAI):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=-1)
    assert caught.value.body


def test_unknown_fields_reach_the_engine_untouched(client: openai.OpenAI):
    answer = client.chat.completions.create(
        model=MODEL, messages=HELLO, max_tokens=4, extra_body={"return_token_ids": True, "no_such_field": [1]}
    )
    assert answer.choices[0].model_extra["token_ids"]


def test_a_client_that_goes_away_aborts_its_request_in_the_engine(client: openai.OpenAI, cluster: Cluster):
    stream = client.completions.create(
        model=MODEL, prompt="endless", max_tokens=30_000, stream=True, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    wait_until(lambda: running(cluster) == 1, 10, "the engine runs it")
    stream.close()
    wait_until(lambda: running(cluster) == 0, 10, "the engine has aborted it")


def running(cluster: Cluster) -> int:
    return sum(e["running"] for m in cluster.status(0)["members"] for e in m["engines"])
