"""What `executor: ray` adds to the plan of a part, and what is refused before anything starts."""

import sys
from importlib import metadata

import pytest

from shoal.config import Config
from shoal.engine.gpu import Gpu
from shoal.engine.versions import ray_version
from shoal.node.errors import StartError
from shoal.node.parts import PlannedPart
from shoal.node.placement import Placement
from shoal.node.specs import engine_spec, planned_part
from shoal.node.split import Split
from support.configs import config

NODES = ("10.0.0.1:8000", "10.0.0.2:8000")
GPU = Gpu(index=0, uuid="GPU-1", name="H100", total=80 << 30, free=None)


def cluster(more: str = "", secret: str = "") -> Config:
    return config(
        f"nodes: [{{host: 10.0.0.1}}, {{host: 10.0.0.2}}]\n"
        f"model: {{path: /m, type: xlarge, executor: ray{more}}}\n{secret}"
    )


def placement(of: Config, gpus: tuple[int, ...] = (0,), data: int = 1) -> Placement:
    split = Split(nodes=2, tensor=1, stages=2, data=data)
    return Placement("m-0", of.models[0], gpus, nodes=NODES, split=split)


def planned(of: Config, gpus: tuple[int, ...] = (0,), data: int = 1) -> PlannedPart:
    placed = placement(of, gpus, data)
    return planned_part(placed, engine_spec(placed, of, "10.0.0.1"), [GPU])


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray, and vLLM, as if they were installed."""
    monkeypatch.setattr("shoal.node.specs.ray_version", lambda python: "2.60.0")
    monkeypatch.setattr("shoal.node.specs.vllm_version", lambda python: "0.32.0")


@pytest.mark.usefixtures("installed")
def test_members_must_have_the_same_ray():
    part = planned(cluster())
    assert part.executor == "ray"
    assert part.place.traits["Ray"] == "2.60.0"


@pytest.mark.usefixtures("installed")
def test_ray_asks_for_a_token_that_all_nodes_derive_from_the_secret():
    secret = "cluster: {secret: 0123456789abcdef}"
    tokens = [
        planned(cluster(secret=s)).spec.env.get("RAY_AUTH_TOKEN") for s in (secret, secret, secret + "\n", "")
    ]
    assert tokens[0] == tokens[1] == tokens[2]
    assert len(tokens[0] or "") == 64
    assert tokens[3] is None
    other = planned(cluster(secret="cluster: {secret: 0123456789abcdeX}")).spec.env["RAY_AUTH_TOKEN"]
    assert other != tokens[0]
    own = planned(cluster(", env: {RAY_AUTH_TOKEN: mine}", secret)).spec.env["RAY_AUTH_TOKEN"]
    assert own == "mine"


@pytest.mark.parametrize(
    ("gpus", "data", "why"),
    [
        (
            (),
            1,
            r"vLLM refuses Ray on CPUs \(`current platform cpu does not support ray`\). Set `executor: mp`",
        ),
        ((0,), 2, "data parallel ranks are spread by vLLM itself. Set `executor: mp`"),
    ],
)
@pytest.mark.usefixtures("installed")
def test_what_vllm_would_refuse_is_refused(gpus: tuple[int, ...], data: int, why: str):
    with pytest.raises(StartError, match=why):
        planned(cluster(), gpus, data)


def test_a_missing_ray_is_told_with_where_it_is_missing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("shoal.node.specs.ray_version", lambda python: "none")
    with pytest.raises(StartError, match=r"needs Ray beside vLLM \(.*python.*\). Install it there"):
        planned(cluster())


def test_the_version_of_ray_is_that_of_the_interpreter():
    try:
        known = metadata.version("ray")
    except metadata.PackageNotFoundError:
        known = "none"

    assert ray_version(sys.executable) == known
    assert ray_version("/no/such/python") == "none"
