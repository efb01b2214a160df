"""The carrier through a broker, from the relay's settings."""

import asyncio
from typing import Any

import pytest

from shoal.gateway.messages import Credentials
from shoal.transport.carriers import Surroundings, make
from shoal.transport.contract import CarrierError
from shoal.transport.directory import Directory
from shoal.transport.messages import RelayEngine, RelaySettings
from shoal.transport.queued import make as making
from shoal.transport.queued.carrier import QueuedCarrier


def around(protocol: str) -> Surroundings:
    settings = RelaySettings(
        protocol=protocol,
        node="a:1",
        cluster="prod",
        credentials=Credentials(ca="", certificate="", key="", server_name=""),
        options={"urls": ["mq:1"], "user": None, "max_queue": 7, "ca": None},
        nodes=5,
    )
    handler: Any = None
    return Surroundings(settings=settings, directory=Directory(), handler=handler)


@pytest.mark.parametrize("protocol", ["rabbitmq", "kafka"])
def test_the_configuration_reaches_the_carrier(protocol: str) -> None:
    given = around(protocol)
    settings = making.settings_of(given)
    assert (settings.node, settings.cluster, settings.nodes) == ("a:1", "prod", 5)
    assert (settings.urls, settings.max_queue, settings.prefix) == (("mq:1",), 7, "shoal")

    async def made() -> None:
        assert isinstance(make(given), QueuedCarrier)

    asyncio.run(made())


def test_a_node_has_as_many_slots_as_its_own_engines_take() -> None:
    given = around("rabbitmq")
    of = {"host": "127.0.0.1", "port": 1}
    given.directory.replace(
        (
            RelayEngine(id="a:1/x-0", model="x", capacity=8, local=True, **of),
            RelayEngine(id="a:1/x-1", model="x", capacity=8, local=True, **of),
            RelayEngine(id="a:1/y-0", model="y", local=True, **of),
            RelayEngine(id="b:1/x-0", model="x", capacity=8, **of),
        )
    )
    assert making.slots(given) == {"x": 16, "y": 32}


def test_without_its_client_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(making.importlib, "import_module", absent)
    carrier = making.queued(around("rabbitmq"))
    assert "pip install 'shoal[rabbitmq]'" in (carrier.trouble or "")
    with pytest.raises(CarrierError, match="aio-pika"):
        asyncio.run(carrier.start())
