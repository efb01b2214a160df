"""Nodes with real vLLM engines: a real model answers through each, an engine is killed, nobody else notices."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import psutil
import pytest

from support.cluster import Cluster
from support.wait import wait_until

MODEL = "SmolLM2-135M-Instruct"
READY = 400.0  # seconds: three engines load at the same time on two cores
QUESTION = [{"role": "user", "content": "Why do fish swim in schools?"}]


@pytest.fixture(scope="module")
def cluster(
    tmp_path_factory: pytest.TempPathFactory, real_model: dict[str, Any], real_engines: int
) -> Iterator[Cluster]:
    """Return as many running nodes with a real engine each as the memory allows, shared by the tests below."""
    nodes = Cluster(tmp_path_factory.mktemp("real"), nodes=real_engines, model=real_model)
    try:
        for index in range(real_engines):
            nodes.start_node(index)
        nodes.wait_ready(deadline=READY)
        yield nodes
    finally:
        nodes.close()


def client(cluster: Cluster, index: int) -> openai.OpenAI:
    return openai.OpenAI(base_url=cluster.url(index, "/v1"), api_key="unused", max_retries=0)


def test_every_node_answers_and_all_engines_give_the_same_greedy_text(cluster: Cluster):
    texts: dict[str, str] = {}
    for index in range(len(cluster.ports)):
        for _ in cluster.ports:
            reply = cluster.chat(index, model=MODEL, messages=QUESTION, max_tokens=24, temperature=0)
            assert reply.status_code == 200, reply.text
            engine = reply.headers["x-shoal-engine"]
            texts[engine] = reply.json()["choices"][0]["message"]["content"]
    assert len(texts) >= 2  # more than one engine answered
    assert len(set(texts.values())) == 1
    assert "fish" in next(iter(texts.values())).lower()


def test_the_openai_and_anthropic_clients_get_streams(cluster: Cluster):
    stream = client(cluster, 1).chat.completions.create(
        model=MODEL, messages=QUESTION, max_tokens=24, temperature=0, stream=True
    )
    streamed = "".join(c.choices[0].delta.content or "" for c in stream if c.choices)
    whole = client(cluster, 0).chat.completions.create(
        model=MODEL, messages=QUESTION, max_tokens=24, temperature=0
    )
    assert streamed == whole.choices[0].message.content
    claude = anthropic.Anthropic(base_url=cluster.url(0), api_key="unused", max_retries=0)
    answer = claude.messages.create(model=MODEL, max_tokens=24, messages=QUESTION)
    assert answer.content[0].text


def test_errors_of_vllm_come_through(cluster: Cluster):
    with pytest.raises(openai.BadRequestError):
        client(cluster, 0).chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=100_000)


def test_a_client_that_goes_away_aborts_its_request_in_vllm(cluster: Cluster):
    def running() -> int:
        return sum(e["running"] for m in cluster.status(0)["members"] for e in m["engines"])

    body = {"model": MODEL, "prompt": "Once", "max_tokens": 1900, "stream": True, "ignore_eos": True}
    with httpx.stream("POST", cluster.url(0, "/v1/completions"), json=body, timeout=60) as reply:
        assert reply.status_code == 200
        lines = reply.iter_lines()  # kept: a generator that is dropped closes the connection
        next(lines)
        wait_until(lambda: running() == 1, 20, "vLLM runs it")
    wait_until(lambda: running() == 0, 20, "vLLM has aborted it")


def test_a_killed_engine_leaves_other_streams_alone_and_comes_back(cluster: Cluster):
    victim = cluster.engine_processes(0)[0]
    tree = [victim, *victim.children(recursive=True)]
    segments = set(Path("/dev/shm").glob("psm_*"))
    streams = [Stream(cluster, index=1) for _ in cluster.ports]
    for stream in streams:
        stream.start()
    wait_until(lambda: all(s.lines >= 3 for s in streams), 60, "all streams have begun")
    victim.kill()
    for _ in range(6):
        reply = cluster.chat(1, model=MODEL, messages=QUESTION, max_tokens=4)
        assert reply.status_code == 200, reply.text
    for stream in streams:
        stream.join(timeout=120)
    survivors = [s for s in streams if not s.engine.startswith(cluster.names[0])]
    assert survivors
    assert all(s.done for s in survivors), [s.problem for s in survivors]
    wait_until(lambda: not any(p.is_running() for p in tree), 15, "the whole tree is gone")
    cluster.wait_ready(deadline=READY)
    assert len(set(Path("/dev/shm").glob("psm_*"))) <= len(segments)
    assert any("was killed by SIGKILL" in e for e in cluster.events(0))
    reply = cluster.chat(0, model=MODEL, messages=QUESTION, max_tokens=4)
    assert reply.status_code == 200


def test_a_killed_node_process_leaves_its_engine_serving_and_adopts_it(cluster: Cluster):
    pids = [p.pid for p in cluster.engine_processes(0)]
    cluster.kill_node(0)
    wait_until(lambda: cluster.member(1, 0).get("state") == "dead", 10, "its death is noticed")
    answered = set()
    for _ in range(12):
        reply = cluster.chat(1, model=MODEL, messages=QUESTION, max_tokens=4)
        assert reply.status_code == 200, reply.text
        answered.add(reply.headers["x-shoal-engine"].split("/")[0])
    assert cluster.names[0] in answered
    cluster.start_node(0)
    cluster.wait_ready(deadline=30)  # far less than a load takes
    assert [p.pid for p in cluster.engine_processes(0)] == pids


def test_a_graceful_stop_leaves_nothing_behind(cluster: Cluster):
    trees = [
        p
        for index in range(len(cluster.ports))
        for leader in cluster.engine_processes(index)
        for p in (leader, *leader.children(recursive=True))
    ]
    assert trees
    assert [cluster.stop_node(i, deadline=60) for i in range(len(cluster.ports))] == [0] * len(cluster.ports)
    assert not [p for p in trees if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


class Stream(threading.Thread):
    """A client that reads one long streamed answer."""

    def __init__(self, cluster: Cluster, index: int) -> None:
        super().__init__()
        self.url = cluster.url(index, "/v1/chat/completions")
        self.engine = ""
        self.lines = 0
        self.done = False
        self.problem = ""

    def run(self) -> None:
        body = {"model": MODEL, "messages": QUESTION, "max_tokens": 150, "stream": True, "ignore_eos": True}
        try:
            with httpx.stream("POST", self.url, json=body, timeout=120, trust_env=False) as reply:
                self.engine = reply.headers.get("x-shoal-engine", "")
                for line in reply.iter_lines():
                    self.lines += line.startswith("data: {")
                    self.done = self.done or line == "data: [DONE]"
                    if line.startswith("data: {"):
                        assert "error" not in json.loads(line[6:])
        except httpx.HTTPError as error:
            self.problem = repr(error)
