"""A node's look at itself."""

from types import SimpleNamespace

from shoal.cluster.view import EngineReport, EngineState, Member, MemberState, NodeReport, View
from shoal.engine.metrics import Load
from shoal.gateway.outcomes import FIRST_EVENT, WIDTH, count, count_first, read
from shoal.node.sampling import counters
from shoal.observe.snapshot import Snapshot


def test_a_look_adds_up_models_and_engines_and_leaves_out_who_looks():
    cells = memoryview(bytearray(8 * WIDTH)).cast("q")
    count(cells, 0, 200, True, 1_000_000)
    count(cells, 0, 503, False, 0)
    count_first(cells, 0, 3_000_000)
    outcome = read(cells.tolist())
    engines = tuple(
        EngineReport(id=f"m-{i}", model="m", kind="sim", state=state, host="h", kv_usage=usage)
        for i, (state, usage) in enumerate([(EngineState.READY, 0.5), (EngineState.STARTING, 0.1)])
    )
    report = NodeReport(name="a:1", version="1", engines=engines)
    view = View(me="a:1", members=(Member(name="a:1", state=MemberState.ALIVE, report=report, is_self=True),))
    snapshot = Snapshot(
        view=view,
        totals=SimpleNamespace(open_requests=4),
        outcomes=(("m", "a:1/m-0", outcome), ("m", "", outcome), ("", "", outcome)),
        waiting={"m": 2, "n": 1},
    )
    found = counters(snapshot, {"m-0 x": Load(generated_tokens=9, prompt_tokens=3)}, (1.0, 2.0), 0.5, None)
    assert (found.requests, found.failed) == (4, 2)  # the control app's own are for no model
    assert (sum(found.first), len(found.first)) == (2, len(FIRST_EVENT) + 1)
    assert (found.waiting, found.open, found.kv_usage) == (3, 4, (0.5,))
    assert (found.tokens, found.prompt_tokens) == ({"m-0 x": 9}, {"m-0 x": 3})
