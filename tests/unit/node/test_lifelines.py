"""Whether the process of a silent member lives, told by a connection."""

from __future__ import annotations

import asyncio
import time

from shoal.cluster.view import Member, MemberState, NodeReport, SeatReport, SeatState, View
from shoal.node.lifelines import Lifelines
from support.ports import free_ports

NAME = "b:1/m-0"


def view(state: MemberState, port: int, part: SeatState = SeatState.RUNNING) -> View:
    seat = SeatReport(engine="m-0", group="g", model="m", rank=1, state=part, host="127.0.0.1", lifeline=port)
    report = NodeReport(name="b:1", version="1", seats=(seat,))
    return View(me="a:1", members=(Member(name="b:1", state=state, report=report),))


async def until(lifelines: Lifelines, answer: bool | None) -> None:
    async with asyncio.timeout(5):
        while lifelines.answers.get(NAME) is not answer:  # noqa: ASYNC110 - seen from outside
            await asyncio.sleep(0.005)


def test_it_answers_while_the_port_is_open_and_no_longer_when_it_closes():
    async def main() -> None:
        (port,) = free_ports(1)
        changes = []
        lifelines = Lifelines(lambda: changes.append(dict(lifelines.answers)))
        held: list[asyncio.StreamWriter] = []
        server = await asyncio.start_server(lambda _, writer: held.append(writer), "127.0.0.1", port)
        lifelines.update(view(MemberState.ALIVE, port))
        assert lifelines.answers == {}
        lifelines.update(view(MemberState.SUSPECT, port))
        await until(lifelines, True)
        server.close()
        held[0].transport.abort()
        await until(lifelines, False)
        lifelines.update(view(MemberState.ALIVE, port))
        assert lifelines.answers == {}
        assert changes == [{NAME: True}, {NAME: False}]
        lifelines.stop()

    asyncio.run(main())


def test_a_part_that_has_no_process_yet_does_not_answer():
    async def main() -> None:
        lifelines = Lifelines(lambda: None)
        lifelines.update(view(MemberState.DEAD, 0, SeatState.JOINED))
        await until(lifelines, False)
        lifelines.stop()

    asyncio.run(main())


def test_a_node_that_did_not_run_for_a_moment_takes_nobody_for_dead():
    async def main() -> None:
        (port,) = free_ports(1)
        changes = []
        lifelines = Lifelines(lambda: changes.append(dict(lifelines.answers)))
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", port)
        lifelines.update(view(MemberState.DEAD, port))
        for _ in range(3):  # it is about to connect
            await asyncio.sleep(0)
        time.sleep(0.8)  # noqa: ASYNC251 - the machine is busy with others
        await until(lifelines, True)
        assert changes == [{NAME: True}]
        lifelines.stop()
        server.close()

    asyncio.run(main())
