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

from shoal.engine import shm
from support.cluster import Cluster
from support.cutter import Cutter
from support.metrics import samples, total
from support.processes import runs
from support.story import Story, read
from support.wait import wait_until

MODEL = "SmolLM2-135M-Instruct"
READY = 400.0  # seconds: three engines load at the same time on two cores
# Events after which a stream is cut: both ends, and neighbours inside a character of several tokens. Every place is
# tried in tests/unit/gateway/test_resume.py.
CUTS = (1, 23, 24, 47)
SUBJECTS = ("rivers", "bridges", "trains", "clocks", "bread", "glass", "maps", "ships")
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


def test_second_turns_find_their_prefix_on_the_engine_that_has_it(cluster: Cluster):
    engines = {
        f"{member['name']}/{engine['id']}": f"http://127.0.0.1:{engine['port']}"
        for member in cluster.status(0)["members"]
        for engine in member["engines"]
    }
    homes: dict[str, str] = {}
    tokens = dict.fromkeys(engines, 0)  # of the first turns, in whole blocks
    size = block_size(next(iter(engines.values())))
    histories: dict[str, list[dict[str, str]]] = {}
    for subject in SUBJECTS:
        reply = ask(cluster, 0, opening(subject))
        home = homes[subject] = reply.headers["x-shoal-engine"]
        tokens[home] += reply.json()["usage"]["prompt_tokens"] // size * size
        histories[subject] = [*opening(subject), reply.json()["choices"][0]["message"]]
    assert len(set(homes.values())) >= 2, "conversations are spread"
    assert all(tokens[home] for home in homes.values())
    before = {engine: hits(url) for engine, url in engines.items()}
    for number, subject in enumerate(SUBJECTS):
        messages = [{k: m[k] for k in ("role", "content")} for m in histories[subject]]
        index = number % len(cluster.ports)
        reply = ask(cluster, index, [*messages, {"role": "user", "content": "And the one before?"}])
        assert reply.headers["x-shoal-engine"] == homes[subject]

    def found() -> dict[str, float]:
        return {engine: hits(url) - before[engine] for engine, url in engines.items()}

    what = f"vLLM finds all that it computed for first turns: {tokens}"
    try:
        wait_until(lambda: all(found()[engine] >= tokens[engine] for engine in engines), 20, what)
    except AssertionError as error:
        raise AssertionError(f"{error}; it found {found()}") from None


def hits(url: str) -> float:
    """Return the prompt tokens that an engine has found in its prefix cache since its start."""
    return total(text_of(url), "vllm:prefix_cache_hits_total")


def block_size(url: str) -> int:
    """Return the tokens of a block: what a prompt has beyond its last whole block is not kept."""
    (info,) = samples(text_of(url), "vllm:cache_config_info")
    return int(info.labels["block_size"])


def text_of(url: str) -> str:
    return httpx.get(f"{url}/metrics", timeout=30, trust_env=False).text


def opening(subject: str) -> list[dict[str, str]]:
    """Return the first message of a conversation: different from its first word on, some hundred tokens long."""
    notes = " ".join(
        f"{subject.capitalize()} number {n} is one that I have written about before." for n in range(40)
    )
    return [{"role": "user", "content": f"{subject.capitalize()}: {notes} Which is the last of them?"}]


def ask(cluster: Cluster, index: int, messages: list[dict[str, str]]) -> httpx.Response:
    reply = cluster.chat(index, model=MODEL, messages=messages, max_tokens=4, temperature=0)
    assert reply.status_code == 200, reply.text
    return reply


def test_usage_under_a_key_is_what_vllm_says(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A gateway that asks for keys stands before one of these engines."""
    monkeypatch.setenv("SHOAL_ADMIN_KEYS", "sk-0123456789abcdef")
    (engine,) = cluster.status(0)["members"][0]["engines"]
    address = f"http://{engine['host']}:{engine['port']}"
    model = {"name": MODEL, "engine": "external", "addresses": [{"url": address}]}
    keyed = Cluster(tmp_path, nodes=1, model=model)
    keyed.config["nodes"][0]["role"] = "gateway"
    keyed.path = keyed.write("config.yaml", keyed.config)
    keyed.http.headers["authorization"] = "Bearer sk-0123456789abcdef"
    chat = {"messages": QUESTION, "max_tokens": 24, "temperature": 0}
    bodies = {
        "/v1/chat/completions": chat,
        "/v1/completions": {"prompt": "Fish swim", "max_tokens": 24, "temperature": 0},
        "/v1/messages": chat,
        "/v1/responses": {"input": "Why do fish swim?", "max_output_tokens": 24, "temperature": 0},
    }
    try:
        keyed.start_node(0)
        wait_until(lambda: routed(keyed) == ["ready"], 60, "the gateway routes to the engine")
        for path, body in bodies.items():
            before = tokens_used(keyed)
            whole = keyed.http.post(keyed.url(0, path), json={"model": MODEL} | body)
            assert whole.status_code == 200, whole.text
            usage = whole.json()["usage"]
            wanted = [
                usage.get("prompt_tokens", usage.get("input_tokens")),
                usage.get("completion_tokens", usage.get("output_tokens")),
            ]
            after = wait_until(lambda b=before: _more(tokens_used(keyed), b), 10, "it is counted")
            assert [a - b for a, b in zip(after, before, strict=True)] == wanted, path
            streamed = keyed.http.post(keyed.url(0, path), json={"model": MODEL, "stream": True} | body)
            if path.endswith("completions"):
                assert '"usage":{' not in streamed.text
                assert streamed.text.endswith("data: [DONE]\n\n")
            last = wait_until(lambda b=after: _more(tokens_used(keyed), b), 10, "it is counted")
            assert [a - b for a, b in zip(last, after, strict=True)] == wanted, path
        assert keyed.http.get(keyed.url(0, "/v1/models"), headers={"authorization": "x"}).status_code == 401
    finally:
        keyed.close()


def routed(cluster: Cluster) -> list[str]:
    return [e["state"] for e in cluster.status(0).get("external", [])]


def tokens_used(cluster: Cluster) -> list[float]:
    """Return the prompt and completion tokens of the one key."""
    text = cluster.http.get(cluster.url(0, "/metrics")).text
    return [
        total(text, f"shoal_key_{kind}_tokens_total", key="admin_keys[0]", model=MODEL)
        for kind in ("prompt", "completion")
    ]


def _more(now: list[float], before: list[float]) -> list[float] | None:
    return now if now != before else None


@pytest.mark.parametrize(
    "kind", ["chat", *(pytest.param(kind, marks=pytest.mark.rare) for kind in ("completion", "stop"))]
)
def test_a_greedy_stream_cut_at_any_point_goes_on_to_the_same_text(
    cluster: Cluster, tmp_path: Path, kind: str
):
    engine = int(cluster.member(0, 0)["engines"][0]["port"])
    body = BODIES[kind] | {
        "model": MODEL,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    path = "/v1/completions" if "prompt" in body else "/v1/chat/completions"
    with Cutter(engine) as cutter:
        # All streams begin on the way that breaks, and go on on the other one.
        addresses = [
            {"url": f"http://127.0.0.1:{port}", "weight": weight}
            for port, weight in ((cutter.port, 1000), (engine, 1))
        ]
        model = {
            "name": MODEL,
            "engine": "external",
            "addresses": addresses,
            "policy": "weighted_round_robin",
        }
        gateway = Cluster(tmp_path, nodes=1, model=model)
        try:
            gateway.start_node(0)
            wait_until(
                lambda: [e["state"] for e in gateway.status(0).get("external", [])] == ["ready"] * 2,
                30,
                "both ways to the engine are known",
            )
            wanted = read(gateway.url(0, path), body)
            assert wanted.problem == ""
            for cut in CUTS:
                cutter.after, before = cut, cutter.cuts
                story = read(gateway.url(0, path), body)
                assert cutter.cuts == before + 1
                assert story.problem == "", f"cut after {cut} events"
                assert (story.text, story.ends, story.usage) == (wanted.text, wanted.ends, wanted.usage), cut
                cutter.after = 0
                for _ in range(3):  # it would be ejected if nothing but faults came from there
                    assert read(gateway.url(0, path), body | {"max_tokens": 1}).problem == ""
        finally:
            gateway.close()


def test_a_stream_survives_two_killed_engines_and_they_come_back(cluster: Cluster):
    if len(cluster.ports) < 3:
        pytest.skip("three engines do not fit into the memory")
    body = {
        "model": MODEL, "messages": QUESTION, "max_tokens": 200, "temperature": 0, "ignore_eos": True,
        "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip
    url = cluster.url(1, "/v1/chat/completions")
    wanted = read(url, body)
    segments: set[shm.Segment] = set()
    others = [Stream(cluster, index=1) for _ in cluster.ports]
    for stream in others:
        stream.start()
    killed: list[psutil.Process] = []

    def kill(story: Story) -> None:
        """Kill whichever engine serves the stream at token 50, and again at 120."""
        if story.tokens >= (50, 120, 10_000)[len(killed) // 2]:
            index = cluster.names.index(story.engine.split("/")[0])
            victim = cluster.engine_processes(index)[0]
            segments.update(cluster.engine_records(index)[0].segments)
            killed.extend((victim, *victim.children(recursive=True)[:1]))
            victim.kill()

    story = read(url, body, kill)
    assert len(killed) == 4
    assert story.problem == ""
    assert story.text == wanted.text
    assert (story.ends, story.usage) == (wanted.ends, wanted.usage)
    for stream in others:
        stream.join(timeout=180)
    assert all(s.done for s in others), [s.problem for s in others]
    wait_until(lambda: not any(runs(p) for p in killed), 15, "the trees are gone")
    cluster.wait_ready(deadline=READY)
    assert segments
    assert not segments & set(shm.segments())
    for index in range(len(cluster.ports)):
        assert cluster.chat(index, model=MODEL, messages=QUESTION, max_tokens=4).status_code == 200


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
    assert not [p for p in trees if runs(p)]


# Greedy, and with many characters of several tokens each.
BODIES: dict[str, dict[str, Any]] = {
    "chat": {
        "messages": [{"role": "user", "content": "Repeat exactly: 🐟🐠🐡🦈🐙 你好，世界 éàü 🐟🐠🐡🦈🐙"}],
        "max_tokens": 48,
        "ignore_eos": True,
    },
    "completion": {"prompt": "🐟🐠🐡 你好 🐟🐠🐡 你好 🐟🐠🐡 你好 🐟", "max_tokens": 48, "ignore_eos": True},
    "stop": {
        "messages": [{"role": "user", "content": "Why do fish swim in schools?"}],
        "max_tokens": 64,
        "stop": ["a stop string that never comes", "\n\n"],
    },
}


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
