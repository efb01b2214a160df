from shoal.node.slots import Slots


def test_an_engine_keeps_its_column():
    slots = Slots(4)
    assert [slots("a"), slots("b"), slots("a")] == [0, 1, 0]
    assert slots.get("c") is None


def test_a_full_map_gives_the_column_that_was_unused_longest():
    slots = Slots(2)
    slots("a"), slots("b"), slots("a")
    assert slots("c") == 1
    assert slots.known() == {"a": 0, "c": 1}
