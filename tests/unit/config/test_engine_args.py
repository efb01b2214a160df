from __future__ import annotations

from typing import Any

import pytest

from shoal.config.engine_args import ArgumentError, check_args, reserved
from shoal.config.scalars import FromVariable

RESERVED = [
    "host",
    "port",
    "uds",
    "model",
    "served-model-name",
    "api-key",
    "ssl-keyfile",
    "ssl-certfile",
    "ssl-ca-certs",
    "ssl-cert-reqs",
    "ssl-ciphers",
    "enable-ssl-refresh",
    "root-path",
    "config",
    "device-ids",
    "nnodes",
    "node-rank",
    "master-addr",
    "master-port",
    "headless",
    "data-parallel-rank",
    "data-parallel-start-rank",
    "data-parallel-size-local",
    "data-parallel-address",
    "data-parallel-rpc-port",
    "data-parallel-hybrid-lb",
    "data-parallel-external-lb",
    "data-parallel-multi-port-external-lb",
    "data-parallel-supervisor-port",
    "grpc",
    "grpc-port",
]


def test_a_mapping_passes_through_untouched() -> None:
    args = {
        "max_model_len": 2048,
        "enforce-eager": True,
        "a": [1, "b"],
        "hf-overrides": {"x": {"y": 1}},
        "f": 0.5,
    }
    assert check_args(args) == args


def test_a_list_is_a_command_line() -> None:
    assert check_args(["--max-model-len", 2048, "--x=a b", "-O3", 0.5]) == (
        "--max-model-len",
        "2048",
        "--x=a b",
        "-O3",
        "0.5",
    )


def test_variables_in_a_mapping_become_numbers_and_in_a_list_stay_text() -> None:
    assert check_args({"a": FromVariable("5"), "b": [FromVariable("x")]}) == {"a": 5, "b": ["x"]}
    assert check_args([FromVariable("5")]) == ("5",)


@pytest.mark.parametrize(
    ("args", "advice", "below"),
    [
        ("--a 5", "it must be a mapping", ()),
        (5, "it must be a mapping", ()),
        ({"--a": 5}, "without the dashes", ("--a",)),
        ({"a b": 5}, "no spaces", ("a b",)),
        ({"a=5": True}, "no =", ("a=5",)),
        ({"a": None}, "write true", ("a",)),
        (["--a 5"], "one like --a=5", (0,)),
        (["--a", True], "must be text", (1,)),
        (["--a", ["b"]], "must be text", (1,)),
        ([None], "must be text", (0,)),
    ],
)
def test_arguments_written_wrongly_are_refused_where_they_are(
    args: Any, advice: str, below: tuple[Any]
) -> None:
    with pytest.raises(ArgumentError, match=advice) as caught:
        check_args(args)
    assert caught.value.below == below


@pytest.mark.parametrize("name", RESERVED)
@pytest.mark.parametrize("form", ["dashes", "underscores", "list", "list="])
def test_arguments_that_shoal_sets_are_refused_in_every_form(name: str, form: str) -> None:
    args: Any = {
        "dashes": {name: "x"},
        "underscores": {name.replace("-", "_"): "x"},
        "list": (f"--{name}", "x"),
        "list=": (f"--{name}=x",),
    }[form]
    ((_, reason),) = reserved(args, "vllm")
    assert reason.startswith(f"--{name} cannot be set here: ")


@pytest.mark.parametrize(
    "args",
    [("-dpa", "x"), ("-n=2",), ("-r", "1"), ("--served", "x"), ("--no-headless",), {"serv": "x"}, {"nn": 2}],
)
def test_short_and_abbreviated_forms_are_refused_too(args: Any) -> None:
    assert list(reserved(args, "vllm"))


@pytest.mark.parametrize(
    "args",
    [
        {
            "max-model-len": 1,
            "data-parallel-size": 2,
            "model-impl": "x",
            "config-format": "x",
            "headers": "x",
        },
        ("--tensor-parallel-size", "2", "-tp", "2", "-dp", "2", "port", "--", "--enable-lora"),
        {},
        (),
    ],
)
def test_other_arguments_are_the_users(args: Any) -> None:
    assert not list(reserved(args, "vllm"))


def test_the_simulated_engine_has_reserved_arguments_of_its_own() -> None:
    assert [path for path, _ in reserved({"port": 1, "nnodes": 2, "host": "x"}, "sim")] == [
        ("port",),
        ("host",),
    ]


@pytest.mark.parametrize("name", ["ssl-keyfile", "ssl_certfile", "ssl-ca-certs", "ssl-cert-reqs"])
def test_nobody_takes_the_lock_off_the_port_of_a_simulated_engine_either(name: str) -> None:
    ((path, why),) = reserved({name: "x"}, "sim")
    assert path == (name,)
    assert "cluster.tls" in why
