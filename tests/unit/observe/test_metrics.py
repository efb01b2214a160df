from prometheus_client.core import GaugeMetricFamily

from shoal.batch.counts import BatchCounts
from shoal.cluster.view import (
    EngineReport,
    EngineState,
    Member,
    MemberState,
    NodeReport,
    SeatReport,
    SeatState,
    View,
)  # fmt: skip
from shoal.gateway.counters import Totals
from shoal.gateway.outcomes import WIDTH, Outcome, count, count_first, count_gaps, read
from shoal.node.key_usage import Used
from shoal.observe.catalog import METRICS
from shoal.observe.metrics import families, render
from shoal.observe.snapshot import Carried, Snapshot, Way
from support.metrics import samples, total

TOTALS = Totals(
    requests={},
    **{name: 7 for name in Totals.__struct_fields__ if name != "requests"},
)
VLLM = """# HELP vllm:num_requests_running Running.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
# HELP vllm:x_created When.
# TYPE vllm:x_created gauge
vllm:x_created{engine="0"} 1.0
# HELP llamacpp:requests_processing Of another program.
# TYPE llamacpp:requests_processing gauge
llamacpp:requests_processing 2
# HELP http_requests_total Not vLLM's own.
# TYPE http_requests_total counter
http_requests_total{handler="/v1"} 9.0
"""


def outcome() -> Outcome:
    cells = memoryview(bytearray(8 * WIDTH)).cast("q")
    count(cells, 0, 200, True, 2_000_000_000)
    count(cells, 0, 503, False, 2_000_000_000)
    count_first(cells, 0, 200_000_000)
    count_gaps(cells, 0, 3, 1_800_000_000)
    return read(cells)


def snapshot() -> Snapshot:
    engine = EngineReport(
        id="m-0", model="m", kind="vllm", state=EngineState.READY, host="h", running=2, kv_usage=0.5, restarts=4
    )  # fmt: skip
    seat = SeatReport(engine="g-0", group="a:1/g-0", model="g", rank=1, state=SeatState.RUNNING, generation=7)
    report = NodeReport(
        name="a:1", version="1", engines=(engine,), covers="c:1", config_hash="abc", seats=(seat,)
    )
    members = (
        Member(name="a:1", state=MemberState.ALIVE, age=0.0, report=report, is_self=True),
        Member(name="b:1", state=MemberState.DEAD, age=9.5),
        Member(name="c:1", state=MemberState.UNKNOWN),
    )
    return Snapshot(
        view=View(me="a:1", members=members),
        totals=TOTALS,
        outcomes=(("m", "a:1/m-0", outcome()), ("", "", outcome())),
        dispatched=(("a:1/m-0", 9, 2),),
        waiting={"m": 3},
        keys=(("anna", "m", Used(1, 20, 30, 4)),),
        datagrams={"sent": 5, "wrong_secret": 1},
        events={"error": 6},
        takeovers=2,
        ready={"m": 8},
        workers=2,
        worker_restarts=1,
        versions={"version": "0.1", "vllm": "0.32.0"},
        batches=BatchCounts(
            open={"in_progress": 1},
            lines={"completed": 3, "failed": 1, "waiting": 6},
            oldest=60.0,
            window_used=0.25,
            executed_lines={"completed": 2, "failed": 1},
            executed_tokens={"prompt": 40, "completion": 20},
        ),
        ways=(Way("b:1", "udp", False), Way("c:1", "udp", True)),
        carried=Carried("udp", {"carried": 5, "by_tcp": 1}, 3),
        engines=(("a:1/m-0", VLLM),),
    )


TEXT = render(snapshot(), [GaugeMetricFamily("shoal_more", "More.", value=1)])


def value(name: str, /, **labels: str) -> float:
    (found,) = samples(TEXT, name, **labels)
    return found.value


def test_requests_are_told_by_model_engine_and_code():
    at = {"model": "m", "engine": "a:1/m-0"}
    assert value("shoal_gateway_requests_total", code="200", streamed="true", **at) == 1
    assert value("shoal_gateway_requests_total", code="503", streamed="false", **at) == 1
    assert total(TEXT, "shoal_gateway_requests_total", engine="") == 2
    assert value("shoal_gateway_retries_total") == value("shoal_gateway_open_requests") == 7
    assert value("shoal_gateway_engine_requests_total", engine="a:1/m-0") == 9
    assert value("shoal_gateway_engine_faults_total", engine="a:1/m-0") == 2


def test_times_are_histograms_of_engines():
    for what, seconds, observed, below, above in (
        ("time_to_first_token_seconds", 0.2, 1, "0.1", "0.25"),
        ("inter_token_latency_seconds", 1.8, 3, "0.5", "0.75"),
        ("e2e_request_latency_seconds", 2.0, 1, "1.5", "2.0"),
    ):
        name = f"shoal_gateway_{what}"
        assert value(f"{name}_sum") == seconds
        assert value(f"{name}_count") == value(f"{name}_bucket", le="+Inf") == observed
        assert value(f"{name}_bucket", le=below) == 0
        assert value(f"{name}_bucket", le=above) == observed


def test_the_queue_and_keys_are_there():
    assert value("shoal_gateway_queue_length", model="m") == 3
    assert value("shoal_gateway_queue_wait_seconds_count") == 7
    assert value("shoal_gateway_queue_wait_seconds_sum") == 7e-6
    for reason in ("full", "timeout", "client_gone"):
        assert value("shoal_gateway_queue_unserved_total", reason=reason) == 7
    assert value("shoal_key_completion_tokens_total", key="anna", model="m") == 30


def test_members_and_own_engines_are_there():
    assert value("shoal_member_state", member="b:1", state="dead") == 1
    assert value("shoal_member_state", member="b:1", state="alive") == 0
    assert value("shoal_member_heartbeat_age_seconds", member="b:1") == 9.5
    assert samples(TEXT, "shoal_member_heartbeat_age_seconds", member="c:1") == []
    own = {"engine": "a:1/m-0", "model": "m"}
    assert value("shoal_engine_state", state="ready", **own) == 1
    assert value("shoal_engine_running", **own) == 2
    assert value("shoal_engine_kv_usage_ratio", **own) == 0.5
    assert value("shoal_engine_restarts_total", **own) == 4
    assert value("shoal_model_engines_ready", model="m") == 8
    assert value("shoal_standby_covers", member="c:1") == 1
    assert value("shoal_heartbeat_datagrams_total", result="wrong_secret") == 1
    assert value("shoal_build_info", version="0.1", vllm="0.32.0", torch="") == 1
    assert value("shoal_config_info", hash="abc", role="serve") == 1
    assert value("shoal_events_total", level="error") == 6


def test_parts_of_engines_across_nodes_are_there():
    assert value("shoal_group_part_state", group="a:1/g-0", model="g", rank="1", state="running") == 1
    assert value("shoal_group_part_state", group="a:1/g-0", state="free") == 0
    assert value("shoal_group_generation", group="a:1/g-0") == 7


def test_batches_and_ways_to_engines_are_there():
    assert value("shoal_batches", status="in_progress") == 1
    assert value("shoal_batch_lines", state="waiting") == 6
    assert value("shoal_batch_oldest_age_seconds") == 60
    assert value("shoal_batch_window_used_ratio") == 0.25
    assert value("shoal_batch_executed_lines_total", result="completed") == 2
    assert value("shoal_batch_executed_tokens_total", kind="prompt") == 40
    assert value("shoal_transport_by_tcp", peer="b:1", protocol="udp") == 0
    assert value("shoal_transport_by_tcp", peer="c:1", protocol="udp") == 1
    assert value("shoal_transport_requests_total", protocol="udp", result="carried") == 5
    assert value("shoal_transport_requests_total", protocol="udp", result="by_tcp") == 1
    assert value("shoal_transport_served_requests_total", protocol="udp") == 3


def test_every_series_names_its_node_and_what_engines_say_is_passed_on():
    assert value("shoal_more", node="a:1") == 1
    assert value("vllm:num_requests_running", node="a:1", engine="a:1/m-0", dp_rank="0", model_name="m") == 3
    assert value("llamacpp:requests_processing", node="a:1", engine="a:1/m-0") == 2
    assert "_created" not in TEXT
    assert "http_requests" not in TEXT
    lines = [line for line in TEXT.splitlines() if not line.startswith("#")]
    assert all('node="a:1"' in line for line in lines)


def test_only_what_is_in_the_catalogue_is_told_and_with_its_labels():
    for family in families(snapshot()):
        described = METRICS[family.name]
        assert (family.type, family.documentation) == (described.kind, described.text)
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(described.labels), sample
