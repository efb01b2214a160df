"""Routing with real vLLM: the second turn of a conversation finds what the first one left in a cache."""

import re
from typing import Any

import httpx
import pytest

from support.cluster import Cluster
from support.wait import wait_until

MODEL = "SmolLM2-135M-Instruct"
READY = 400.0  # seconds: two engines load at the same time on two cores
SUBJECTS = ("rivers", "bridges", "trains", "clocks", "bread", "glass", "maps", "ships")


def metrics(url: str) -> str:
    return httpx.get(f"{url}/metrics", timeout=30, trust_env=False).text


def hits(url: str) -> float:
    """Return the prompt tokens that an engine has found in its prefix cache since its start."""
    (value,) = re.findall(r"^vllm:prefix_cache_hits_total\{[^}]*\} (\S+)$", metrics(url), re.MULTILINE)
    return float(value)


def block_size(url: str) -> int:
    """Return the tokens of a block: what a prompt has beyond its last whole block is not kept."""
    (value,) = re.findall(r'^vllm:cache_config_info\{.*\bblock_size="(\d+)"', metrics(url), re.MULTILINE)
    return int(value)


def opening(subject: str) -> list[dict[str, str]]:
    """Return the first message of a conversation: different from its first word on, some hundred tokens long."""
    notes = " ".join(
        f"{subject.capitalize()} number {n} is one that I have written about before." for n in range(40)
    )
    return [{"role": "user", "content": f"{subject.capitalize()}: {notes} Which is the last of them?"}]


def test_second_turns_find_their_prefix_on_the_engine_that_has_it(
    tmp_path_factory: pytest.TempPathFactory, real_model: dict[str, Any]
):
    cluster = Cluster(tmp_path_factory.mktemp("routing"), nodes=2, model=real_model)
    try:
        for index in range(2):
            cluster.start_node(index)
        cluster.wait_ready(deadline=READY)
        engines = {
            f"{member['name']}/{engine['id']}": f"http://127.0.0.1:{engine['port']}"
            for member in cluster.status(0)["members"]
            for engine in member["engines"]
        }
        assert len(engines) == 2
        homes: dict[str, str] = {}
        tokens = dict.fromkeys(engines, 0)  # of the first turns, in whole blocks
        size = block_size(next(iter(engines.values())))
        histories: dict[str, list[dict[str, str]]] = {}
        for subject in SUBJECTS:
            reply = ask(cluster, 0, opening(subject))
            home = homes[subject] = reply.headers["x-shoal-engine"]
            tokens[home] += reply.json()["usage"]["prompt_tokens"] // size * size
            histories[subject] = [*opening(subject), reply.json()["choices"][0]["message"]]
        assert set(homes.values()) == set(engines), "conversations are spread"
        before = {engine: hits(url) for engine, url in engines.items()}
        for number, subject in enumerate(SUBJECTS):
            messages = [{k: m[k] for k in ("role", "content")} for m in histories[subject]]
            reply = ask(cluster, number % 2, [*messages, {"role": "user", "content": "And the one before?"}])
            assert reply.headers["x-shoal-engine"] == homes[subject]

        def found() -> dict[str, float]:
            return {engine: hits(url) - before[engine] for engine, url in engines.items()}

        assert min(tokens.values()) > 0
        what = f"vLLM finds all that it computed for first turns: {tokens}"
        try:
            wait_until(lambda: all(found()[engine] >= tokens[engine] for engine in engines), 20, what)
        except AssertionError as error:
            raise AssertionError(f"{error}; it found {found()}") from None
    finally:
        cluster.close()


def ask(cluster: Cluster, index: int, messages: list[dict[str, str]]) -> httpx.Response:
    reply = cluster.chat(index, model=MODEL, messages=messages, max_tokens=4, temperature=0)
    assert reply.status_code == 200, reply.text
    return reply
