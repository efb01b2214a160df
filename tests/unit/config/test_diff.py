from shoal.config.diff import Change, changes
from support.configs import config

TEXT = """
    nodes: [{host: a, port: 1}, {host: b, port: 1}]
    models: [{name: m, path: /m, engine: sim, env: {KEY: secret-1}}, {name: n, path: /n, engine: sim}]
    cluster: {secret: 0123456789abcdef}
"""


def told(new: str) -> dict[str, str]:
    return {change.what: change.effect for change in changes(config(TEXT), config(new))}


def test_the_same_differs_in_nothing():
    assert changes(config(TEXT), config(TEXT)) == ()
    one = "nodes: [{host: a, port: 1}]\nmodel: {name: m, path: /m, engine: sim}\ncluster: {secret: 0123456789abcdef}"
    several = one.replace(
        "model: {name: m, path: /m, engine: sim}", "models: [{name: m, path: /m, engine: sim}]"
    )
    assert changes(config(one), config(several)) == ()


def test_models_are_added_changed_and_removed():
    assert told(TEXT.replace("name: n, path: /n", "name: x, path: /x")) == {
        "model x is added (/x)": "engines",
        "model n is removed": "engines",
    }
    assert told(TEXT.replace("path: /n", "path: /other, engines_per_node: 2")) == {
        "model n: path: /n -> /other": "engines",
        "model n: engines_per_node: None -> 2": "engines",
    }
    assert told(TEXT.replace("path: /n", "path: /n, policy: session, min_engines: 0")) == {
        "model n: policy: None -> session": "at once",
        "model n: min_engines: 1 -> 0": "at once",
    }


def test_that_a_secret_differs_is_told_and_not_how():
    found = told(TEXT.replace("secret-1", "secret-2"))
    assert len(found) == 1
    assert "secret" not in next(iter(found))


def test_nodes_come_by_the_file_and_go_by_leaving():
    assert told(TEXT.replace("{host: b, port: 1}", "{host: b, port: 1, weight: 2}, {host: c, port: 1}")) == {
        "node c:1 is added: it is expected, and starts when somebody starts it": "at once",
        "node b:1: weight: 1 -> 2": "at once",
    }
    (gone,) = changes(config(TEXT), config(TEXT.replace(", {host: b, port: 1}", "")))
    assert gone.effect == "refused"


def test_other_settings_say_when_they_take_effect():
    more = "    routing: {policy: session}\n    recovery: {resume: 'off'}\n"
    assert told(TEXT + more) == {
        "routing.policy: prefix_affinity -> session": "at once",
        "recovery.resume: exact -> off": "next start",
    }
    assert Change("cluster.name: shoal -> x: another name is another cluster", "refused") in changes(
        config(TEXT), config(TEXT.replace("secret: 0", "name: x, secret: 0"))
    )
