"""The message broker in the configuration."""

from collections.abc import Callable

import pytest

from shoal.config import Config, Loaded

Told = Callable[..., list[str]]

MINIMAL = "nodes: [{host: 127.0.0.1}]\nmodel: {path: a/b}\n"


def with_broker(protocol: str, broker: str) -> str:
    return MINIMAL + f"communication: {{protocol: {protocol}, broker: {broker}}}\n"


def test_a_broker_needs_nothing_but_where_it_is(config_of: Callable[..., Config]) -> None:
    broker = config_of(with_broker("rabbitmq", "{urls: ['amqp://mq:5672/shoal', mq2]}")).communication.broker
    assert broker is not None
    assert broker.urls == ("amqp://mq:5672/shoal", "mq2")
    assert (broker.prefix, broker.max_queue, broker.redeliveries) == ("shoal", 10_000, 3)


def test_the_password_comes_from_the_environment_and_is_not_shown(load_text: Callable[..., Loaded]) -> None:
    text = with_broker("kafka", "{urls: ['k1:9092'], user: shoal}")
    loaded = load_text(text, SHOAL_BROKER_PASSWORD="open sesame")
    broker = loaded.config.communication.broker
    assert broker is not None
    assert broker.password == "open sesame"
    assert "sesame" not in repr(loaded.config)
    assert "sesame" not in repr(loaded.settings())
    assert loaded.config.agreed_hash() == load_text(text, SHOAL_BROKER_PASSWORD="other").config.agreed_hash()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (MINIMAL + "communication: {protocol: rabbitmq}\n", "amqp://host:5672"),
        (MINIMAL + "communication: {protocol: kafka}\n", "host:9092"),
        (with_broker("tcp", "{urls: [mq]}"), "has no effect with `protocol: tcp`"),
        (with_broker("kafka", "{urls: ['amqp://mq']}"), "given as host:port"),
        (with_broker("rabbitmq", "{urls: []}"), "communication.broker.urls"),
        (with_broker("rabbitmq", "{urls: ['amqp://me:secret@mq']}"), "`user` and `password`"),
        (with_broker("rabbitmq", "{urls: ['http://mq']}"), "amqp://host:port"),
        (with_broker("rabbitmq", "{urls: ['mq:x']}"), "amqp://host:port"),
        (with_broker("rabbitmq", "{urls: [mq], password: p}"), "no `user`"),
        (with_broker("rabbitmq", "{urls: [mq], max_queue: 0}"), "max_queue"),
        (with_broker("rabbitmq", "{urls: [mq], ca: nowhere.pem}"), "cannot be read"),
    ],
)
def test_what_cannot_work_is_told(told: Told, text: str, says: str) -> None:
    (message,) = told(text)
    assert says in message
    assert "secret@" not in message
