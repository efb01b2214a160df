import pytest

from shoal.node.turn import LASTS, TakenError, Turns


def test_one_at_a_time_and_the_other_is_told_who_has_it():
    turns = Turns()
    turns.take("a", "n1:8000", 1000.0, 0.0)
    with pytest.raises(TakenError, match="n1:8000 applies a configuration since 7 s ago"):
        turns.take("b", "n2:8000", 1007.0, 7.0)
    turns.release("b")  # not theirs to end
    assert turns.current(7.0) is not None
    turns.release("a")
    turns.take("b", "n2:8000", 1008.0, 8.0)


def test_a_turn_lasts_as_long_as_it_is_renewed():
    turns = Turns()
    turns.take("a", "n1", 1000.0, 0.0)
    turns.take("a", "n1", 1000.0 + LASTS - 1, LASTS - 1)
    assert turns.current(LASTS + 1) is not None
    assert turns.current(2 * LASTS) is None
    turns.take("b", "n2", 2000.0, 2 * LASTS)
