import json
import logging
import sys

from shoal.observe.logs import JsonFormatter, PlainFormatter


def record(level: int = logging.INFO, message: str = "engine m-0 starts") -> logging.LogRecord:
    return logging.LogRecord("shoal", level, __file__, 1, message, None, None)


def test_plain_lines_say_when_who_and_what():
    line = PlainFormatter("n:1", colour=False).format(record())
    assert line.endswith(" n:1 engine m-0 starts")
    assert (
        PlainFormatter("n:1", colour=False)
        .format(record(logging.WARNING))
        .endswith("warning: engine m-0 starts")
    )


def test_only_a_terminal_gets_colours():
    assert "\x1b[31m" in PlainFormatter("n:1", colour=True).format(record(logging.ERROR))
    assert "\x1b" not in PlainFormatter("n:1", colour=False).format(record(logging.ERROR))


def test_json_lines_are_one_object_each():
    entry = json.loads(JsonFormatter("n:1").format(record(message='quotes " and\nnewlines')))
    assert entry["message"] == 'quotes " and\nnewlines'
    assert (entry["node"], entry["level"], entry["logger"]) == ("n:1", "info", "shoal")
    assert entry["time"].endswith("Z")


def test_json_lines_carry_the_traceback():
    try:
        raise ValueError("broken")
    except ValueError:
        failed = record()
        failed.exc_info = sys.exc_info()
    assert "ValueError: broken" in json.loads(JsonFormatter("n:1").format(failed))["exception"]
