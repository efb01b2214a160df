from __future__ import annotations

from collections.abc import Callable

import pytest

from shoal.config.schema import Config, Model

ConfigOf = Callable[..., Config]
Told = Callable[..., list[str]]


def model_of(config_of: ConfigOf, settings: str, **env: str) -> Model:
    config = config_of(f"nodes: [{{host: 127.0.0.1}}]\nmodel: {settings}\n", **env)
    return config.models[0]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/path/to/your/model", "model"),
        ("/models/Llama/", "Llama"),
        ("org/Name-7B", "Name-7B"),
        ("~/x/y", "y"),
        ("./m", "m"),
        ("/a b/c d", "c d"),
    ],
)
def test_a_model_is_called_like_the_last_part_of_its_path(config_of: ConfigOf, path: str, name: str) -> None:
    assert model_of(config_of, f'{{path: "{path}"}}').name == name


def test_a_model_may_have_a_name_of_its_own(config_of: ConfigOf) -> None:
    assert model_of(config_of, "{path: /x/y, name: org/z}").name == "org/z"


@pytest.mark.parametrize("path", ["/", "..", "~"])
def test_a_path_that_gives_no_name_needs_one(model_with: Told, path: str) -> None:
    assert "needs a `name`" in model_with(f'{{path: "{path}"}}')[0]


def test_everything_has_a_default(config_of: ConfigOf) -> None:
    model = model_of(config_of, "{path: a/b}")
    assert (model.type, model.engine, model.args, model.env) == ("auto", "vllm", {}, {})
    assert (model.engines_per_node, model.gpus_per_engine, model.share_gpus) == (None, None, False)
    assert (model.nodes, model.policy, model.addresses) == (None, None, ())


def test_numbers_in_the_environment_become_text(config_of: ConfigOf) -> None:
    assert model_of(config_of, '{path: a/b, env: {N: 5, F: 0.5, S: x, E: ""}}').env == {
        "N": "5",
        "F": "0.5",
        "S": "x",
        "E": "",
    }


@pytest.mark.parametrize(
    ("env", "place"), [("{A: true}", "2:29"), ("{A: }", "2:26"), ("{A: [1]}", "2:29"), ("{1x: a}", "2:26")]
)
def test_the_environment_is_text_under_proper_names(model_with: Told, env: str, place: str) -> None:
    (message,) = model_with(f"{{path: a/b, env: {env}}}")
    assert message.startswith(place)


def test_external_engines_have_addresses(config_of: ConfigOf) -> None:
    model = model_of(
        config_of,
        "{name: x, engine: external, addresses: [{url: 'https://a.example.com/p/', api_key: '${K}', weight: 2},"
        " {url: 'http://10.0.0.1:8000'}]}",
        K="123",
    )
    first, second = model.addresses
    assert (first.host, first.port, first.tls, first.base_path) == ("a.example.com", 443, True, "/p")
    assert (first.api_key, first.weight) == ("123", 2.0)
    assert (second.host, second.port, second.tls, second.base_path) == ("10.0.0.1", 8000, False, "")
    assert (second.api_key, second.weight) == (None, 1.0)


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("ftp://x", "must be a URL"),
        ("x:8000", "must be a URL"),
        ("http://", "must be a URL"),
        ("http://x:99999", "must be a URL"),
        ("http://x:0", "must be a URL"),
        ("http://[::1", "must be a URL"),
        ("http://x/v1", "leave out the /v1"),
        ("http://x/v1/", "leave out the /v1"),
        ("http://u:hunter2@x", "no user name or password"),
        ("http://x/?a=1", "ends with its path"),
        ("http://x/#a", "ends with its path"),
        ("http://0.0.0.0:1", "cannot connect"),
        ("http://a..b", "host name"),
    ],
)
def test_addresses_are_base_urls(model_with: Told, url: str, advice: str) -> None:
    (message,) = model_with(f'{{name: x, engine: external, addresses: [{{url: "{url}"}}]}}')
    assert advice in message
    assert "hunter2" not in message


def test_keys_are_not_shown_by_repr(config_of: ConfigOf) -> None:
    model = model_of(
        config_of,
        "{name: x, engine: external, addresses: [{url: 'http://x', api_key: hunter2}]}",
    )
    assert "hunter2" not in repr(model)
    assert "hunter2" not in repr(model_of(config_of, "{path: a/b, env: {TOKEN: hunter2}}"))
