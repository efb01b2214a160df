"""Faults, against real processes."""

from __future__ import annotations

import concurrent.futures
import json
import signal
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import httpx
import pytest

if TYPE_CHECKING:
    from support.sim import Sim

DEADLINE = 10.0
ENDLESS = {"prompt": "x", "max_tokens": 10_000, "ignore_eos": True, "stream": True, "return_token_ids": True}


@pytest.fixture(scope="module")
def lasting(launch: Callable[..., Sim]) -> Iterator[Sim]:
    running = launch()
    yield running
    running.stop()


@pytest.fixture
def steady(lasting: Sim) -> Iterator[Sim]:
    """An engine in real time for faults that can be cleared."""
    yield lasting
    lasting.fault(kind="clear")
    assert lasting.state()["faults"] == []


def read_until_cut(sim: Sim, **body: Any) -> tuple[int, str]:
    """Stream and return how many tokens came and how it ended."""
    count = 0
    with sim.another() as client:
        try:
            with client.stream("POST", "/v1/completions", json=ENDLESS | body) as response:
                for line in response.iter_lines():
                    if line == "data: [DONE]":
                        return count, "done"
                    if line.startswith("data: {"):
                        data = json.loads(line.removeprefix("data: "))
                        if "error" in data:
                            return count, data["error"]["message"]
                        count += len(data["choices"][0]["token_ids"])
        except httpx.HTTPError as error:
            return count, type(error).__name__
    return count, "end"


def answers(sim: Sim) -> bool:
    try:
        return sim.http.get("/health").status_code == 200
    except httpx.HTTPError:
        return False


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        ({"kind": "crash", "after_tokens": 7}, -signal.SIGKILL),
        ({"kind": "exit", "code": 3, "after_tokens": 7}, 3),
    ],
)
def test_the_process_dies_after_so_many_tokens(
    start_sim: Callable[..., Sim], fault: dict[str, Any], status: int
) -> None:
    sim = start_sim()
    sim.fault(**fault)
    assert read_until_cut(sim) == (7, "RemoteProtocolError")
    assert sim.process.wait(DEADLINE) == status


def test_the_process_dies_at_once(start_sim: Callable[..., Sim]) -> None:
    sim = start_sim()
    sim.fault(kind="crash")
    assert sim.process.wait(DEADLINE) == -signal.SIGKILL


def test_a_dead_core_looks_like_vllms(start_sim: Callable[..., Sim]) -> None:
    sim = start_sim()
    sim.fault(kind="core", after_tokens=5, exit_after=0.3)
    count, end = read_until_cut(sim)
    assert (count, end[:38]) == (5, "EngineCore encountered an issue. See s")
    assert not answers(sim)
    assert sim.process.wait(DEADLINE) == 0


def test_a_hung_core_makes_no_progress_but_is_called_healthy(steady: Sim) -> None:
    sim = steady
    before = sim.state()["generation_tokens"]
    sim.fault(kind="hang", after_tokens=3)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        reading = pool.submit(read_until_cut, sim, max_tokens=10)
        sim.wait(lambda state: bool(state["faults"]))
        assert answers(sim)
        assert sim.http.get("/v1/models").status_code == 200
        assert 'num_requests_running{engine="0",model_name="sim"} 1.0' in sim.http.get("/metrics").text
        assert sim.state()["generation_tokens"] == before + 3
        assert not reading.done()
        sim.fault(kind="clear")
        assert reading.result(DEADLINE) == (10, "done")


def test_a_hung_process_answers_nothing_but_its_controls(steady: Sim) -> None:
    sim = steady
    sim.fault(kind="hang", health=False, seconds=0.4)
    with sim.another(timeout=0.1) as client, pytest.raises(httpx.ReadTimeout):
        client.get("/health")
    assert sim.state()["faults"][0]["kind"] == "hang"
    assert answers(sim)  # waits until the hang is over
    assert sim.state()["faults"] == []


def test_slowness_multiplies_time(steady: Sim) -> None:
    sim = steady

    def took() -> float:
        began = time.monotonic()
        sim.complete(max_tokens=10, ignore_eos=True)
        return time.monotonic() - began

    normal = took()
    sim.fault(kind="slow", factor=10)
    assert took() > max(0.2, 2 * normal)
    sim.fault(kind="clear")
    assert took() < 0.2


def on_a_new_connection(sim: Sim) -> str:
    with sim.another() as client:
        try:
            return str(client.get("/health").status_code)
        except httpx.HTTPError as error:
            return type(error).__name__


def wait_for_new_connections(sim: Sim, expected: str) -> None:
    give_up = time.monotonic() + DEADLINE
    while (got := on_a_new_connection(sim)) != expected:
        assert time.monotonic() < give_up, got


@pytest.mark.parametrize(("how", "error"), [("close", "ConnectError"), ("reset", "ReadError")])
def test_new_connections_are_refused_until_cleared(steady: Sim, how: str, error: str) -> None:
    sim = steady
    sim.fault(kind="refuse", how=how)
    wait_for_new_connections(sim, error)
    assert answers(sim)  # an open connection goes on
    sim.process.send_signal(signal.SIGUSR1)
    wait_for_new_connections(sim, "200")
    assert sim.state()["faults"] == []


def test_refusal_ends_after_its_time(steady: Sim) -> None:
    sim = steady
    sim.fault(kind="refuse", seconds=0.2)
    wait_for_new_connections(sim, "ConnectError")
    wait_for_new_connections(sim, "200")
    assert sim.state()["faults"] == []


@pytest.mark.parametrize(("how", "end"), [("reset", "ReadError"), ("eof", "RemoteProtocolError")])
def test_streams_are_cut_after_so_many_tokens_for_so_many_requests(sim: Sim, how: str, end: str) -> None:
    sim.fault(kind="cut", how=how, after_tokens=4, count=2)
    assert [read_until_cut(sim, max_tokens=9) for _ in range(3)] == [(4, end), (4, end), (9, "done")]
    assert answers(sim)


def test_a_stalled_stream_stays_open_and_says_no_more(sim: Sim) -> None:
    finished = sim.state()["finished"]
    sim.fault(kind="cut", how="stall", after_tokens=2)
    body = ENDLESS | {"max_tokens": 20}
    with sim.another(timeout=0.2) as client:
        lines: list[str] = []
        with (
            pytest.raises(httpx.ReadTimeout),
            client.stream("POST", "/v1/completions", json=body) as response,
        ):
            lines.extend(line for line in response.iter_lines() if line)
    assert len(lines) == 2
    sim.wait(lambda state: bool(state["finished"] == finished + 1))


def test_an_answer_that_is_not_streamed_is_cut_too(sim: Sim) -> None:
    sim.fault(kind="cut")
    with pytest.raises(httpx.ReadError):
        sim.complete()
    assert sim.complete()["choices"]


def test_requests_are_answered_with_a_status_as_often_as_ordered(sim: Sim) -> None:
    sim.fault(kind="status", status=429, count=2, retry_after=7)
    sim.fault(kind="status", status=500, message="out of luck")
    said = [sim.http.post("/v1/completions", json={"prompt": "x"}) for _ in range(4)]
    assert [response.status_code for response in said] == [429, 429, 500, 200]
    assert said[0].headers["retry-after"] == "7"
    assert said[0].json()["error"]["type"] == "Too Many Requests"
    assert said[2].json()["error"]["message"] == "out of luck"
    assert sim.http.get("/health").status_code == 200


def test_what_was_to_come_is_cleared_too(start_sim: Callable[..., Sim]) -> None:
    sim = start_sim("--time-scale", "0")
    sim.fault(kind="crash", after_tokens=5)
    sim.fault(kind="exit", after_seconds=0.2)
    sim.fault(kind="clear")
    began = time.monotonic()
    while time.monotonic() < began + 0.3:
        sim.complete()
    assert sim.process.poll() is None
