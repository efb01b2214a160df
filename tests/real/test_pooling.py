"""One cluster, several models: SmolLM2 chats, a BERT makes embeddings, scores and ranks, another one classifies."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from support.cluster import Cluster

CHAT, EMBED, CLASSIFY = "chat", "embed", "classify"
SENTENCES = ["A cat sits on the mat.", "A kitten rests on a rug.", "Shares fell sharply on Monday."]
BERT: dict[str, Any] = {"args": {"enforce-eager": True, "dtype": "float32"}}


@pytest.fixture(scope="module")
def classifier(embedding_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a BERT with a head for three classes. The head is random: what is tested is that vLLM computes it."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(7)
    path = tmp_path_factory.mktemp("classifier")
    labels = {0: "animals", 1: "markets", 2: "weather"}
    model = transformers.BertForSequenceClassification.from_pretrained(
        embedding_path, num_labels=3, id2label=labels, label2id={v: k for k, v in labels.items()}
    )
    torch.nn.init.normal_(model.classifier.weight, std=0.5)
    model.save_pretrained(path)
    transformers.AutoTokenizer.from_pretrained(embedding_path).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def cluster(
    tmp_path_factory: pytest.TempPathFactory,
    real_model: dict[str, Any],
    embedding_path: Path,
    classifier: Path,
) -> Iterator[Cluster]:
    models = [
        real_model | {"name": CHAT},
        BERT | {"name": EMBED, "path": str(embedding_path)},
        BERT | {"name": CLASSIFY, "path": str(classifier)},
    ]
    nodes = Cluster(tmp_path_factory.mktemp("pooling"), nodes=1, models=models)
    del nodes.config["model"]
    nodes.path = nodes.write("config.yaml", nodes.config)
    try:
        nodes.start_node(0)
        nodes.wait_ready(3, deadline=400)
        yield nodes
    finally:
        nodes.close()


def test_the_openai_client_gets_chat_and_embeddings_from_one_cluster(cluster: Cluster, embedding_path: Path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    client = openai.OpenAI(base_url=cluster.url(0, "/v1"), api_key="unused", max_retries=0)
    assert {m.id for m in client.models.list()} == {CHAT, EMBED, CLASSIFY}
    question: Any = [{"role": "user", "content": "Why do fish swim in schools?"}]
    said = client.chat.completions.create(model=CHAT, messages=question, max_tokens=24, temperature=0)
    assert "fish" in str(said.choices[0].message.content).lower()
    answer = client.embeddings.create(model=EMBED, input=SENTENCES, encoding_format="float")
    got = torch.tensor([d.embedding for d in answer.data])
    # The same by Transformers: the mean over the tokens, normalised, as the model's own files say.
    tokenizer = transformers.AutoTokenizer.from_pretrained(embedding_path)
    model = transformers.BertModel.from_pretrained(embedding_path)
    tokens = tokenizer(SENTENCES, padding=True, return_tensors="pt")
    with torch.inference_mode():
        states = model(**tokens).last_hidden_state
    mask = tokens["attention_mask"][..., None]
    wanted = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1)
    assert torch.allclose(got, wanted, atol=1e-4)
    alike = got @ got.T
    assert alike[0, 1] > 0.5 > alike[0, 2]


def test_scores_and_ranks_are_those_of_the_embeddings(cluster: Cluster):
    body = {"model": EMBED, "text_1": SENTENCES[0], "text_2": SENTENCES[1:]}
    for path in ("/score", "/v1/score"):
        reply = cluster.http.post(cluster.url(0, path), json=body)
        assert reply.status_code == 200, reply.text
        near, far = (entry["score"] for entry in reply.json()["data"])
        assert near > 0.5 > far
    body = {"model": EMBED, "query": SENTENCES[0], "documents": SENTENCES[:0:-1]}
    for path in ("/rerank", "/v1/rerank", "/v2/rerank"):
        reply = cluster.http.post(cluster.url(0, path), json=body)
        assert reply.status_code == 200, reply.text
        assert [result["index"] for result in reply.json()["results"]] == [1, 0]


def test_classes_are_those_of_the_model(cluster: Cluster, classifier: Path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    reply = cluster.http.post(cluster.url(0, "/classify"), json={"model": CLASSIFY, "input": SENTENCES})
    assert reply.status_code == 200, reply.text
    assert reply.headers["x-shoal-engine"].endswith("/classify-0")
    tokenizer = transformers.AutoTokenizer.from_pretrained(classifier)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(classifier)
    with torch.inference_mode():
        wanted = model(**tokenizer(SENTENCES, padding=True, return_tensors="pt")).logits.softmax(1)
    for entry, probabilities in zip(reply.json()["data"], wanted, strict=True):
        assert entry["probs"] == pytest.approx(probabilities.tolist(), abs=1e-3)
        assert entry["label"] == model.config.id2label[int(probabilities.argmax())]


def test_a_model_that_does_something_else_says_so(cluster: Cluster):
    reply = cluster.http.post(cluster.url(0, "/v1/embeddings"), json={"model": CHAT, "input": "x"})
    assert reply.status_code in {400, 404}
