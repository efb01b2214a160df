"""What tests with real vLLM need: vLLM itself, the demo's model, and memory. `make test` sees to the first two.

Without them these tests are skipped, so that a bare `pytest` works in any environment; with
SHOAL_TEST_REAL=required (`make test`) what is missing is a failure instead.
"""

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

import demo
import get_model
from lib import machine

_HERE = Path(__file__).parent
_TIMEOUT = 600  # seconds: several engines load, on a machine with few cores


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.real)
            item.add_marker(pytest.mark.timeout(_TIMEOUT))


def _lacking(what: str) -> None:
    if os.environ.get("SHOAL_TEST_REAL") == "required":
        pytest.fail(f"{what}, and SHOAL_TEST_REAL=required")
    pytest.skip(f"{what}: `make setup`")


@pytest.fixture(scope="session")
def model_path() -> Path:
    """Return the directory of the demo's model."""
    if importlib.util.find_spec("vllm") is None:
        _lacking("vLLM is not installed here")
    path = get_model.default_path()
    if not get_model.is_there(path):
        _lacking(f"there is no model at {path}")
    return path


@pytest.fixture(scope="session")
def embedding_path(model_path: Path) -> Path:
    """Return the directory of all-MiniLM-L6-v2, a BERT that makes embeddings."""
    path = get_model.default_path(get_model.EMBEDDING_NAME)
    if not get_model.is_there(path):
        _lacking(f"there is no model at {path} (`scripts/get_model.py --embedding`)")
    return path


@pytest.fixture(scope="session")
def real_model(model_path: Path) -> dict[str, Any]:
    """Return the `model` section of examples/demo.yaml with the path filled in: small engines that share a machine.

    They compute in float32. In bfloat16, two tokens that are about as likely may change places when what was generated
    step by step is read in one piece, as it is when a stream goes on elsewhere: greedy texts would differ by chance.
    """
    section: dict[str, Any] = YAML(typ="safe").load(demo.CONFIG)["model"]
    return section | {"path": str(model_path), "args": section["args"] | {"dtype": "float32"}}


@pytest.fixture(scope="session")
def real_engines() -> int:
    """Return how many engines the memory allows, 2 or 3; with fewer a test of recovery says nothing."""
    available = machine.available_memory()
    count = machine.engines_that_fit(available, demo.ENGINE_MEMORY, 3)
    if count < 2:
        pytest.skip(
            f"two engines need {2 * demo.ENGINE_MEMORY / 1e9:.0f} GB, {available / 1e9:.1f} GB are free"
        )
    return count
