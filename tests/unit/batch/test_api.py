"""What clients may ask for and what they are told, on one node."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from shoal.batch import data, wire
from support.batch_rig import URL, Rig, line, require_each_once

GOOD = b"".join(line(n) for n in range(3))
ANNA = {wire.KEY_HEADER: "anna", wire.ROLE_HEADER: "user"}
BERT = {wire.KEY_HEADER: "bert", wire.ROLE_HEADER: "user"}
ROOT = {wire.KEY_HEADER: "root", wire.ROLE_HEADER: "admin"}


def play(tmp_path: Path, story: Callable[[Rig], Awaitable[None]], **settings: Any) -> None:
    async def run() -> None:
        rig = Rig(tmp_path, "a", **settings)
        try:
            async with asyncio.timeout(30):
                await story(rig)
        finally:
            rig.model.gate.set()
            await rig.close()

    asyncio.run(run())


def error(reply: Any) -> tuple[int, str, str]:
    found = reply.json()["error"]
    assert set(found) == {"message", "type", "param", "code"}
    return reply.status_code, found["code"], found["message"]


async def post_file(rig: Rig, content: bytes, purpose: str | None = "batch", **more: Any) -> Any:
    fields = {} if purpose is None else {"purpose": purpose}
    return await rig["a"].api.post("/v1/files", data=fields, files={"file": ("in.jsonl", content)}, **more)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"a,b\n1,2\n", "line 1"),
        (b"\n\nplain text", "line 3"),
        (b'{\n  "custom_id": 1\n}\n', "line 1"),
        (b'[{"custom_id": "a"}]', "line 1"),
        (b"\x89PNG\r\n\x1a\n\0\0", "line 1"),
        (b"", "empty"),
        (b"\n \n", "empty"),
        (b"x" * 70_000, "line 1"),
    ],
)
def test_what_is_not_jsonl_is_refused_with_its_first_bad_line(tmp_path: Path, content: bytes, told: str):
    async def story(rig: Rig) -> None:
        status, code, message = error(await post_file(rig, content))
        assert (status, code) == (400, "invalid_jsonl")
        assert told in message
        assert list((tmp_path / "a/files").iterdir()) == []
        assert (await post_file(rig, content, "user_data")).status_code == 200

    play(tmp_path, story, max_line=65_536)


def test_a_bad_first_line_does_not_make_a_file_of_good_ones_bad(tmp_path: Path):
    async def story(rig: Rig) -> None:
        batch = await rig["a"].create(await rig["a"].upload(b"no json\n" + GOOD))
        ended = await rig.ended("a", batch["id"])
        assert ended["request_counts"] == {"total": 4, "completed": 3, "failed": 1}
        errors = (await rig["a"].api.get(f"/v1/files/{ended['error_file_id']}/content")).json()
        assert (errors["error"]["line"], errors["error"]["code"]) == (1, "invalid_json")

    play(tmp_path, story)


def test_the_purpose_may_come_behind_the_file(tmp_path: Path):
    async def story(rig: Rig) -> None:
        def form(content: str, purpose: str) -> bytes:
            return (
                f'--B\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n{content}\r\n'
                f'--B\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n{purpose}\r\n--B--\r\n'
            ).encode()

        async def post(content: str, purpose: str) -> Any:
            kind = {"content-type": "multipart/form-data; boundary=B"}
            return await rig["a"].api.post("/v1/files", content=form(content, purpose), headers=kind)

        assert (await post("{}\n", "batch")).status_code == 200
        assert error(await post("text\n" * 2000, "batch"))[1] == "invalid_jsonl"
        assert (await post("text\n" * 2000, "user_data")).json()["bytes"] == 10_000

    play(tmp_path, story)


@pytest.mark.parametrize(
    ("content", "kind", "code"),
    [
        (b"{}", "application/json", "invalid_form"),
        (b"--B\r\n", "multipart/form-data; boundary=B", "invalid_form"),
        (b"garbage", "multipart/form-data; boundary=B", "invalid_form"),
        (
            b'--B\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--B--\r\n',
            "multipart/form-data; boundary=B",
            "missing_file",
        ),
        (b"", "multipart/form-data", "invalid_form"),
    ],
)
def test_what_is_no_form_is_refused(tmp_path: Path, content: bytes, kind: str, code: str):
    async def story(rig: Rig) -> None:
        reply = await rig["a"].api.post("/v1/files", content=content, headers={"content-type": kind})
        assert error(reply)[:2] == (400, code)

    play(tmp_path, story)


def test_purposes_are_openais(tmp_path: Path):
    async def story(rig: Rig) -> None:
        assert error(await post_file(rig, GOOD, "fun"))[1] == "invalid_purpose"
        assert error(await post_file(rig, GOOD, None))[1] == "missing_purpose"

    play(tmp_path, story)


def test_what_is_too_large_is_refused(tmp_path: Path):
    async def story(rig: Rig) -> None:
        assert error(await post_file(rig, GOOD * 100))[:2] == (413, "file_too_large")
        assert list((tmp_path / "a/files").iterdir()) == []

    play(tmp_path, story, max_file=5000)


def test_a_full_disk_is_told_before_and_during(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async def story(rig: Rig) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(data, "free", lambda _: 1000)
            assert error(await post_file(rig, GOOD))[:2] == (507, "disk_full")

        def full(fd: int, *_: object) -> int:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(data.os, "pwrite", full)
            status, code, message = error(await post_file(rig, GOOD))
            assert (status, code) == (507, "disk_full")
            assert "node a" in message or str(tmp_path) in message
        assert (await post_file(rig, GOOD)).status_code == 200

    play(tmp_path, story)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"endpoint": "/v1/nothing"}, "invalid_endpoint"),
        ({"endpoint": None}, "invalid_endpoint"),
        ({"completion_window": "soon"}, "invalid_completion_window"),
        ({"completion_window": "31d"}, "invalid_completion_window"),
        ({"completion_window": 24}, "invalid_completion_window"),
        ({"metadata": {"a": 1}}, "invalid_metadata"),
        ({"metadata": {"a": "x" * 513}}, "invalid_metadata"),
        ({"metadata": {str(n): "" for n in range(17)}}, "invalid_metadata"),
        ({"input_file_id": None}, "missing_input_file"),
        ({"output_expires_after": {"anchor": "now", "seconds": 1}}, "invalid_expires_after"),
    ],
)
def test_a_batch_that_is_not_as_it_should_be_is_refused(tmp_path: Path, changes: dict[str, Any], code: str):
    async def story(rig: Rig) -> None:
        file = await rig["a"].upload(GOOD)
        body = {"input_file_id": file.id, "endpoint": URL, "completion_window": "24h"} | changes
        assert error(await rig["a"].api.post("/v1/batches", json=body))[:2] == (400, code)

    play(tmp_path, story)


def test_ids_that_nobody_knows_are_404(tmp_path: Path):
    async def story(rig: Rig) -> None:
        api = rig["a"].api
        for id_ in ("file-0", "x", "batch_0", "file-..", "%2e%2e"):
            assert (await api.get(f"/v1/files/{id_}")).status_code == 404
            assert (await api.get(f"/v1/files/{id_}/content")).status_code == 404
            assert (await api.delete(f"/v1/files/{id_}")).status_code == 404
            assert (await api.get(f"/v1/batches/{id_}")).status_code == 404
            assert (await api.post(f"/v1/batches/{id_}/cancel")).status_code == 404
        body = {"input_file_id": "file-0", "endpoint": URL, "completion_window": "24h"}
        assert error(await api.post("/v1/batches", json=body))[0] == 404
        assert error(await api.post("/v1/batches", content=b"[]"))[0] == 400

    play(tmp_path, story)


def test_each_key_sees_its_own_and_an_admin_sees_all(tmp_path: Path):
    async def story(rig: Rig) -> None:
        api = rig["a"].api
        file = (await post_file(rig, GOOD, headers=ANNA)).json()["id"]
        body = {"input_file_id": file, "endpoint": URL, "completion_window": "24h"}
        assert error(await api.post("/v1/batches", json=body, headers=BERT))[0] == 404
        batch = (await api.post("/v1/batches", json=body, headers=ANNA)).json()["id"]
        await rig.ended("a", batch)
        assert {key for _, _, key in rig.model.asked} == {"anna"}
        for path in (f"/v1/files/{file}", f"/v1/files/{file}/content", f"/v1/batches/{batch}"):
            assert (await api.get(path, headers=BERT)).status_code == 404
            assert (await api.get(path, headers=ANNA)).status_code == 200
            assert (await api.get(path, headers=ROOT)).status_code == 200
        assert (await api.delete(f"/v1/files/{file}", headers=BERT)).status_code == 404
        for headers, seen in ((ANNA, 1), (BERT, 0), (ROOT, 1)):
            assert len((await api.get("/v1/batches", headers=headers)).json()["data"]) == seen

    play(tmp_path, story)


def test_lists_come_in_pages_the_newest_first(tmp_path: Path):
    async def story(rig: Rig) -> None:
        api = rig["a"].api
        ids = [(await post_file(rig, GOOD, "user_data")).json()["id"] for _ in range(5)]
        await post_file(rig, GOOD)
        found: list[str] = []
        page = {"has_more": True, "last_id": ""}
        while page["has_more"]:
            query = {"limit": 2, "purpose": "user_data"} | ({"after": page["last_id"]} if found else {})
            page = (await api.get("/v1/files", params=query)).json()
            found += [f["id"] for f in page["data"]]
        assert found == ids[::-1]
        ascending = (await api.get("/v1/files", params={"order": "asc", "purpose": "user_data"})).json()
        assert [f["id"] for f in ascending["data"]] == ids
        for bad in ({"limit": "0"}, {"limit": "x"}, {"order": "up"}):
            assert (await api.get("/v1/files", params=bad)).status_code == 400

    play(tmp_path, story)


def test_a_cancelled_batch_keeps_what_is_done(tmp_path: Path):
    async def story(rig: Rig) -> None:
        rig.model.allowed = 2
        batch = await rig["a"].create(await rig["a"].upload(b"".join(line(n) for n in range(50))))

        async def two() -> bool:
            return (await rig["a"].batch(batch["id"]))["request_counts"]["completed"] == 2

        await rig.until(two)
        reply = await rig["a"].api.post(f"/v1/batches/{batch['id']}/cancel")
        assert reply.json()["status"] == "cancelling"
        ended = await rig.ended("a", batch["id"], "cancelled")
        assert ended["request_counts"]["completed"] == 2
        assert ended["cancelled_at"]
        assert len(await rig["a"].output(batch["id"])) == 2
        assert error(await rig["a"].api.post(f"/v1/batches/{batch['id']}/cancel"))[0] == 409

    play(tmp_path, story)


def test_what_is_not_done_in_time_is_told_line_by_line(tmp_path: Path):
    async def story(rig: Rig) -> None:
        rig.model.allowed = 3
        content = b"".join(line(n) for n in range(20))
        # Times of batches are whole seconds, so this window is three to four: enough for three answers everywhere.
        batch = await rig["a"].create(await rig["a"].upload(content), "4s")
        ended = await rig.ended("a", batch["id"], "expired")
        assert ended["request_counts"] == {"total": 20, "completed": 3, "failed": 17}
        text = (await rig["a"].api.get(f"/v1/files/{ended['error_file_id']}/content")).text
        assert text.count('"batch_expired"') == 17

    play(tmp_path, story)


def test_a_file_in_use_is_not_deleted(tmp_path: Path):
    async def story(rig: Rig) -> None:
        rig.model.allowed = 0
        file = await rig["a"].upload(GOOD)
        batch = await rig["a"].create(file)
        assert error(await rig["a"].api.delete(f"/v1/files/{file.id}"))[:2] == (409, "file_in_use")
        rig.model.gate.set()
        await rig.ended("a", batch["id"])
        assert (await rig["a"].api.delete(f"/v1/files/{file.id}")).json()["deleted"]
        require_each_once(await rig["a"].output(batch["id"]), 3)

    play(tmp_path, story)


def test_files_go_when_their_time_is_over(tmp_path: Path):
    async def story(rig: Rig) -> None:
        expiry = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "1"}
        form = {"data": {"purpose": "user_data"} | expiry, "files": {"file": ("x", b"x")}}
        file = (await rig["a"].api.post("/v1/files", **form)).json()
        assert file["expires_at"] == file["created_at"] + 1

        async def gone() -> bool:
            rig["a"].batches._guard._whole = float("-inf")
            return (await rig["a"].api.get(f"/v1/files/{file['id']}")).status_code == 404

        await rig.until(gone)

    play(tmp_path, story)
