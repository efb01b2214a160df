"""The console's files: how they are served, and what must not be in them."""

import json
import re
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

import shoal.observe
from shoal.observe.pages import Pages

FOLDER = Path(shoal.observe.__file__).parent / "console"
SCRIPTS = sorted(FOLDER.rglob("*.js"))
LANGUAGES = [json.loads((FOLDER / f"{name}.json").read_text()) for name in ("en", "zh")]


@pytest.fixture(scope="module")
def client() -> TestClient:
    return TestClient(Starlette(routes=Pages().routes()))


def test_the_page_names_its_files_by_what_is_in_them(client: TestClient):
    page = client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["cache-control"] == "no-cache"
    assert "{{" not in page.text
    again = client.get("/", headers={"if-none-match": page.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    paths = re.findall(r'(?:src|href)="(console/[^"]+)"', page.text)
    assert len(paths) >= 4
    for path in paths:
        reply = client.get(f"/{path}")
        assert reply.status_code == 200
        assert reply.headers["cache-control"] == "public, max-age=31536000, immutable"


def test_files_go_packed_or_plain_and_are_the_same(client: TestClient):
    version = Pages().version
    for path in FOLDER.rglob("*.*"):
        name = path.relative_to(FOLDER).as_posix()
        packed = client.get(f"/console/{version}/{name}")
        plain = client.get(f"/console/{version}/{name}", headers={"accept-encoding": "identity"})
        assert packed.headers["content-encoding"] == "gzip"
        assert "content-encoding" not in plain.headers
        assert packed.content == plain.content
        assert packed.headers["vary"] == plain.headers["vary"] == "accept-encoding"


def test_an_older_page_gets_what_there_is_and_nothing_else_is_served(client: TestClient):
    reply = client.get("/console/older/main.js")
    assert (reply.status_code, reply.headers["cache-control"]) == (200, "no-store")
    for path in ("/console/x/../pages.py", "/console/x/%2e%2e/pages.py", "/console/x/", "/console/x/no.js"):
        assert client.get(path).status_code == 404
    reply = client.get("/console/", follow_redirects=False)
    assert (reply.status_code, reply.headers["location"]) == (307, "../")


def test_pages_may_load_what_is_ours_and_run_nothing_else(client: TestClient):
    for path in ("/", f"/console/{Pages().version}/main.js", "/console/x/no.js"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"


def test_the_page_has_no_scripts_or_styles_of_its_own():
    page = (FOLDER / "index.html").read_text()
    assert re.findall(r"<script(?![^>]*\bsrc=)[^>]*>", page) == []
    assert re.findall(r"<style|\sstyle=|\son\w+=", page) == []


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_make_no_html_of_texts_and_ask_nobody_else(path: Path):
    text = path.read_text()
    forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|srcdoc"
    assert re.findall(forbidden, text.partition("\n")[2]) == []
    assert set(re.findall(r"https?://[^\"'\s]+", text)) <= {"http://www.w3.org/2000/svg"}


def test_both_languages_have_the_same_words_and_the_same_places_in_them():
    english, chinese = LANGUAGES
    assert english.keys() == chinese.keys()
    for key, text in english.items():
        assert text, key
        assert chinese[key], key
        places = [sorted(re.findall(r"\{\w+\}", words[key])) for words in LANGUAGES]
        assert places[0] == places[1], key


def test_every_word_that_is_asked_for_is_there_and_none_else():
    files = [*SCRIPTS, FOLDER / "index.html"]
    text = "\n".join(path.read_text() for path in files)
    asked = set(re.findall(r"""\bt\(["'](\w+)["']""", text))
    asked |= set(re.findall(r'data-t(?:-label)?="(\w+)"', text))
    english = LANGUAGES[0]
    assert asked <= english.keys()
    made = [*re.findall(r"\bt\(`(\w+)_\$", text), "state"]
    rest = {key for key in english.keys() - asked if not key.startswith(tuple(f"{name}_" for name in made))}
    quoted = set(re.findall(r'"(\w+)"', text))
    ends = {"drain_node", "drain_text", "undrain_node", "undrain_text"}
    assert rest - quoted - ends == set()
