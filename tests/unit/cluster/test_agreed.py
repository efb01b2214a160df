import msgspec
from hypothesis import given
from hypothesis import strategies as st

from shoal.cluster.agreed import Agreed, Applied, Joined, merge

ENTRIES = st.builds(
    Joined, host=st.sampled_from("ab"), port=st.just(1), present=st.booleans(), stamp=st.integers(0, 3)
)
APPLIED = st.builds(
    Applied,
    generation=st.integers(1, 3),
    stamp=st.integers(0, 2),
    by=st.sampled_from("ab"),
    document=st.just({"x": 1}),
)
STATES = st.builds(
    lambda entries, applied: Agreed(applied=applied, joined={e.name: e for e in entries}),
    st.lists(ENTRIES, max_size=4),
    st.none() | APPLIED,
)


@given(STATES, STATES, STATES)
def test_nodes_agree_in_whatever_order_they_hear_each_other(a: Agreed, b: Agreed, c: Agreed):
    assert merge(a, b) == merge(b, a)
    assert merge(merge(a, b), c) == merge(a, merge(b, c))
    assert merge(a, a) == a
    assert merge(a, b).digest() == merge(b, a).digest()


def test_the_newer_entry_and_the_higher_generation_count():
    old = Agreed(
        applied=Applied(generation=1, stamp=9, by="a", document={}),
        joined={"a:1": Joined(host="a", port=1, stamp=1)},
    )
    new = Agreed(
        applied=Applied(generation=2, stamp=3, by="b", document={}),
        joined={"a:1": Joined(host="a", port=1, stamp=2, present=False)},
    )
    assert merge(old, new) == merge(new, old) == new
    assert (Agreed().digest(), new.generation, Agreed().generation) == ("", 2, 0)
    assert msgspec.convert(msgspec.to_builtins(new), Agreed) == new
