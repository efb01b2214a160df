from shoal.cli.rates import per_second, read

TEXT = """\
# HELP shoal_gateway_requests_total x
shoal_gateway_requests_total{node="a:1",model="m",engine="a:1/m-0",code="200",streamed="false"} 10.0
shoal_gateway_requests_total{node="a:1",model="m",engine="b:1/m-0",code="200",streamed="true"} 5.0
shoal_gateway_requests_total{node="b:1",model="m",engine="",code="404",streamed="false"} 1.0
vllm:generation_tokens_total{node="a:1",engine="a:1/m-0",dp_rank="0",model_name="m"} 1e+03
vllm:generation_tokens_total{node="a:1",engine="a:1/m-0",dp_rank="1",model_name="m"} 500.0
vllm:generation_tokens_created{node="a:1"} 1.7e9
"""


def test_counters_are_summed_by_node_and_engine():
    counted = read(TEXT, 1.0)
    assert counted.requests == {"a:1": 15.0, "b:1": 1.0}
    assert counted.tokens == {"a:1/m-0": 1500.0}


def test_rates_need_two_looks_and_know_of_restarts():
    first = read(TEXT, 1.0)
    assert per_second(None, first) == ({}, {})
    later = read(TEXT.replace("} 10.0", "} 20.0").replace("1e+03", "100").replace("500.0", "0"), 3.0)
    assert per_second(first, later) == ({"a:1": 5.0, "b:1": 0.0}, {"a:1/m-0": 50.0})
    assert per_second(later, later) == ({}, {})
