from prometheus_client.parser import text_string_to_metric_families

from shoal.cluster.view import EngineReport, EngineState, Member, MemberState, NodeReport, View
from shoal.gateway.counters import Totals
from shoal.observe.metrics import NodeCollector, render

TOTALS = Totals(
    requests={("2xx", True): 3, ("5xx", False): 1},
    **{name: 7 for name in Totals.__struct_fields__ if name != "requests"},
)


def samples() -> dict[tuple[str, tuple[str, ...]], float]:
    engine = EngineReport(
        id="m-0",
        model="m",
        kind="vllm",
        state=EngineState.READY,
        host="h",
        running=2,
        kv_usage=0.5,
        restarts=4,
    )
    report = NodeReport(name="a:1", version="1", engines=(engine,))
    view = View(
        me="a:1",
        members=(
            Member(name="a:1", state=MemberState.ALIVE, report=report, is_self=True),
            Member(name="b:1", state=MemberState.DEAD),
        ),
    )
    text = render(
        NodeCollector(lambda: view, lambda: TOTALS, lambda: [("a:1/m-0", 9, 2)], lambda: [("m", 3)])
    ).decode()
    families = text_string_to_metric_families(text)
    return {(s.name, tuple(s.labels.values())): s.value for f in families for s in f.samples}


def test_gateway_counters_are_there():
    got = samples()
    assert got["shoal_gateway_requests_total", ("2xx", "true")] == 3
    assert got["shoal_gateway_requests_total", ("5xx", "false")] == 1
    assert got["shoal_gateway_retries_total", ()] == 7
    assert got["shoal_gateway_open_requests", ()] == 7
    assert got["shoal_gateway_engine_requests_total", ("a:1/m-0",)] == 9
    assert got["shoal_gateway_engine_faults_total", ("a:1/m-0",)] == 2


def test_the_queue_is_there():
    got = samples()
    assert got["shoal_gateway_queue_length", ("m",)] == 3
    assert got["shoal_gateway_queue_wait_seconds_count", ()] == 7
    assert got["shoal_gateway_queue_wait_seconds_sum", ()] == 7e-6
    for reason in ("full", "timeout", "client_gone"):
        assert got["shoal_gateway_queue_unserved_total", (reason,)] == 7


def test_members_and_own_engines_are_there():
    got = samples()
    assert got["shoal_member_state", ("b:1", "dead")] == 1
    assert got["shoal_member_state", ("b:1", "alive")] == 0
    assert got["shoal_engine_state", ("m-0", "m", "ready")] == 1
    assert got["shoal_engine_running", ("m-0", "m")] == 2
    assert got["shoal_engine_kv_usage", ("m-0", "m")] == 0.5
    assert got["shoal_engine_restarts_total", ()] == 4
