"""The table of who has which prompt blocks."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.routing.prefix_table import COLUMNS, PrefixTable, column

ALL = 2**COLUMNS - 1


def cells(entries: int) -> memoryview:
    return memoryview(bytearray(8 * (PrefixTable.smallest + 3 * entries))).cast("Q")


def hashes(seed: object, count: int) -> list[int]:
    rng = random.Random(str(seed))
    return [rng.getrandbits(64) for _ in range(count)]


def test_what_was_put_is_found_for_the_engines_that_have_it():
    table, prompt = PrefixTable(cells(1000)), hashes("a", 20)
    assert table.put(prompt, column(1), 5) == prompt
    assert table.put(prompt[:8], column(2), 6) == prompt[:8]
    assert table.put(prompt[:8], column(2), 7) == []
    match = table.match(prompt, ALL)
    assert [match.blocks(column(slot)) for slot in range(3)] == [0, 20, 8]
    assert len(match.places) == 20


def test_places_save_a_second_search_and_change_nothing():
    table, prompt = PrefixTable(cells(1000)), hashes("a", 20)
    table.put(prompt[:12], column(1), 5)
    match = table.match(prompt, column(1) | column(3))
    assert table.put(prompt, column(3), 6, match.places) == prompt
    assert table.match(prompt, ALL).blocks(column(3)) == 20
    assert table.match(prompt, ALL).blocks(column(1)) == 12


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 12), st.integers(0, 7)), max_size=40))
def test_with_room_enough_it_is_exact(steps):
    """Prompts are the branches of six texts; compare with sets."""
    table, known = PrefixTable(cells(100_000)), {}
    for now, (text, length, slot) in enumerate(steps, 1):
        prompt = hashes(text, length)
        match = table.match(prompt, ALL)
        for each in range(8):
            have = 0
            while have < length and each in known.get(prompt[have], ()):
                have += 1
            assert match.blocks(column(each)) == have
        table.put(prompt, column(slot), now, match.places)
        for one in prompt:
            known.setdefault(one, set()).add(slot)


def test_a_million_prompts_take_no_more_memory_and_leave_what_is_in_use():
    """10^6 prompts of one block into a table with room for 20,000; one of them is asked for again and again."""
    memory = cells(20_000)
    table, rng, hot = PrefixTable(memory), random.Random(1), hashes("hot", 10)
    size = len(memory)
    for now in range(1, 1_000_001):
        table.put((rng.getrandbits(64),), 1, now)
        if not now % 1000:
            table.put(hot, 2, now)
    assert len(memory) == size
    assert table.entries == pytest.approx(20_000, rel=0.01)
    assert table.match(hot, ALL).blocks(2) == 10


def test_the_entry_unused_for_longest_gives_way():
    table = PrefixTable(cells(0))  # a single set of two
    assert table.entries == 2
    table.put((11,), 1, 1)
    table.put((12,), 1, 2)
    table.put((11,), 1, 3)
    table.put((13,), 1, 4)
    assert [table.match((one,), 1).blocks(1) for one in (11, 12, 13)] == [1, 0, 1]


def test_an_engine_that_was_restarted_has_nothing_and_others_still_have_theirs():
    table, old, shared = PrefixTable(cells(1000)), hashes("old", 10), hashes("shared", 10)
    for engine in (1, 2):
        table.put(shared, column(engine), 5)
    table.put(old, column(1), 5)
    table.forget(column(1), 8)
    assert table.match(old, ALL).blocks(column(1)) == 0
    assert table.match(shared, ALL).blocks(column(1)) == 0
    assert table.match(shared, ALL).blocks(column(2)) == 10
    # Used by another engine since, it is still not in the cache of the one that was restarted.
    table.put(shared, column(2), 9, table.match(shared, ALL).places)
    assert table.match(shared, ALL).blocks(column(1)) == 0
    assert table.put(shared[:4], column(1), 10) == shared[:4]
    assert table.match(shared, ALL).blocks(column(1)) == 4


def test_workers_see_each_others_entries():
    memory = cells(1000)
    one, other, prompt = PrefixTable(memory), PrefixTable(memory), hashes("a", 5)
    one.put(prompt, column(3), 1)
    assert other.match(prompt, ALL).blocks(column(3)) == 5


@given(st.integers(0, 5000))
def test_any_slot_has_a_column(slot):
    assert column(slot) & ALL
