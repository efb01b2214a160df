from __future__ import annotations

from pathlib import Path

import pytest

from shoal.optimize.texts import EVERY, TextError, read_texts

LONG = "word " * 50


def test_what_is_held_out_is_in_neither_and_both_are_all(tmp_path: Path) -> None:
    file = tmp_path / "t.txt"
    file.write_text("\n\n".join(f"{i} {LONG}" for i in range(9)))
    train, test = read_texts(file, held_out=False), read_texts(file, held_out=True)
    assert len(test) == 3
    assert not set(train) & set(test)
    assert sorted(text.split()[0] for text in train + test) == sorted(map(str, range(9)))


def test_short_paragraphs_are_put_together(tmp_path: Path) -> None:
    file = tmp_path / "t.txt"
    file.write_text("\n\n".join("a short one" for _ in range(200)))
    texts = read_texts(file, held_out=False)
    assert all(len(text) >= 200 for text in texts[:-1])


def test_json_lines_may_be_texts_messages_or_prompts(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text(
        '"plain"\n{"text": "a"}\n\n{"messages": [{"content": "q"}, {"content": "r"}]}\n{"prompt": "p"}\n'
    )
    assert read_texts(file, held_out=True) == ["plain"]
    assert read_texts(file, held_out=False) == ["a", "q\nr", "p"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("t.txt", b"", "holds 0 texts, at least 4"),
        ("t.txt", b"\xff\xfe\x00", "no UTF-8"),
        ("t.jsonl", b"{", r"t\.jsonl:1 is no JSON"),
        ("t.jsonl", b'{"a": 1}', r"t\.jsonl:1 has no `text`"),
    ],
)
def test_files_without_texts_are_refused(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TextError, match=words):
        read_texts(tmp_path / name, held_out=False)


def test_a_missing_file_is_told() -> None:
    with pytest.raises(TextError, match="cannot be read: No such file"):
        read_texts(Path("/no/such/file"), held_out=False)


def test_there_is_always_some_text() -> None:
    texts = read_texts(None, held_out=False)
    assert sum(map(len, texts)) > 300_000
    assert len(read_texts(None, held_out=True)) == pytest.approx(len(texts) / (EVERY - 1), abs=1)
