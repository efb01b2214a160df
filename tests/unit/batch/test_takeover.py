"""Who executes a batch when nodes die, return, lose their disks or cannot hear each other."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from support.batch_rig import Rig, line, require_each_once

LINES = 60
INPUT = b"".join(line(n) for n in range(LINES))


def play(
    tmp_path: Path, story: Callable[[Rig], Awaitable[None]], names: str = "abc", **settings: object
) -> None:
    async def run() -> None:
        rig = Rig(tmp_path, names, **settings)
        try:
            async with asyncio.timeout(30):
                await rig.rounds()
                await story(rig)
        finally:
            rig.model.gate.set()
            await rig.close()

    asyncio.run(run())


async def half_done(rig: Rig) -> tuple[str, str, str]:
    """Have node a take a batch whose second half is held back; return its id, its other holder and who has nothing."""
    rig.model.allowed = LINES // 2
    file = await rig["a"].upload(INPUT)
    batch = await rig["a"].create(file)
    assert batch["shoal"]["owner"] == "a"
    holder = batch["shoal"]["copies"][1]

    output = rig[holder].directory / "files" / f"{batch['id'].replace('batch_', 'file-')}out"

    async def half() -> bool:
        return output.exists() and output.read_bytes().count(b"\n") == LINES // 2

    await rig.until(half)
    return batch["id"], holder, ({"b", "c"} - {holder}).pop()


def test_a_file_and_a_batch_are_on_two_disks_before_the_answer(tmp_path: Path):
    async def story(rig: Rig) -> None:
        rig.model.allowed = 0
        file = await rig["a"].upload(INPUT)
        assert len(file.holders) == 2
        holder = rig[file.holders[1]]
        assert (holder.directory / "files" / file.id).read_bytes() == INPUT
        batch = await rig["a"].create(file)
        assert await holder.library.store.run(holder.library.store.get, batch["id"])

    play(tmp_path, story)


def test_any_node_answers_for_all(tmp_path: Path):
    async def story(rig: Rig) -> None:
        file = await rig["a"].upload(INPUT)
        other = ({"b", "c"} - set(file.holders)).pop()
        batch = await rig[other].create(file)
        await rig.ended(other, batch["id"])
        for name in "abc":
            require_each_once(await rig[name].output(batch["id"]), LINES)
            listed = (await rig[name].api.get("/v1/files")).json()["data"]
            assert {f["id"] for f in listed} == {
                file.id,
                (await rig[name].batch(batch["id"]))["output_file_id"],
            }

    play(tmp_path, story)


def test_the_holder_finishes_for_a_dead_owner_and_asks_nothing_twice(tmp_path: Path):
    async def story(rig: Rig) -> None:
        id_, holder, bystander = await half_done(rig)
        await rig["a"].kill()
        rig.model.allowed, before = 1 << 60, len(rig.model.asked)
        batch = await rig.ended(bystander, id_)
        assert (batch["shoal"]["owner"], batch["shoal"]["generation"]) == (holder, 2)
        assert sorted(n for _, n, _ in rig.model.asked[before:]) == list(range(LINES // 2, LINES))
        require_each_once(await rig[bystander].output(id_), LINES)

    play(tmp_path, story)


def test_an_owner_that_comes_back_does_nothing_twice(tmp_path: Path):
    async def story(rig: Rig) -> None:
        id_, holder, _ = await half_done(rig)
        await rig["a"].kill()
        rig.model.allowed = 1 << 60
        await rig.ended(holder, id_)
        asked = len(rig.model.asked)
        rig["a"].start()
        await rig.rounds(3)
        assert len(rig.model.asked) == asked
        record = await rig["a"].library.local(id_)
        assert (record.owner, record.status) == (holder, "completed")
        require_each_once(await rig["a"].output(id_), LINES)

    play(tmp_path, story)


def test_an_owner_that_restarts_at_once_goes_on_where_it_was(tmp_path: Path):
    async def story(rig: Rig) -> None:
        id_, _, _ = await half_done(rig)
        await rig["a"].kill()
        rig.model.allowed, before = 1 << 60, len(rig.model.asked)
        rig["a"].start()
        batch = await rig.ended("a", id_)
        assert (batch["shoal"]["owner"], batch["shoal"]["generation"]) == ("a", 1)
        assert sorted(n for _, n, _ in rig.model.asked[before:]) == list(range(LINES // 2, LINES))
        require_each_once(await rig["a"].output(id_), LINES)

    play(tmp_path, story, takeover_after=1000.0)


def test_an_owner_that_has_lost_its_disk_is_as_good_as_dead_and_gets_a_copy_again(tmp_path: Path):
    async def story(rig: Rig) -> None:
        id_, holder, _ = await half_done(rig)
        await rig["a"].kill()
        shutil.rmtree(rig["a"].directory)
        rig.model.allowed = 1 << 60
        rig["a"].start()
        batch = await rig.ended("a", id_)
        assert (batch["shoal"]["owner"], batch["shoal"]["generation"]) == (holder, 2)

        async def back() -> bool:
            found = [await rig["a"].library.local(i) for i in (id_, batch["output_file_id"])]
            return None not in found and found[0].status == "completed"

        await rig.until(back)
        await rig[holder].kill()
        require_each_once(await rig["a"].output(id_), LINES)

    play(tmp_path, story, takeover_after=1000.0)


def test_two_that_do_not_hear_each_other_both_work_and_one_account_holds(tmp_path: Path):
    async def story(rig: Rig) -> None:
        id_, holder, bystander = await half_done(rig)
        rig.cut = {frozenset(("a", holder)), frozenset(("a", bystander))}
        await rig.rounds(2)
        rig.model.allowed = 1 << 60
        rig.model.gate.set()
        assert (await rig.ended("a", id_))["shoal"]["owner"] == "a"
        assert (await rig.ended(bystander, id_))["shoal"]["owner"] == holder
        rig.cut = set()

        async def agreed() -> bool:
            found = [await rig[name].batch(id_) for name in "abc"]
            return all(b["shoal"] == found[0]["shoal"] and b["status"] == "completed" for b in found)

        await rig.until(agreed)
        for name in "abc":
            require_each_once(await rig[name].output(id_), LINES)

        async def same() -> bool:
            name = (await rig["a"].batch(id_))["output_file_id"]
            return len({rig[n].library.store.path(name).read_bytes() for n in ("a", holder)}) == 1

        await rig.until(same)

    play(tmp_path, story)


def test_who_is_cut_off_itself_takes_nothing_over(tmp_path: Path):
    async def story(rig: Rig) -> None:
        id_, holder, bystander = await half_done(rig)
        rig.cut = {frozenset((holder, "a")), frozenset((holder, bystander))}
        rig.isolated = {holder}
        await rig.rounds(3)
        assert (await rig[holder].library.local(id_)).owner == "a"

    play(tmp_path, story)


def test_of_three_holders_the_first_that_lives_takes_over(tmp_path: Path):
    async def story(rig: Rig) -> None:
        rig.model.allowed = 10
        batch = await rig["a"].create(await rig["a"].upload(INPUT))
        _, second, third = batch["shoal"]["copies"]
        await rig["a"].kill()
        await rig[third].rounds(2)
        assert (await rig[third].library.local(batch["id"])).owner == "a"
        await rig[second].kill()
        rig.model.allowed = 1 << 60
        assert (await rig.ended(third, batch["id"]))["shoal"]["owner"] == third
        require_each_once(await rig[third].output(batch["id"]), LINES)

    play(tmp_path, story, copies=3)


def test_a_holder_that_stays_away_is_replaced(tmp_path: Path):
    async def story(rig: Rig) -> None:
        id_, holder, bystander = await half_done(rig)
        await rig[holder].kill()

        async def replaced() -> bool:
            return set((await rig["a"].batch(id_))["shoal"]["copies"]) == {"a", bystander}

        await rig.until(replaced)
        rig.model.allowed = 1 << 60
        rig.model.gate.set()
        await rig.ended("a", id_)
        await rig.rounds(2)
        await rig["a"].kill()
        require_each_once(await rig[bystander].output(id_), LINES)
        rig[holder].start()
        await rig.rounds(2)
        assert (await rig[bystander].library.local(id_)).status == "completed"
        found = await rig[holder].library.local(id_)
        assert found is None or found.status == "completed"

    play(tmp_path, story, repair_after=0.0)


def test_a_deleted_file_is_gone_everywhere_also_where_it_could_not_be_said(tmp_path: Path):
    async def story(rig: Rig) -> None:
        file = await rig["a"].upload(b"x", purpose="user_data")
        holder = file.holders[1]
        await rig[holder].kill()
        assert (await rig["a"].api.delete(f"/v1/files/{file.id}")).status_code == 200
        rig[holder].start()
        await rig.rounds(2)
        assert not (rig[holder].directory / "files" / file.id).exists()
        for name in "abc":
            assert (await rig[name].api.get(f"/v1/files/{file.id}")).status_code == 404

    play(tmp_path, story, takeover_after=1000.0)


def test_a_copy_that_no_disk_has_room_for_is_refused_and_one_goes_elsewhere(tmp_path: Path):
    async def story(rig: Rig) -> None:
        rig.full = {"b"}
        assert (await rig["a"].upload(INPUT)).holders == ("a", "c")
        rig.full = {"b", "c"}
        form = {"data": {"purpose": "batch"}, "files": {"file": ("x", INPUT)}}
        reply = await rig["a"].api.post("/v1/files", **form)
        assert (reply.status_code, reply.json()["error"]["code"]) == (507, "disk_full")
        assert "b" in reply.json()["error"]["message"]

    play(tmp_path, story)


@pytest.mark.parametrize("names", ["a", "ab"])
def test_with_fewer_nodes_there_are_fewer_copies_and_the_status_says_so(tmp_path: Path, names: str):
    async def story(rig: Rig) -> None:
        file = await rig["a"].upload(INPUT)
        batch = await rig["a"].create(file)
        ended = await rig.ended("a", batch["id"])
        assert sorted(ended["shoal"]["copies"]) == list(names)

    play(tmp_path, story, names, copies=3)
