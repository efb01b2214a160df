import json

from shoal.cluster.view import EngineReport, EngineState, Member, MemberState, NodeReport, View
from shoal.node.events import Event
from shoal.node.status import status_document


def test_the_document_is_plain_json_with_members_engines_and_events():
    engine = EngineReport(id="m-0", model="m", kind="vllm", state=EngineState.READY, host="h", since=1.23456)
    report = NodeReport(name="a:1", version="1.2", role="serve", config_hash="f", engines=(engine,))
    view = View(
        me="a:1",
        members=(
            Member(name="a:1", state=MemberState.ALIVE, age=0.0, report=report, is_self=True),
            Member(name="b:1", state=MemberState.UNKNOWN),
        ),
    )
    events = [Event(1.0, "info", "hello")]
    document = json.loads(json.dumps(status_document(view, cluster="c", uptime=1.0, events=events)))
    mine, other = document["members"]
    assert (mine["state"], mine["role"], mine["version"]) == ("alive", "serve", "1.2")
    assert mine["covers"] is None
    assert (mine["engines"][0]["id"], mine["engines"][0]["since"]) == ("m-0", 1.2)
    assert (other["state"], other["age"], other["engines"]) == ("unknown", None, [])
    assert document["events"] == [{"time": 1.0, "level": "info", "text": "hello"}]


def test_the_node_a_standby_stands_in_for_is_told_while_the_standby_is_there():
    report = NodeReport(name="b:1", version="1", role="standby", covers="a:1")

    def covers(of: MemberState) -> object:
        view = View(me="a:1", members=(Member(name="b:1", state=of, report=report),))
        return status_document(view, cluster="c", uptime=0, events=[])["members"][0]["covers"]

    assert [covers(MemberState.ALIVE), covers(MemberState.DEAD)] == ["a:1", None]


def test_a_member_that_leaves_is_shown_as_draining_until_it_is_gone():
    report = NodeReport(name="b:1", version="1", draining=True)

    def state(of: MemberState) -> str:
        view = View(me="a:1", members=(Member(name="b:1", state=of, report=report),))
        return str(status_document(view, cluster="c", uptime=0, events=[])["members"][0]["state"])

    assert [state(MemberState.ALIVE), state(MemberState.DEAD)] == ["draining", "dead"]
