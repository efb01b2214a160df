import json

import pytest
from benchmarks.headline.results import ENGINE, LOOP, Run, efficiency, markdown, ratio, shoal, verdict
from benchmarks.headline.work import WorkError, batch, prompts, tokens_made

LOOPED = Run(LOOP, 10.0, 100)
RUNS = [
    LOOPED,
    Run(ENGINE, 5.0, 200),
    Run(shoal(1), 5.0, 200, 1),
    Run(shoal(2), 2.5, 200, 2),
    Run(shoal(3), 2.5, 200, 3),
]


def test_ratios_are_of_tokens_per_second_since_the_loop_may_do_a_part() -> None:
    assert [ratio(run, RUNS) for run in RUNS] == [1.0, 4.0, 4.0, 8.0, 8.0]


def test_efficiency_is_the_share_of_what_so_many_single_nodes_would_make() -> None:
    assert efficiency(RUNS[1], RUNS) is None
    assert [efficiency(run, RUNS) for run in RUNS[2:]] == [1.0, 1.0, pytest.approx(2 / 3)]


def test_the_table_has_the_seconds_of_the_whole_batch() -> None:
    lines = markdown(RUNS, 200).splitlines()
    assert lines[2] == f"| (a) {LOOP} | 20.0 | 10.0 | 1.00 x |  |"
    assert lines[-1] == "| (e) Shoal, 3 nodes | 2.5 | 80.0 | 8.00 x | 67% |"


def test_the_promise_is_judged_with_three_nodes_only() -> None:
    assert verdict(RUNS).endswith("8.00 with 3: pass.")
    assert verdict(RUNS[:4]).endswith("8.00 with 2: **miss**.")
    assert verdict([LOOPED, Run(shoal(3), 5.0, 200, 3)]).endswith("4.00 with 3: **miss**.")


def test_batches_differ_in_their_number_alone() -> None:
    assert len(set(prompts(96, 12))) == 96
    assert [p.replace("Essay 12-", "Essay 13-") for p in prompts(9, 12)] == prompts(9, 13)


def test_each_line_must_be_answered_once() -> None:
    ids = [json.loads(line)["custom_id"] for line in batch("m", ["a", "b"], 4).splitlines()]
    answers = [
        json.dumps({"custom_id": i, "response": {"body": {"usage": {"completion_tokens": 4}}}}) for i in ids
    ]
    assert tokens_made("\n".join(answers), 2) == 8
    for wrong in (answers[:1], [*answers, answers[0]]):
        with pytest.raises(WorkError):
            tokens_made("\n".join(wrong), 2)
