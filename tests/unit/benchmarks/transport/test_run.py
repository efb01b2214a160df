"""What nodes say of the way that requests go."""

from benchmarks.transport.run import by

NAMES = ["b:1", "c:1"]


def test_the_last_word_about_each_node_counts():
    log = "requests go by tcp, not udp: no answer\nrequests to b:1 go by udp\nrequests to c:1 go by udp\n"
    assert not by("udp", "", NAMES)
    assert by("udp", log, NAMES)
    assert not by("udp", log + "requests to c:1 go by tcp, not udp: it is silent\n", NAMES)


def test_what_is_said_of_all_nodes_counts_for_each():
    assert by("kafka", "requests go by kafka\n", NAMES)
    assert not by("kafka", "requests go by kafka\nrequests go by tcp, not kafka: it is away\n", NAMES)
