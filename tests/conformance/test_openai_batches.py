"""The official `openai` client's files and batches against a node."""

import json
from pathlib import Path
from typing import Any

import openai
import pytest

from support.batches import MODEL, URL, require_right, submit, wait_ended, write
from support.cluster import Cluster
from support.wait import wait_until


@pytest.fixture
def client(node: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{node}/v1", api_key="unused", max_retries=0)


def read(client: openai.OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    assert file_id is not None
    return [json.loads(text) for text in client.files.content(file_id).text.splitlines()]


def test_a_batch_from_upload_to_output(client: openai.OpenAI, cluster: Cluster, tmp_path: Path):
    path = write(tmp_path / "in.jsonl", 30)
    with path.open("rb") as file:
        uploaded = client.files.create(file=file, purpose="batch")
    assert (uploaded.object, uploaded.filename, uploaded.purpose) == ("file", "in.jsonl", "batch")
    assert uploaded.bytes == path.stat().st_size
    assert client.files.content(uploaded.id).read() == path.read_bytes()
    batch = client.batches.create(
        input_file_id=uploaded.id, endpoint=URL, completion_window="24h", metadata={"for": "test"}
    )
    assert batch.status in ("validating", "in_progress")
    assert batch.expires_at == batch.created_at + 86_400
    ended = wait_ended(cluster, batch.id)
    assert (ended.status, ended.metadata, ended.error_file_id) == ("completed", {"for": "test"}, None)
    assert ended.created_at <= ended.in_progress_at <= ended.finalizing_at <= ended.completed_at
    counts = ended.request_counts
    assert (counts.total, counts.completed, counts.failed) == (30, 30, 0)
    assert ended.usage.output_tokens == 300
    require_right(read(client, ended.output_file_id), 30)
    assert client.files.retrieve(ended.output_file_id).purpose == "batch_output"


@pytest.mark.parametrize(
    ("endpoint", "body", "has"),
    [
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3},
            "choices",
        ),
        ("/v1/completions", {"prompt": "hi", "max_tokens": 3}, "choices"),
        ("/v1/embeddings", {"input": "hi"}, "data"),
        ("/pooling", {"input": "hi"}, "data"),
        ("/score", {"text_1": "a", "text_2": "b"}, "data"),
        ("/tokenize", {"prompt": "hi"}, "tokens"),
    ],
)
def test_endpoints_that_engines_serve(  # noqa: PLR0917 what pytest fills in
    client: openai.OpenAI, cluster: Cluster, tmp_path: Path, endpoint: str, body: dict[str, Any], has: str
):
    path = tmp_path / "in.jsonl"
    fields = {"custom_id": "a", "method": "POST", "url": endpoint, "body": {"model": MODEL} | body}
    path.write_text(json.dumps(fields))
    with path.open("rb") as file:
        uploaded = client.files.create(file=file, purpose="batch")
    batch = client.batches.create(
        input_file_id=uploaded.id,
        endpoint=endpoint,
        completion_window="24h",  # type: ignore[arg-type]
    )
    ended = wait_ended(cluster, batch.id)
    if ended.error_file_id:  # an engine that does not serve it says so itself
        pytest.fail(client.files.content(ended.error_file_id).text)
    (result,) = read(client, ended.output_file_id)
    assert result["response"]["status_code"] == 200
    assert result["response"]["body"][has]


def test_lines_that_cannot_be_done_are_told_with_number_and_reason(
    client: openai.OpenAI, cluster: Cluster, tmp_path: Path
):
    path = write(tmp_path / "in.jsonl", 5)
    lines = path.read_text().splitlines()
    lines[0] = "this is no JSON"
    lines[2] = lines[1]
    lines[3] = lines[3].replace(MODEL, "no-such-model")
    lines[4] = lines[4].replace('"custom_id"', '"custom"')
    path.write_text("\n".join(lines))
    ended = wait_ended(cluster, submit(client, path).id)
    assert (ended.request_counts.completed, ended.request_counts.failed) == (1, 4)
    errors = {r["error"]["line"]: r["error"]["code"] for r in read(client, ended.error_file_id)}
    assert errors == {
        1: "invalid_json", 3: "duplicate_custom_id", 4: "request_failed", 5: "missing_custom_id"
    }  # fmt: skip
    failed = next(r for r in read(client, ended.error_file_id) if r["custom_id"] == "r3")
    assert failed["response"]["status_code"] == 404


def test_what_the_client_turns_into_exceptions(client: openai.OpenAI, tmp_path: Path):
    with pytest.raises(openai.NotFoundError):
        client.batches.retrieve("batch_0")
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve("file-0")
    with pytest.raises(openai.NotFoundError):
        client.batches.create(input_file_id="file-0", endpoint=URL, completion_window="24h")
    with pytest.raises(openai.BadRequestError, match="line 1"):
        client.files.create(file=b"a,b,c\n1,2,3\n", purpose="batch")


def test_lists_are_pages_that_the_client_follows(client: openai.OpenAI, tmp_path: Path):
    path = write(tmp_path / "in.jsonl", 1)
    ids = [submit(client, path).id for _ in range(3)]
    found = [batch.id for batch in client.batches.list(limit=2)]
    assert found[:3] == ids[::-1]
    assert len(found) == len(set(found))
    assert path.name in {file.filename for file in client.files.list(purpose="batch")}


def test_cancelling_keeps_what_is_done_and_a_file_can_be_deleted(
    client: openai.OpenAI, cluster: Cluster, tmp_path: Path
):
    batch = submit(client, write(tmp_path / "in.jsonl", 2000, 200))
    wait_until(lambda: client.batches.retrieve(batch.id).request_counts.completed, 20, "some are done")
    assert client.batches.cancel(batch.id).status in ("cancelling", "cancelled")
    ended = wait_ended(cluster, batch.id)
    assert ended.status == "cancelled"
    assert len(read(client, ended.output_file_id)) == ended.request_counts.completed < 2000
    assert client.files.delete(batch.input_file_id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(batch.input_file_id)
