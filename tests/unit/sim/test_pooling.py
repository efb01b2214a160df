from __future__ import annotations

import base64
import math
import struct
from typing import Any

import pytest

from shoal.sim import text
from shoal.sim.errors import ApiError
from shoal.sim.openai import Service
from shoal.sim.pooling import parse_pooling, similarity, vector

SERVICE = Service(("emb",), 64)


def ask(task: str, **body: Any) -> dict[str, Any]:
    return parse_pooling(task, body, {}, SERVICE, 16).respond()


def test_vectors_have_length_one_and_depend_on_the_words() -> None:
    for words in ("", "hello", "hello hello world 😀"):
        values = vector(text.encode(words), 32)
        assert math.isclose(sum(value * value for value in values), 1)
        assert values == vector(text.encode(words), 32)
    assert vector([5], 8) != vector([6], 8)


def test_equal_texts_are_closest() -> None:
    one, near, far = (text.encode(words) for words in ("red green blue", "red green", "quite another thing"))
    assert math.isclose(similarity(one, one, 64), 1)
    assert similarity(one, near, 64) > similarity(one, far, 64)


def test_embeddings_come_as_numbers_or_packed() -> None:
    plain = ask("embeddings", input=["x", "y z"])
    assert [entry["index"] for entry in plain["data"]] == [0, 1]
    packed = ask("embeddings", input="x", encoding_format="base64")
    values = struct.unpack("<16f", base64.b64decode(packed["data"][0]["embedding"]))
    assert values == pytest.approx(plain["data"][0]["embedding"], abs=1e-6)
    assert plain["usage"]["prompt_tokens"] == len(text.encode("x")) + len(text.encode("y z"))
    assert len(ask("embeddings", input=[[1, 2], [3]], dimensions=4)["data"][0]["embedding"]) == 4
    assert ask("embeddings", messages=[{"role": "user", "content": "x"}])["object"] == "list"


def test_scores_pair_one_with_many_or_each_with_each() -> None:
    scores = [entry["score"] for entry in ask("score", text_1="x", text_2=["x", "b"])["data"]]
    assert scores[0] == pytest.approx(1)
    assert scores[1] < 0.99
    assert len(ask("score", queries=["a", "b"], documents=["a", "b"])["data"]) == 2
    with pytest.raises(ApiError, match="1:1, 1:N or N:N"):
        ask("score", text_1=["a", "b"], text_2=["a", "b", "c"])


def test_documents_are_ranked_by_relevance() -> None:
    body = {"query": "x", "documents": ["a", "x", "b"]}
    results = ask("rerank", **body)["results"]
    assert results[0]["document"] == {"text": "x", "multi_modal": None}
    assert [entry["relevance_score"] for entry in results] == sorted(
        (entry["relevance_score"] for entry in results), reverse=True
    )
    assert len(ask("rerank", **body, top_n=1)["results"]) == 1


def test_classes_have_probabilities() -> None:
    (entry,) = ask("classify", input="x")["data"]
    assert sum(entry["probs"]) == pytest.approx(1)
    assert (entry["num_classes"], entry["label"]) == (2, f"LABEL_{entry['probs'].index(max(entry['probs']))}")


def test_pooling_gives_the_vector_as_data() -> None:
    assert len(ask("pooling", input="x")["data"][0]["data"]) == 16


@pytest.mark.parametrize(
    ("task", "body", "words"),
    [
        ("embeddings", {}, "body.input"),
        ("embeddings", {"input": []}, "You must pass at least one prompt"),
        ("embeddings", {"input": "x", "encoding_format": "zz"}, "literal_error"),
        ("embeddings", {"input": "x", "dimensions": 17}, "dimensions must be between 1 and 16"),
        ("embeddings", {"input": "word " * 100}, "maximum context length is 64"),
        ("embeddings", {"input": "x", "model": "nope"}, "does not exist"),
        ("rerank", {"query": "x"}, "body.documents"),
        ("rerank", {"query": "x", "documents": ["a"], "top_n": -1}, "greater than or equal to 0"),
        ("score", {"text_1": "x", "text_2": []}, "At least one text"),
        ("score", {}, "body.queries"),
    ],
)
def test_wrong_requests_are_explained(task: str, body: dict[str, Any], words: str) -> None:
    with pytest.raises(ApiError) as caught:
        ask(task, **body)
    assert words in caught.value.message
