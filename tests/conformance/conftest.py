from collections.abc import Iterator

import pytest

from support.cluster import Cluster


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Return two running nodes with a simulated engine each, shared by all conformance tests."""
    running = Cluster(tmp_path_factory.mktemp("conformance"), nodes=2)
    try:
        yield running.start()
    finally:
        running.close()


@pytest.fixture(params=[0, 1])
def node(request: pytest.FixtureRequest, cluster: Cluster) -> str:
    """Return the URL of each node in turn."""
    return cluster.url(request.param)
