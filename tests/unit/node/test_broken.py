from shoal.engine.tree import Ident, Process
from shoal.node.broken import needed

LEADER = 10


def process(pid: int, name: str, parent: int = LEADER) -> Process:
    return Process(Ident(pid, 1), parent, LEADER, "S", name[:15])


def test_an_engine_needs_its_cores_and_their_workers():
    core, worker = process(11, "VLLM::EngineCore"), process(12, "VLLM::Worker_TP0", 11)
    assert needed(LEADER, [process(LEADER, "vllm", 1), worker, core]) == [core, worker]


def test_the_workers_of_a_part_without_a_core_are_its_first_process_own():
    worker = process(12, "VLLM::Worker_TP1")
    assert needed(LEADER, [worker]) == [worker]


def test_what_a_worker_or_a_core_has_just_forked_may_end():
    core, worker = process(11, "VLLM::EngineCore"), process(12, "VLLM::Worker_TP0", 11)
    forked = [process(13, "VLLM::Worker_TP0", 12), process(14, "VLLM::EngineCore", 11)]
    assert needed(LEADER, [core, worker, *forked, process(15, "python3")]) == [core, worker]
