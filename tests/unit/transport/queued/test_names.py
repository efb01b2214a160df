"""Names of queues and topics."""

import re

from hypothesis import given
from hypothesis import strategies as st

from shoal.transport.queued.names import Names, class_of, part


def test_names_tell_what_they_are_for() -> None:
    names = Names("shoal.prod")
    assert names.requests("llama", 0) == "shoal.prod.requests.llama.batch"
    assert names.requests("llama", 1) == "shoal.prod.requests.llama.ordinary"
    assert names.inbox("10.0.0.1:8000", "1").startswith("shoal.prod.inbox.10.0.0.1_8000-")
    assert names.dead == "shoal.prod.dead"


@given(st.text(max_size=300), st.text(max_size=300))
def test_parts_are_plain_short_and_different_for_different_texts(one: str, other: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9._-]{0,109}", part(one))
    assert (part(one) == part(other)) == (one == other)


def test_classes_of_priority() -> None:
    assert [class_of(p) for p in (-3, 0, 1, 2, 9)] == [0, 0, 1, 2, 2]
