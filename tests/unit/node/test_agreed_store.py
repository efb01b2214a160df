from pathlib import Path

from shoal.cluster.agreed import Agreed, Applied, Joined
from shoal.config import Config
from shoal.config.shared import digest, shared
from shoal.node.agreed_store import AgreedStore, Kept, begin_with, with_joined
from support.configs import config

TEXT = """
    nodes: [{host: 127.0.0.1, port: 8001}, {host: 127.0.0.1, port: 8002, bind: 0.0.0.0}]
    model: {path: m, engine: sim, args: {decode-ms: 5}}
    cluster: {secret: 0123456789abcdef}
    engines: {python: /opt/python}
    gateway: {keys: {admin_keys: [an-admin-key-of-some-length]}}
    state_dir: /var/lib/shoal
"""


def applied(changed: Config, generation: int = 1) -> Agreed:
    return Agreed(applied=Applied(generation=generation, stamp=1, by="a:1", document=shared(changed)))


def test_what_is_shared_is_all_but_what_belongs_to_one_machine():
    document = shared(config(TEXT))
    assert "state_dir" not in document
    assert "secret" not in document["cluster"]
    assert "python" not in document["engines"]
    assert document["gateway"]["keys"]["admin_keys"] == ["an-admin-key-of-some-length"]
    assert document["model"]["args"] == {"decode-ms": 5}
    assert "bind" not in document["nodes"][1]


def test_a_file_alone_is_what_it_was(tmp_path: Path):
    file = config(TEXT)
    base, kept, sentence = begin_with(file, None, named=True)
    assert (base, kept, sentence) == (file, Kept(file=digest(shared(file))), "")
    store = AgreedStore(tmp_path / "state")
    store.write(kept)
    assert store.read() == kept
    assert (tmp_path / "state" / "agreed.json").stat().st_mode & 0o777 == 0o600
    store.forget()
    assert store.read() is None
    (tmp_path / "state" / "agreed.json").write_text("{")
    assert store.read() is None


def test_what_was_applied_holds_until_the_file_is_edited():
    file = config(TEXT)
    kept = Kept(
        agreed=applied(config(TEXT.replace("decode-ms: 5", "decode-ms: 6"))), file=digest(shared(file))
    )
    base, goes_on, sentence = begin_with(file, kept, named=True)
    assert base.models[0].args == {"decode-ms": 6}
    assert base.cluster.secret == file.cluster.secret
    assert (base.state_dir, base.engines.python, base.nodes[1].bind) == (
        file.state_dir,
        "/opt/python",
        "0.0.0.0",
    )
    assert goes_on == kept
    assert "generation 1" in sentence
    edited = config(TEXT.replace("decode-ms: 5", "decode-ms: 7"))
    base, goes_on, sentence = begin_with(edited, kept, named=True)
    assert base == edited
    assert goes_on.agreed == Agreed()
    assert "the file was changed since generation 1" in sentence


def test_a_node_that_joined_goes_on_with_what_it_was_told():
    told = shared(config(TEXT))
    local = config(TEXT.replace("/var/lib/shoal", "/srv/shoal"))
    base, kept, _ = begin_with(local, Kept(learned=told), named=False)
    assert (base.models, str(base.state_dir)) == (local.models, "/srv/shoal")
    assert kept.file == ""


def test_nodes_that_joined_are_nodes_and_those_that_left_are_not():
    base = config(TEXT)
    came = Joined(host="127.0.0.1", port=8003, weight=2.0, stamp=1)
    left = Joined(host="127.0.0.1", port=8002, present=False, stamp=2)
    effective = with_joined(base, Agreed(joined={came.name: came, left.name: left}), "127.0.0.1:8001")
    assert [(n.name, n.weight) for n in effective.nodes] == [("127.0.0.1:8001", 1.0), ("127.0.0.1:8003", 2.0)]
    assert effective.cluster.secret == base.cluster.secret
    assert with_joined(base, Agreed(), "127.0.0.1:8001") is base
    # Whoever runs is a node, whatever others have heard of it.
    still = with_joined(base, Agreed(joined={left.name: left}), "127.0.0.1:8002")
    assert [n.port for n in still.nodes] == [8001, 8002]


def test_a_port_that_no_node_may_have_makes_no_node():
    base = config(TEXT)
    bad = Joined(host="127.0.0.1", port=20005, stamp=1)
    assert with_joined(base, Agreed(joined={bad.name: bad}), "127.0.0.1:8001") == base
