"""The Transformer-XL of examples/: its equations are the published ones, and Shoal serves it as any program."""

import math
import sys
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from support.cluster import Cluster
from support.wait import wait_until

torch = pytest.importorskip("torch")
EXAMPLE = Path(__file__).parents[2] / "examples" / "transformer_xl"
TEXT = (Path(__file__).parents[2] / "README.md").read_bytes()


@pytest.fixture(scope="module", autouse=True)
def example() -> Iterator[None]:
    """Let the example's files import each other as they do when they are run."""
    sys.path.insert(0, str(EXAMPLE))
    yield
    sys.path.remove(str(EXAMPLE))


def small(**changes):
    from model import Config, TransformerXL  # noqa: PLC0415

    torch.manual_seed(0)
    shape = {"layers": 3, "width": 16, "heads": 2, "inner": 32, "segment": 8, "memory": 64}
    model = TransformerXL(Config(**shape | changes)).double().eval()
    torch.nn.init.normal_(model.u)
    torch.nn.init.normal_(model.v)
    return model


def in_segments(model, tokens, size=8):
    memory, scores = model.no_memory(len(tokens)), []
    for part in tokens.split(size, dim=1):
        got, memory = model(part, memory)
        scores.append(got)
    return torch.cat(scores, dim=1)


def test_attention_is_that_of_the_published_equations():
    """A(i,j) = Eq.k_E + Eq.W_R.R(i-j) + u.k_E + v.W_R.R(i-j), term by term, for every pair of positions."""
    from model import sinusoids  # noqa: PLC0415

    model = small()
    attention = model.layers[0].attention
    states, memory = torch.randn(1, 5, 16).double(), torch.randn(1, 7, 16).double()
    context = torch.cat([memory, states], dim=1)[0]
    mixed = torch.zeros(5, 16).double()
    for head in range(2):
        part = slice(8 * head, 8 * head + 8)
        w_q, w_k, w_v, w_r = (
            getattr(attention, name).weight[part] for name in ("query", "key", "value", "position")
        )
        for i in range(5):
            q, at = w_q @ states[0, i], 7 + i
            scores = []
            for j in range(at + 1):
                k, r = w_k @ context[j], w_r @ sinusoids(torch.tensor([at - j]), 16).double()[0]
                scores.append((q @ k + q @ r + model.u[head] @ k + model.v[head] @ r) / math.sqrt(8))
            weights = torch.stack(scores).softmax(0)
            mixed[i, part] = sum(weight * (w_v @ context[j]) for j, weight in enumerate(weights))
    expected = mixed @ attention.out.weight.T
    assert torch.allclose(attention(states, memory, model.u, model.v)[0], expected, atol=1e-12)


def test_segments_with_memory_agree_with_one_pass_over_the_whole_context():
    model = small()
    tokens = torch.randint(0, 256, (2, 40))
    whole, _ = model(tokens, model.no_memory(2))
    assert torch.allclose(in_segments(model, tokens), whole, atol=1e-10)
    assert torch.allclose(in_segments(model, tokens, 1), whole, atol=1e-10)
    without = in_segments(small(memory=0), tokens)
    assert torch.allclose(
        without[:, :8], whole[:, :8], atol=1e-10
    )  # the first segment has nothing to remember
    assert not torch.allclose(without[:, 8:], whole[:, 8:], atol=1e-3)
    alone, _ = model(tokens[:, 8:16], model.no_memory(2))
    assert torch.allclose(without[:, 8:16], alone, atol=1e-10)


def test_each_layer_sees_one_memory_further_back():
    """With memory of one segment, layer n reaches n segments back (the paper's figure 2)."""
    model = small(layers=2, memory=8)
    tokens = torch.randint(0, 256, (1, 32))
    reached = []
    for segment in range(4):
        other = tokens.clone()
        other[0, 8 * segment] ^= 1
        same = torch.equal(in_segments(model, tokens)[0, 24], in_segments(model, other)[0, 24])
        reached.append(not same)
    assert reached == [False, True, True, True]


def test_a_trained_one_is_served_as_an_engine_and_streams(tmp_path: Path):
    from model import Config, TransformerXL  # noqa: PLC0415
    from train import train  # noqa: PLC0415

    torch.manual_seed(0)
    model = TransformerXL(Config(layers=2, width=64, inner=128))
    losses = list(train(model, TEXT, 60))
    assert losses[-1] < losses[0] - 1  # nats per byte
    model.save(tmp_path / "model")
    greedy = bytes(model.generate(b"Shoal ", 40, temperature=0)).decode(errors="replace")
    entry = {
        "name": "transformer-xl",
        "engine": "command",
        "path": str(tmp_path / "model"),
        "command": f"{sys.executable} {EXAMPLE}/server.py --model {{model}} --name {{name}} --host {{host}} "
        "--port {port}",
    }
    cluster = Cluster(tmp_path, nodes=2, model=entry, recovery={"resume": "off"})
    try:
        for index in range(2):
            cluster.start_node(index)
        cluster.wait_ready(deadline=120)
        client = openai.OpenAI(base_url=cluster.url(0, "/v1"), api_key="unused", max_retries=0)
        ask = {"model": "transformer-xl", "prompt": "Shoal ", "max_tokens": 40, "temperature": 0}
        whole = client.completions.create(**ask)
        assert whole.choices[0].text == greedy
        assert whole.usage is not None
        assert whole.usage.completion_tokens == 40
        assert (
            "".join(chunk.choices[0].text for chunk in client.completions.create(**ask, stream=True))
            == greedy
        )
        killed = cluster.kill_engine(0)
        assert client.completions.create(**ask).choices[0].text == greedy  # by the other node
        wait_until(
            lambda: [p.pid for p in cluster.engine_processes(0)] not in ([], [killed]), 30, "restarted"
        )
    finally:
        cluster.close()
