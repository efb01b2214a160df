from __future__ import annotations

from typing import Any

from shoal.cluster.addresses import Address
from shoal.cluster.detector import Timers
from shoal.cluster.roster import MAX_MEMBERS, Connect, Effect, Roster, Send, SendHeartbeat, Tell
from shoal.cluster.view import Heard, MemberState, NodeReport
from shoal.cluster.wire import Goodbye, Heartbeat, Hello, Message, Payload, ProbeReply, ProbeRequest

ME, B, C = "10.0.0.1:8000", "10.0.0.2:8000", "10.0.0.3:8000"
AT_B: Address = ("10.0.0.2", 8000)
AT_C: Address = ("10.0.0.3", 8000)
ELSEWHERE: Address = ("10.0.0.9", 8000)
OWN = NodeReport(name=ME, version="1", config_hash="aaaa")


class Talk:
    """A roster that is talked to, with sequences counted."""

    def __init__(self, *, joined: bool = True) -> None:
        self.roster = Roster(ME, 1000, Timers(), [("10.0.0.1", 8000), AT_B, AT_C])
        self.sequence = 0
        if joined:
            self.roster.join(0.0)

    def say(
        self,
        payload: Payload,
        sender: str = B,
        source: Address = AT_B,
        now: float = 0.0,
        incarnation: int = 500,
    ) -> list[Effect]:
        self.sequence += 1
        message = Message(sender, incarnation, self.sequence, payload)
        return self.roster.receive(message, source, OWN, now)

    def beat(
        self,
        sender: str = B,
        source: Address = AT_B,
        now: float = 0.0,
        incarnation: int = 500,
        **report: Any,
    ) -> list[Effect]:
        fields = {"config_hash": "aaaa", "version": "1", **report}
        return self.say(Heartbeat(NodeReport(name=sender, **fields)), sender, source, now, incarnation)

    def state(self, name: str) -> MemberState | None:
        return self.roster.detector.state(name)


def told(effects: list[Effect]) -> list[str]:
    return [e.sentence for e in effects if isinstance(e, Tell)]


def test_the_view_shows_all_nodes_of_the_file_in_order_and_this_one() -> None:
    talk = Talk()
    talk.beat(now=1.0)
    view = talk.roster.view(OWN, 1.2)
    assert [(m.name, m.state, m.is_self) for m in view.members] == [
        (ME, MemberState.ALIVE, True),
        (B, MemberState.ALIVE, False),
        (C, MemberState.UNKNOWN, False),
    ]
    assert [m.age for m in view.members] == [0.0, 1.2 - 1.0, None]
    assert view.member(ME).report is OWN  # type: ignore[union-attr]


def test_a_member_that_appears_gets_a_heartbeat_at_once() -> None:
    talk = Talk()
    assert talk.beat() == [Tell(f"node {B} is alive"), SendHeartbeat(AT_B)]
    assert talk.beat(now=0.5) == []
    assert talk.beat(now=1.0, incarnation=501) == [Tell(f"node {B} restarted"), SendHeartbeat(AT_B)]


def test_an_unknown_sender_becomes_a_member() -> None:
    talk = Talk()
    assert told(talk.beat(sender="x:1", source=ELSEWHERE)) == ["node x:1 joined"]
    assert ELSEWHERE in talk.roster.targets(0.0)


def test_hello_is_answered_and_is_no_sign_of_life() -> None:
    talk = Talk()
    assert talk.say(Hello()) == [SendHeartbeat(AT_B)]
    assert talk.state(B) is MemberState.UNKNOWN
    assert Talk(joined=False).say(Hello()) == []


def test_a_heartbeat_that_was_overtaken_changes_nothing() -> None:
    talk = Talk()
    talk.sequence = 10
    talk.beat(role="standby")
    talk.sequence = 5
    assert talk.beat(now=1.0, role="serve") == []
    member = talk.roster.view(OWN, 1.0).member(B)
    assert member is not None
    assert member.report is not None
    assert (member.age, member.report.role) == (1.0, "standby")


def test_no_heartbeat_that_arrives_late_undoes_a_goodbye() -> None:
    talk = Talk()
    talk.beat()
    talk.sequence = 10
    assert told(talk.say(Goodbye())) == [f"node {B} left"]
    talk.sequence = 5
    talk.beat()
    assert talk.state(B) is MemberState.LEFT
    assert told(talk.say(Goodbye(), sender="stranger:1")) == []


def test_heartbeats_tell_who_was_heard_and_how_recently() -> None:
    talk = Talk()
    talk.beat(now=1.0)
    talk.beat(C, AT_C, now=1.2)
    talk.say(Goodbye(), C, AT_C, now=1.3)
    report = talk.roster.heartbeat(OWN, 1.4).report
    assert (report.name, report.incarnation) == (ME, 1000)
    assert report.heard == {B: Heard(500, 400, *AT_B), C: Heard(500, None, *AT_C)}


def test_a_probe_request_is_answered_from_what_was_heard() -> None:
    talk = Talk()
    talk.beat(C, AT_C, now=1.0)
    assert talk.say(ProbeRequest(C), now=1.5) == [Send((AT_B,), ProbeReply(C, 500, 500, None))]


def test_a_probe_request_about_a_silent_member_tries_its_gateway_and_tells_all_who_asked() -> None:
    talk = Talk()
    first = talk.say(ProbeRequest(C), now=1.0)
    assert first == [Send((AT_B,), ProbeReply(C)), Connect(C, AT_C)]
    talk.say(ProbeRequest(C), sender="x:1", source=ELSEWHERE, now=1.0)
    (answer,) = talk.roster.connected(C, False, 1.1)
    assert answer == Send((AT_B, ELSEWHERE), ProbeReply(C, reachable=False))
    assert talk.roster.connected(C, True, 1.2) == []


def test_a_probe_request_about_a_stranger_or_ourselves_does_no_harm() -> None:
    talk = Talk()
    assert talk.say(ProbeRequest("nobody")) == [Send((AT_B,), ProbeReply("nobody"))]
    assert talk.say(ProbeRequest(ME)) == []
    assert talk.say(ProbeReply("nobody", 1, 0, True)) == []


def test_a_suspect_is_asked_and_its_gateway_tried_where_it_was_seen() -> None:
    talk = Talk()
    talk.beat(source=("10.0.0.2", 40_000))  # behind NAT
    effects: list[Effect] = []
    while talk.roster.detector.due < 1.6:
        now = talk.roster.detector.due
        talk.beat(C, AT_C, now)
        effects += talk.roster.tick(now)
    assert Send((("10.0.0.2", 40_000), AT_B), Hello()) in effects
    assert Send((AT_C,), ProbeRequest(B)) in effects
    assert Connect(B, AT_B) in effects


def test_what_another_member_hears_is_a_sign_of_life() -> None:
    talk = Talk()
    talk.beat(now=0.0)
    now = 0.0
    while now < 3.0:
        now = talk.roster.detector.due
        talk.roster.tick(now)
        talk.beat(C, AT_C, now, heard={B: Heard(500, 100, *AT_B)})
    assert talk.state(B) is MemberState.SUSPECT


def test_members_known_to_others_are_written_to_but_not_if_their_address_means_nothing_here() -> None:
    talk = Talk()
    heard = {
        "x:1": Heard(1, 100, *ELSEWHERE),
        "old:1": Heard(1, 60_000, "10.0.0.8", 1),
        "local:1": Heard(1, 100, "127.0.0.1", 1),
        "left:1": Heard(1, None, "10.0.0.7", 1),
    }
    talk.beat(heard=heard)
    assert talk.roster.targets(0.0) == {AT_B, AT_C, ELSEWHERE}
    assert talk.state("x:1") is None


def test_a_differing_configuration_is_told_once_per_change() -> None:
    talk = Talk()
    talk.beat()
    sentence = f"configuration differs: {B} has bbbb, this node aaaa: compare `shoal config show` on both"
    assert told(talk.beat(config_hash="bbbb")) == [sentence]
    assert told(talk.beat(config_hash="bbbb")) == []
    assert told(talk.beat(config_hash="aaaa")) == []
    assert told(talk.beat(config_hash="bbbb")) == [sentence]


def test_a_change_of_a_report_is_told_and_load_is_not() -> None:
    talk = Talk()
    talk.beat()
    assert told(talk.beat(draining=True)) == [f"node {B} drains: it takes no new work"]
    assert talk.beat(draining=True, in_flight={"x": 1}) == []


def test_a_process_that_asks_for_our_name_is_told_that_we_run() -> None:
    talk = Talk()
    effects = talk.say(Hello(), sender=ME, source=ELSEWHERE, incarnation=2000)
    assert effects == [
        SendHeartbeat(ELSEWHERE),
        Tell(f"a process at 10.0.0.9:8000 wants to be node {ME} as well; this one stays"),
    ]
    assert talk.say(Hello(), sender=ME, source=ELSEWHERE, incarnation=2000) == [SendHeartbeat(ELSEWHERE)]
    assert talk.roster.incarnation == 1000


def test_our_own_echo_is_nothing() -> None:
    talk = Talk()
    assert talk.say(Hello(), sender=ME, incarnation=1000) == []
    assert talk.beat(sender=ME, incarnation=1000) == []


def test_a_second_process_with_our_name_is_told_once_a_minute() -> None:
    talk = Talk()
    (sentence,) = told(talk.beat(sender=ME, source=ELSEWHERE, incarnation=2000))
    assert sentence.startswith(f"two processes run as node {ME}: this one")
    assert "10.0.0.9:8000" in sentence
    assert talk.beat(sender=ME, source=ELSEWHERE, incarnation=2000, now=59) == []
    assert told(talk.beat(sender=ME, source=ELSEWHERE, incarnation=2000, now=61))
    # Another member that hears that process says the same.
    assert talk.roster.incarnation == 1000
    assert told(talk.beat(heard={ME: Heard(2000, 100, *ELSEWHERE)}, now=130))[-1].startswith(
        "two processes run"
    )
    assert talk.roster.incarnation == 1000


def test_a_newer_but_silent_former_self_means_that_the_clock_went_back() -> None:
    talk = Talk()
    sentences = told(talk.beat(heard={ME: Heard(2000, 5000, *ELSEWHERE)}))
    assert any("clock went back" in s for s in sentences)
    assert talk.roster.incarnation == 2001


def test_two_processes_under_the_name_of_a_member_are_told() -> None:
    talk = Talk()
    talk.beat(incarnation=900)
    old = Message(B, 500, 99, Heartbeat(NodeReport(name=B, version="1")))
    (sentence,) = told(talk.roster.stale(old, ELSEWHERE, 1.0))
    assert sentence.startswith(
        f"two processes send as node {B}: one at 10.0.0.2:8000, and one at 10.0.0.9:8000"
    )
    assert talk.roster.stale(old, ELSEWHERE, 2.0) == []


def test_a_member_that_moved_is_told_and_followed() -> None:
    talk = Talk()
    talk.beat()
    assert told(talk.beat(source=ELSEWHERE)) == [
        f"node {B} is heard from 10.0.0.9:8000 now (was 10.0.0.2:8000)"
    ]
    assert talk.roster.targets(0.0) == {ELSEWHERE, AT_C}


def test_members_are_limited() -> None:
    talk = Talk()
    for number in range(MAX_MEMBERS + 10):
        talk.beat(sender=f"x:{number}", source=ELSEWHERE)
    assert len(talk.roster.view(OWN, 0.0).members) == MAX_MEMBERS + 1
