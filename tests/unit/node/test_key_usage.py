"""Limits over several nodes: what heartbeats carry and what is made of it."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from shoal.cluster.view import Member, MemberState, NodeReport, View
from shoal.gateway import counters
from shoal.gateway.key_cells import KeyCells, size
from shoal.gateway.keys import Key, KeyTable
from shoal.gateway.limits import MINUTE, Limiter, left
from shoal.gateway.messages import KeyUsage, UsageRow
from shoal.node.key_usage import MOST_SHARED, KeyAccounts

SECOND = 1_000_000_000
KEY = Key(name="k", digest=b"", slot=3, requests_per_minute=60, tokens_per_minute=6000, max_concurrent=50)


class Node:
    """A node of a cluster that exists only on paper."""

    def __init__(self, name: str, keys: tuple[Key, ...] = (KEY,), incarnation: int = 1) -> None:
        self.name, self.incarnation = name, incarnation
        self.now = 1000 * SECOND
        self.cells = KeyCells(counters.create(2, size(2)), 2)
        self.accounts = KeyAccounts(self.cells)
        self.accounts.replace(KeyTable(keys=keys))
        self.workers = [Limiter(self.cells, i, lambda: self.now) for i in range(2)]

    def report(self, state: MemberState = MemberState.ALIVE) -> Member:
        use = self.accounts.shares(self.now / SECOND)
        report = NodeReport(name=self.name, version="1", incarnation=self.incarnation, key_use=use)
        return Member(name=self.name, state=state, report=report)

    def hear(self, *members: Member) -> None:
        own = Member(name=self.name, state=MemberState.ALIVE, is_self=True)
        self.accounts.hear(View(me=self.name, members=(own, *members)), self.now)

    def ask(self, tokens: int = 0, key: Key = KEY, stay: bool = False) -> bool:
        worker = random.choice(self.workers)
        if worker.enter(key) is not None:
            return False
        worker.charge(key, tokens)
        if not stay:
            worker.leave(key)
        return True

    def left(self, key: Key = KEY) -> tuple[int, int]:
        return (
            left(self.cells.requests_full[key.slot], self.now, key.requests_per_minute),
            left(self.cells.tokens_full[key.slot], self.now, key.tokens_per_minute),
        )


def pair() -> tuple[Node, Node]:
    one, two = Node("a:1"), Node("b:1")
    one.hear(two.report())
    two.hear(one.report())
    return one, two


def test_what_one_node_grants_the_other_one_has_no_more():
    one, two = pair()
    for _ in range(10):
        assert one.ask(tokens=100)
    assert two.left() == (60, 6000)
    for _ in range(5):  # the same heartbeat is looked at several times
        two.hear(one.report())
    assert one.left() == two.left() == (50, 5000)
    two.ask(tokens=50)
    one.hear(two.report())
    two.hear(one.report())
    assert one.left() == two.left() == (49, 4950)


def test_a_lost_heartbeat_is_made_good_by_the_next():
    one, two = pair()
    for _ in range(4):
        one.ask()
        one.report()  # lost
    two.hear(one.report())
    assert two.left()[0] == 56


def test_beyond_the_limit_on_two_nodes_at_once_is_a_debt_for_both():
    one, two = pair()
    assert sum(one.ask() for _ in range(100)) == sum(two.ask() for _ in range(100)) == 60
    one.hear(two.report())
    two.hear(one.report())
    assert one.left()[0] == two.left()[0] == -60
    one.now += 60 * SECOND
    assert not one.ask()
    one.now += 2 * SECOND
    assert one.ask()


def test_open_requests_are_seen_and_those_of_the_dead_are_not():
    one, two = pair()
    for _ in range(3):
        one.ask(stay=True)
    two.hear(one.report())
    assert two.cells.all_open(3) == 3
    two.hear(one.report(MemberState.DEAD))
    assert two.cells.all_open(3) == 0
    two.hear()
    assert two.cells.all_open(3) == 0


def test_who_hears_of_a_node_for_the_first_time_takes_what_it_says_for_history():
    one = Node("a:1")
    for _ in range(30):
        one.ask()
    late = Node("b:1")
    late.hear(one.report())
    assert late.left()[0] == 60
    one.ask()
    late.hear(one.report())
    assert late.left()[0] == 59


def test_a_node_that_was_started_anew_counts_from_nothing():
    one, two = pair()
    for _ in range(5):
        one.ask()
    two.hear(one.report())
    again = Node("a:1", incarnation=2)
    two.hear(again.report())
    again.ask()
    two.hear(again.report())
    assert two.left()[0] == 54


def test_keys_that_nobody_uses_are_not_sent_and_come_back_right():
    one, two = pair()
    for _ in range(5):
        one.ask()
    two.hear(one.report())
    assert one.report().report.key_use == {"k": (5, 0, 0)}
    one.now += 11 * SECOND
    two.now = one.now
    two.hear(one.report())
    assert one.report().report.key_use == {}
    for _ in range(7):
        one.ask()
    two.hear(one.report())
    assert two.left()[0] == 53, "the 5 have come in again since, and 7 are new"
    one.ask()
    assert one.report().report.key_use == {"k": (8, 0, 0)}


def test_keys_without_limits_and_those_not_known_here_are_left_out():
    free = Key(name="free", digest=b"", slot=1)
    one, two = Node("a:1", (KEY, free)), Node("b:1", (free,))
    two.hear(one.report())
    one.ask()
    one.ask(key=free)
    assert set(one.report().report.key_use) == {"k"}
    two.hear(one.report())


def test_a_heartbeat_stays_small_however_many_keys_are_used():
    keys = tuple(
        Key(name=f"k{n}", digest=b"", slot=n, requests_per_minute=9) for n in range(MOST_SHARED + 50)
    )
    one = Node("a:1", keys)
    one.report()
    for key in keys:
        one.ask(key=key)
    assert len(one.report().report.key_use) == MOST_SHARED


def test_a_key_on_a_place_that_had_another_one_starts_from_nothing():
    one, two = pair()
    for _ in range(5):
        one.ask()
    two.hear(one.report())
    new = Key(name="new", digest=b"", slot=3, requests_per_minute=60, tokens_per_minute=60)
    for node in (one, two):
        node.cells.refill(3)
        node.accounts.replace(KeyTable(keys=(new,)))
    two.hear(one.report())
    assert one.report().report.key_use == {}
    one.ask(key=new)
    two.hear(one.report())
    assert two.left(new)[0] == 59


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 12), st.booleans()), min_size=1, max_size=120))
def test_a_node_grants_only_what_the_limit_leaves_of_all_it_has_heard_of(steps):
    """The bound in docs/keys.md, whatever is asked where and however seldom they hear of each other."""
    nodes = [Node(f"{n}:1") for n in "abc"]
    for node in nodes:
        node.hear(*(other.report() for other in nodes if other is not node))
    began, granted = nodes[0].now, [0, 0, 0]
    heard = [[0, 0, 0] for _ in nodes]  # by each node, of the others
    for which, asked, heartbeat in steps:
        granted_now = sum(nodes[which].ask() for _ in range(asked))
        granted[which] += granted_now
        if granted_now:
            # What a node has granted or heard of fits the limit; beyond it is what it could not know yet.
            known = granted[which] + sum(n for i, n in enumerate(heard[which]) if i != which)
            assert known <= 60 + (nodes[0].now - began) * 60 // MINUTE
        for node in nodes:
            node.now += SECOND // 2
        if heartbeat:
            reports = [node.report() for node in nodes]
            for node in nodes:
                node.hear(*(r for r in reports if r.name != node.name))
            heard = [list(granted) for _ in nodes]


def test_usage_adds_up_by_key_and_model():
    node = Node("a:1")
    row = UsageRow("k", "m", 1, 10, 5, 0)
    node.accounts.account(KeyUsage((row, UsageRow("k", "n", 1, 1, 1, 1))))
    node.accounts.account(KeyUsage((row,)))
    rows = [(key, model, used.requests, used.prompt_tokens) for key, model, used in node.accounts.rows()]
    assert rows == [("k", "m", 2, 20), ("k", "n", 1, 1)]
    (document,) = node.accounts.document(KeyTable(keys=(KEY,)))
    assert document["used"]["m"] == {
        "requests": 2,
        "prompt_tokens": 20,
        "completion_tokens": 10,
        "limited": 0,
    }
    assert "digest" not in document
