"""API keys on a real cluster: they open both nodes, are revoked within a second, and their limits hold on both."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import anthropic
import httpx
import openai
import pytest

from support.cluster import Cluster
from support.metrics import total
from support.wait import wait_until

Make = Callable[..., Cluster]
HELLO = [{"role": "user", "content": "hello"}]


def shoal(*arguments: str) -> str:
    """Run the command and return what it prints."""
    command = [sys.executable, "-m", "shoal", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done
    return done.stdout.strip()


class Keyed:
    """Two nodes that ask for keys, with one file of keys for both."""

    def __init__(self, make_cluster: Make) -> None:
        self.cluster = make_cluster(nodes=2, gateway={"keys": {"file": "keys.yaml"}, "workers": 2})
        self.path = str(self.cluster.path)
        self.root = self.new("root", "--admin")
        self.cluster.http.headers["authorization"] = f"Bearer {self.root}"
        self.cluster.start()

    def new(self, name: str, *options: str) -> str:
        return shoal("keys", "new", name, "--config", self.path, *options)

    def revoke(self, name: str) -> None:
        shoal("keys", "revoke", name, "--config", self.path)

    def openai(self, node: int, key: str) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.cluster.url(node, "/v1"), api_key=key, max_retries=0)

    def chat(self, node: int, key: str, **more: Any) -> httpx.Response:
        body = {"model": "sim-model", "messages": HELLO, "max_tokens": 8} | more
        headers = {"authorization": f"Bearer {key}"}
        return httpx.post(
            self.cluster.url(node, "/v1/chat/completions"), json=body, headers=headers, timeout=30
        )

    def wait_for(self, key: str, status: int = 200, deadline: float = 5) -> None:
        """Wait until both nodes answer a list of models under a key with `status`."""
        for node in (0, 1):
            wait_until(lambda n=node: self.models(n, key) == status, deadline, f"{status} on node {node}")

    def models(self, node: int, key: str) -> int:
        headers = {"authorization": f"Bearer {key}"}
        return httpx.get(self.cluster.url(node, "/v1/models"), headers=headers).status_code


@pytest.fixture
def keyed(make_cluster: Make) -> Keyed:
    return Keyed(make_cluster)


def test_the_official_clients_get_the_exceptions_they_know(keyed: Keyed):
    for node in (0, 1):
        with pytest.raises(openai.AuthenticationError):
            keyed.openai(node, "sk-nobody").models.list()
    anna = keyed.new("anna", "--model", "other")
    bert = keyed.new("bert", "--requests-per-minute", "3")
    keyed.wait_for(anna)
    keyed.wait_for(bert)
    for node in (0, 1):
        client = keyed.openai(node, anna)
        assert list(client.models.list()) == []
        with pytest.raises(openai.PermissionDeniedError, match="other"):
            client.chat.completions.create(model="sim-model", messages=HELLO, max_tokens=4)
    one = keyed.openai(0, bert)
    for _ in range(3):
        raw = one.chat.completions.with_raw_response.create(model="sim-model", messages=HELLO, max_tokens=4)
        assert raw.headers["x-ratelimit-limit-requests"] == "3"
    with pytest.raises(openai.RateLimitError) as caught:
        one.chat.completions.create(model="sim-model", messages=HELLO, max_tokens=4)
    headers = caught.value.response.headers
    assert 18 <= int(headers["retry-after"]) <= 20
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert caught.value.code == "rate_limit_exceeded"
    with pytest.raises(anthropic.RateLimitError):
        anthropic.Anthropic(base_url=keyed.cluster.url(0), api_key=bert, max_retries=0).messages.create(
            model="sim-model", max_tokens=4, messages=HELLO
        )
    # What one node has granted, the other one hears within a heartbeat.
    wait_until(lambda: keyed.chat(1, bert).status_code == 429, 3, "the limit holds on the other node")


def test_a_revoked_key_is_refused_within_a_second_and_nobody_else_notices(keyed: Keyed):
    anna, bert = keyed.new("anna"), keyed.new("bert")
    keyed.wait_for(anna)
    keyed.wait_for(bert)
    failures: list[str] = []
    answers = [0, 0]
    stop = threading.Event()

    def load(node: int) -> None:
        end = time.monotonic() + 30
        headers = {"authorization": f"Bearer {bert}"}
        body = {"model": "sim-model", "messages": HELLO, "max_tokens": 4}
        with httpx.Client(timeout=30, headers=headers) as http:
            while not stop.is_set() and time.monotonic() < end:
                reply = http.post(keyed.cluster.url(node, "/v1/chat/completions"), json=body)
                answers[node] += 1
                if reply.status_code != 200:
                    failures.append(reply.text)

    threads = [threading.Thread(target=load, args=(n,)) for n in (0, 1)]
    for thread in threads:
        thread.start()
    try:
        body = {
            "model": "sim-model",
            "prompt": "count",
            "max_tokens": 150,
            "stream": True,
            "ignore_eos": True,
        }
        headers = {"authorization": f"Bearer {anna}"}
        with httpx.stream(
            "POST", keyed.cluster.url(0, "/v1/completions"), json=body, headers=headers, timeout=30
        ) as stream:
            lines = stream.iter_lines()
            next(lines)
            keyed.revoke("anna")
            revoked = time.monotonic()
            keyed.wait_for(anna, 401)
            took = time.monotonic() - revoked
            assert "data: [DONE]" in list(lines), "what is under way is finished"
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert took < 1, took
    assert failures == []
    assert min(answers) > 10
    for node in (0, 1):
        told = [e for e in keyed.cluster.events(node) if e.startswith("API keys")]
        assert told[-1] == "API keys: 2 keys in force; revoked: anna"


def test_a_broken_edit_keeps_the_last_good_keys_and_is_told_once(keyed: Keyed):
    path = keyed.cluster.directory / "keys.yaml"
    good = path.read_text()
    path.write_text(good.replace("role: admin", "role: boss"))

    def told(text: str) -> list[str]:
        return [e for e in keyed.cluster.events(0) if text in e]

    wait_until(lambda: told("the former ones stay in force"), 5, "the mistake is told")
    (event,) = told("the former ones stay in force")
    assert "keys.yaml:4:" in event
    assert "it must be user or admin" in event
    assert keyed.models(0, keyed.root) == 200
    path.write_text(good)
    wait_until(lambda: told("is right again"), 5, "its end, too")
    assert len(told("the former ones stay in force")) == 1


def test_usage_is_counted_by_the_engines_own_numbers_and_shown(keyed: Keyed):
    anna = keyed.new("anna")
    keyed.wait_for(anna)
    plain = keyed.chat(0, anna).json()["usage"]
    keyed.chat(0, anna, stream=True).read()

    def metric(name: str) -> float:
        text = httpx.get(keyed.cluster.url(0, "/metrics")).text
        return total(text, f"shoal_key_{name}_total", key="anna", model="sim-model")

    wait_until(lambda: metric("requests") == 2, 5, "it is counted")
    assert metric("prompt_tokens") == 2 * plain["prompt_tokens"]
    assert metric("completion_tokens") == 2 * plain["completion_tokens"]
    listed = json.loads(shoal("keys", "list", "--json", "--config", keyed.path))
    (entry,) = (k for k in listed["keys"] if k["name"] == "anna")
    assert entry["used"]["requests"] == 2
    assert listed["nodes"] == keyed.cluster.names
    assert "anna" in shoal("keys", "list", "--config", keyed.path)
    # The commands ask this machine's nodes over their sockets, where no key is needed.
    assert "engines ready 2/2" in shoal("status", "--config", keyed.path)
    assert shoal("reload", "--config", keyed.path).count("2 new gateway workers") == 2
    assert keyed.models(0, anna) == 200, "new workers know the keys from the beginning"


def test_tokens_and_requests_at_once_are_limited_over_both_nodes(keyed: Keyed):
    poor = keyed.new("poor", "--tokens-per-minute", "30")
    single = keyed.new("single", "--max-concurrent", "1")
    keyed.wait_for(poor)
    keyed.wait_for(single)
    assert keyed.chat(0, poor, max_tokens=60, ignore_eos=True).status_code == 200
    refused = keyed.chat(0, poor)
    assert (refused.status_code, refused.json()["error"]["type"]) == (429, "tokens")
    wait_until(lambda: keyed.chat(1, poor).status_code == 429, 3, "the other node has heard of it")
    body = {"model": "sim-model", "prompt": "x", "max_tokens": 500, "stream": True, "ignore_eos": True}
    headers = {"authorization": f"Bearer {single}"}
    with httpx.stream("POST", keyed.cluster.url(0, "/v1/completions"), json=body, headers=headers) as stream:
        lines = stream.iter_lines()  # let go of, it would end the stream
        assert next(lines).startswith("data: {")
        assert keyed.chat(0, single).status_code == 429
        wait_until(lambda: keyed.chat(1, single).status_code == 429, 3, "so does the other node")
    wait_until(lambda: keyed.chat(1, single).status_code == 200, 5, "its place is free again")


def test_a_reload_begins_to_ask_for_keys_and_keeps_what_their_limits_have_seen(make_cluster: Make):
    cluster = make_cluster(nodes=1).start()
    path = str(cluster.path)
    assert cluster.chat(0).status_code == 200
    cluster.write("config.yaml", cluster.config | {"gateway": {"keys": {"file": "keys.yaml"}}})
    os.kill(cluster.processes[0].pid, signal.SIGHUP)
    wait_until(lambda: any("reload refused" in e for e in cluster.events(0)), 10, "there is no such file yet")
    assert cluster.chat(0).status_code == 200
    key = shoal("keys", "new", "anna", "--config", path, "--requests-per-minute", "2")
    shoal("reload", "--config", path)
    wait_until(lambda: cluster.chat(0).status_code == 401, 10, "keys are asked for")
    cluster.http.headers["x-api-key"] = key
    assert [cluster.chat(0).status_code for _ in range(3)] == [200, 200, 429]
    shoal("reload", "--config", path)
    assert cluster.chat(0).status_code == 429


def test_a_cluster_does_not_start_without_its_file_of_keys(make_cluster: Make):
    cluster = make_cluster(nodes=1, gateway={"keys": {"file": "keys.yaml"}})
    process = cluster.start_node(0)
    assert process.wait(timeout=30) == 2
    assert "there is no such file of API keys; make it with `shoal keys new NAME`" in cluster.output(0)


def test_keys_from_the_environment_alone(make_cluster: Make, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SHOAL_API_KEYS", "sk-one-0123456789abcdef, sk-two-0123456789abcdef")
    cluster = make_cluster(nodes=1)
    cluster.start_node(0)
    wait_until(lambda: healthy(cluster), 20, "its engine is ready")
    assert "engines ready 1/1" in shoal("status", "--config", str(cluster.path))
    for key, status in (
        ("sk-one-0123456789abcdef", 200),
        ("sk-two-0123456789abcdef", 200),
        ("sk-three", 401),
    ):
        reply = httpx.get(cluster.url(0, "/v1/models"), headers={"x-api-key": key})
        assert reply.status_code == status
    assert httpx.get(cluster.url(0, "/shoal/v1/status")).status_code == 401


def healthy(cluster: Cluster) -> bool:
    """Whether /health, which needs no key, is good."""
    try:
        return httpx.get(cluster.url(0, "/health")).status_code == 200
    except httpx.ConnectError:
        return False
