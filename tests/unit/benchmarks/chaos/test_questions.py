import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest
from benchmarks.chaos.questions import CHAT, LEAST_TOKENS, MODEL, MOST_TOKENS, question
from benchmarks.chaos.verify import GOOD, judge

from support.ports import free_ports
from support.wait import wait_until

MANY = [question(number) for number in range(120)]


def test_a_question_is_the_same_each_time_and_unlike_any_other() -> None:
    assert question(7) == MANY[7]
    assert question(7, seed="other") != MANY[7]
    prompts = {str(q.body.get("messages") or q.body["prompt"]) for q in MANY}
    assert len(prompts) == len(MANY)


def test_questions_are_of_all_kinds() -> None:
    chats = sum(q.path == CHAT for q in MANY)
    assert 40 < chats < 80
    assert any(q.usage for q in MANY)
    assert any(not q.streamed for q in MANY)
    assert {q.answer.finish_reason for q in MANY} == {"stop", "length"}
    assert all(LEAST_TOKENS <= q.answer.completion_tokens <= MOST_TOKENS for q in MANY)
    assert all(q.path == CHAT for q in (question(n, chat_only=True) for n in range(20)))


def test_a_stop_string_does_end_the_answer_and_is_no_part_of_it() -> None:
    stopped = [q for q in MANY if "stop" in q.body]
    assert stopped
    for q in stopped:
        assert q.answer.finish_reason == "stop" or q.answer.completion_tokens == q.body["max_tokens"]
    assert any(q.body["stop"][0] not in q.answer.text for q in stopped)


@pytest.fixture
def engine() -> Iterator[str]:
    (port,) = free_ports(1)
    command = [
        sys.executable,
        "-m",
        "shoal.sim",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--model",
        MODEL,
    ]
    process = subprocess.Popen([*command, "--time-scale", "0"], stdout=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"

    def up() -> bool:
        try:
            return httpx.get(f"{url}/health", trust_env=False, verify=False).status_code == 200
        except httpx.HTTPError:
            return False

    wait_until(up, 20)
    yield url
    process.kill()
    process.wait()


def test_the_expected_answer_is_what_a_simulated_engine_gives(engine: str) -> None:
    with httpx.Client(trust_env=False, verify=False, timeout=20) as http:
        for q in MANY:
            reply = http.post(engine + q.path, json=q.body)
            assert judge(q, reply.status_code, reply.content) == GOOD
