"""The web console in a real browser, on three nodes under load.

With SHOAL_SCREENSHOTS=1 the pictures of docs/console.md are made anew.
"""

import json
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from support.browser import DEADLINE, Watched, chromium
from support.served import LONG, Served
from support.wait import wait_until

VIEWS = {
    "cluster": "Cluster",
    "charts": "Charts",
    "requests": "Requests",
    "events": "Events",
    "logs": "Logs",
    "batches": "Batches",
    "playground": "Playground",
}
HOSTILE = '<img src=x onerror="document.title=1">{{constructor}}'
ACCESSIBLE = (Path(__file__).parents[1] / "support/accessible.js").read_text()
IMAGES = Path(__file__).parents[2] / "docs/images"

expect.set_options(timeout=DEADLINE)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    found = Served(tmp_path_factory.mktemp("console"))
    try:
        found.start()
        yield found
    finally:
        found.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


Open = Callable[..., Watched]


@pytest.fixture
def open_(served: Served, browser: Browser) -> Iterator[Open]:
    """Return what opens a page of node 0 with a key kept; the test fails if anything goes wrong on it."""
    opened: list[Watched] = []

    def open_page(key: str | None = served.admin, **context: Any) -> Watched:
        watched = Watched(browser, served.cluster.url(0), **context)
        opened.append(watched)
        if key is not None:
            watched.page.add_init_script(f"sessionStorage.setItem('shoal-key', {json.dumps(key)})")
        return watched

    yield open_page
    for watched in opened:
        watched.close()


def picture(page: Page, name: str) -> None:
    """Take a picture for the docs, if they are asked for."""
    if os.environ.get("SHOAL_SCREENSHOTS"):
        path = IMAGES / f"console-{name}.png"
        page.screenshot(path=path)
        assert path.stat().st_size < 200_000


def wait_live(page: Page) -> None:
    expect(page.locator("#link")).to_have_text("live")


def fits(page: Page) -> bool:
    """Whether nothing has to be scrolled sideways."""
    width = "document.documentElement.scrollWidth"
    return bool(page.evaluate(f"{width} <= document.documentElement.clientWidth"))


def test_the_map_shows_nodes_engines_and_what_they_do(served: Served, open_: Open):
    page = open_().view("cluster", "Cluster")
    wait_live(page)
    for name in served.cluster.names:
        card = page.get_by_role("article", name=f"Node {name}")
        expect(card.get_by_text("alive", exact=True)).to_be_visible()
        expect(card.get_by_text("ready", exact=True)).to_be_visible()
        expect(card.get_by_text("sim-model-0", exact=True)).to_be_visible()
        expect(card.get_by_role("meter", name="CPU")).not_to_have_attribute("aria-valuenow", "0")
    expect(page.locator("dl.totals")).to_contain_text("3 / 3")
    expect(page.locator("dl.totals div", has_text="Tokens/s").locator("dd")).to_have_text(
        re.compile(r"^[1-9]")
    )
    picture(page, "cluster")


def test_a_fresh_page_has_the_past_and_goes_on(open_: Open):
    page = open_().view("charts", "Charts")
    tokens = page.locator("section.card", has_text="Tokens").first
    expect(tokens.locator("polyline").first).to_be_attached()
    expect(tokens.locator(".legend span").first).to_have_text(re.compile(r"generated [1-9]"))
    first = page.locator("section.card", has_text="Time to the first token")
    expect(first.get_by_role("img")).to_have_attribute("aria-label", re.compile(r"p50 \d.*, p99 \d"))
    before = tokens.locator("polyline").first.get_attribute("points")
    assert len(str(before).split()) >= 2, "one look is enough to see the past"
    expect(tokens.locator("polyline").first).not_to_have_attribute("points", str(before))
    expect(page.locator("section.card", has_text="Memory").locator(".legend span")).to_have_count(3)
    page.locator("section.card svg").first.hover(position={"x": 300, "y": 40})


def test_requests_in_flight_come_from_all_gateways(served: Served, open_: Open):
    page = open_().view("requests", "Requests")
    for name in served.cluster.names:
        row = page.locator("tbody tr", has=page.locator('td[data-label="Gateway"]', has_text=name)).first
        expect(row.locator('td[data-label="Model"]')).to_have_text("sim-model")
    expect(page.locator("tbody")).to_contain_text("(anna)")
    expect(page.locator("tbody")).to_contain_text("/sim-model-0")
    picture(page, "requests")


def test_events_of_all_nodes_with_their_reasons_can_be_searched(served: Served, open_: Open):
    page = open_().view("events", "Events")
    for name in served.cluster.names:
        expect(page.locator("ul.events")).to_contain_text(f"node {name} is up")
    picture(page, "events")
    page.get_by_label("With the words").fill(f"{served.cluster.names[1]} is up")
    expect(page.locator("ul.events li")).to_have_count(1)


def test_the_log_of_an_engine_of_another_node_is_followed(served: Served, open_: Open):
    page = open_().view("logs", "Logs")
    name = f"{served.cluster.names[1]}/sim-model-0"
    page.get_by_label("Engine or node").select_option(name)
    expect(page.get_by_role("log")).to_contain_text("Starting vLLM server")
    (log,) = (served.cluster.directory / f"state/127.0.0.1_{served.cluster.ports[1]}/logs").glob("*.log")
    with log.open("a") as out:
        out.write(f"a line that comes later {HOSTILE}\n")
    expect(page.get_by_role("log")).to_contain_text(f"a line that comes later {HOSTILE}")


def test_a_batch_is_uploaded_and_its_progress_shown(open_: Open, tmp_path: Path):
    path = tmp_path / "requests.jsonl"
    body = {"model": "sim-model", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
    lines = [
        {"custom_id": f"a-{i}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        for i in range(20)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = open_().view("batches", "Batches")
    page.get_by_label("File (JSONL)").set_input_files(path)
    page.get_by_role("button", name="Upload and start").click()
    expect(page.locator("article")).to_have_count(1)
    expect(page.locator("article")).to_contain_text("completed")
    expect(page.locator("article")).to_contain_text("20 done, 0 failed of 20")
    expect(page.get_by_role("progressbar")).to_have_attribute("value", "20")
    with page.expect_download() as downloading:
        page.get_by_role("button", name="Download answers").click()
    assert len(Path(str(downloading.value.path())).read_text().splitlines()) == 20
    picture(page, "batches")


def test_orders_need_an_admin_key_and_do_what_they_say(served: Served, open_: Open):
    """The page of a user asks for another key; that of an admin drains, undrains and restarts."""
    url = served.cluster.url(0, "/shoal/v1/console/drain")
    node = served.cluster.names[1]
    for headers, status in (
        ({}, 401),
        ({"authorization": f"Bearer {served.user}"}, 403),
        ({"x-shoal-key": "ops", "x-shoal-key-role": "admin"}, 401),
    ):
        assert httpx.post(url, json={"node": node}, headers=headers, trust_env=False).status_code == status
    assert served.state(1) == "alive"

    watched = open_()
    page = watched.view("cluster", "Cluster")
    page.get_by_role("button", name=f"Drain node {node}").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name=f"Drain node {node}").click()
    page.get_by_role("dialog").get_by_role("button", name=f"Drain node {node}").click()
    card = page.get_by_role("article", name=f"Node {node}")
    expect(card.get_by_text("drained", exact=True)).to_be_visible()
    wait_until(lambda: served.state(1) == "drained", 10, "it is drained")
    page.get_by_role("button", name=f"Undrain node {node}").click()
    page.get_by_role("dialog").get_by_role("button", name=f"Undrain node {node}").click()
    expect(card.get_by_text("alive", exact=True)).to_be_visible()

    before = served.restarts(1)
    card.get_by_role("button", name="Restart engine").click()
    page.get_by_role("dialog").get_by_role("button", name="Restart engine sim-model-0").click()
    wait_until(lambda: served.restarts(1) == before + 1, 30, "the engine was restarted")
    expect(card.get_by_text("ready", exact=True)).to_be_visible()
    page.goto(f"{served.cluster.url(0)}/#/events")
    expect(page.locator("ul.events")).to_contain_text("an operator asked for it")
    expect(page.locator("ul.events")).to_contain_text(
        f"console: API key ops orders: restart {node} sim-model-0"
    )
    wait_until(lambda: len(served.cluster.ready_engines(0)) == 3, 30, "all are back")


def test_what_leaves_too_few_engines_is_done_only_when_it_is_forced(served: Served):
    """As with `shoal drain`."""
    url = served.cluster.url(0, "/shoal/v1/console/")
    post = served.cluster.http.post
    for node in served.cluster.names[1:]:
        assert post(url + "drain", json={"node": node}).status_code == 200
    wait_until(lambda: served.state(1) == served.state(2) == "drained", 10, "both are drained")
    last = {"node": served.cluster.names[0], "engine": "sim-model-0"}
    refused = post(url + "restart", json=last)
    assert refused.status_code == 409
    assert "`min_engines` asks for 1" in refused.json()["error"]["message"]
    for node in served.cluster.names[1:]:
        assert post(url + "undrain", json={"node": node}).status_code == 200
    wait_until(lambda: served.state(1) == served.state(2) == "alive", 10, "both are back")
    for arguments, status in (({"engine": "no-such"}, 404), ({"node": "x:1", "engine": "e"}, 404), ({}, 400)):
        assert post(url + "restart", json=arguments).status_code == status
    assert post(url + "explode", json={}).status_code == 404
    assert post(url + "drain", content="no json").status_code == 400


def test_a_key_is_asked_for_and_kept_for_the_tab_alone(served: Served, open_: Open):
    watched = open_(key=None)
    watched.expected = lambda text: "401" in text or "403" in text
    page = watched.view("cluster", "Cluster")
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("API key").fill(served.user)
    dialog.get_by_role("button", name="OK").click()
    expect(dialog.get_by_role("alert")).to_contain_text("for admin keys only")
    dialog.get_by_label("API key").fill(served.admin)
    page.keyboard.press("Enter")
    wait_live(page)
    assert page.evaluate("Object.values(sessionStorage)") == [served.admin]
    assert served.admin not in page.evaluate("JSON.stringify(localStorage) + document.cookie + location.href")
    assert page.locator("dialog[open]").count() == 0


def test_a_killed_engine_is_seen_in_the_playground_as_a_resume(served: Served, open_: Open):
    with ThreadPoolExecutor(8) as threads:
        questions = [f"tell me story {i}" for i in range(8)]
        told = dict(zip(questions, threads.map(served.answer, questions), strict=True))
    question = max(told, key=lambda text: int(told[text]["usage"]["completion_tokens"]))
    page = open_().view("playground", "Playground")
    expect(page.get_by_label("Model")).to_have_value("sim-model")
    page.get_by_label("Temperature").fill("0")
    page.get_by_label("Tokens at most").fill(str(LONG))
    page.get_by_label("Message").fill(question)
    page.get_by_label("Message").press("Control+Enter")
    reply = page.locator(".said.reply")
    about = reply.locator("p.quiet")
    expect(about).to_have_text(re.compile(r"engine \S+/sim-model-0 .* ([5-9]|\d\d+) tokens"))
    begun = re.search(r"engine (\S+)/", str(about.text_content()))
    assert begun is not None
    served.cluster.kill_engine(served.cluster.names.index(begun[1]))
    seam = reply.locator(".seam")
    expect(seam).to_have_text(re.compile(r"Resumed: .*; (\S+) goes on after \d+ tokens"))
    expect(reply).to_have_attribute("aria-busy", "false")
    expect(about).to_contain_text("→")
    words = page.evaluate(
        "[...document.querySelectorAll('.said.reply > div')[0].childNodes].filter((n) => n.nodeType === 3)"
        ".map((n) => n.data).join('')"
    )
    assert words == told[question]["choices"][0]["message"]["content"]
    picture(page, "resume")
    wait_until(lambda: len(served.cluster.ready_engines(0)) == 3, 30, "all are back")


def test_hostile_names_and_sentences_stay_text(served: Served, open_: Open):
    served.cluster.http.post(served.cluster.url(0, "/shoal/v1/console/drain"), json={"node": HOSTILE})
    watched = open_()
    rows = [
        {"path": HOSTILE, "model": HOSTILE, "engine": HOSTILE, "client": HOSTILE, "key": HOSTILE, "age": 1}
        | {"stream": True, "sent": 1, "events": 1, "attempts": 1, "resumes": 0, "node": HOSTILE}
    ]
    page = watched.page
    page.route("**/shoal/v1/requests", lambda route: route.fulfill(json=rows))
    page.route("**/v1/models", lambda route: route.fulfill(json={"data": [{"id": HOSTILE}]}))
    watched.view("events", "Events")
    expect(page.locator("ul.events")).to_contain_text(f"orders: drain {HOSTILE}")
    watched.view("requests", "Requests")
    expect(page.locator('td[data-label="Model"]')).to_have_text(HOSTILE)
    watched.view("playground", "Playground")
    expect(page.get_by_label("Model")).to_have_value(HOSTILE)
    assert page.locator("main img").count() == 0
    assert page.title() == "Playground – Shoal"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_view_can_be_read_and_used_by_everybody(open_: Open, theme: str):
    watched = open_(color_scheme=theme)
    for name, heading in VIEWS.items():
        page = watched.view(name, heading)
        wait_live(page)
        assert page.evaluate(ACCESSIBLE) == [], name
    page = watched.view("charts", "Charts")
    assert page.evaluate("document.documentElement.dataset.theme") == theme
    expect(page.locator("section.card", has_text="CPU").locator("polyline").first).to_be_attached()
    if theme == "dark":
        picture(page, "charts-dark")
        page.get_by_label("Colours").select_option("light")
        assert page.evaluate("document.documentElement.dataset.theme") == "light"


def test_the_keyboard_alone_reaches_everything(open_: Open):
    page = open_().view("cluster", "Cluster")
    wait_live(page)
    page.evaluate("document.body.focus()")
    page.keyboard.press("Tab")
    expect(page.locator("#skip")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    page.get_by_role("link", name="Events").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1, name="Events")).to_be_focused()
    page.get_by_role("link", name="Cluster").click()
    button = page.get_by_role("button", name="Drain node").first
    button.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(button).to_be_focused()


def test_a_phone_needs_no_sideways_scrolling(open_: Open):
    watched = open_(viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True)
    for name, heading in VIEWS.items():
        page = watched.view(name, heading)
        wait_live(page)
        if name == "requests":
            expect(page.locator("tbody tr").first).to_be_visible()
        assert fits(page), name
    page = watched.view("cluster", "Cluster")
    expect(page.locator("article").first).to_be_visible()
    picture(page, "phone")


def test_the_browsers_language_or_the_switch_chooses_the_words(open_: Open):
    watched = open_(locale="zh-CN")
    page = watched.view("cluster", "集群")
    expect(page.locator("#link")).to_have_text("实时")
    expect(page.locator("article").first).to_contain_text("在线")
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
    picture(page, "chinese")
    page.get_by_label("语言").select_option("en")
    page.get_by_role("heading", level=1, name="Cluster").wait_for()
    page.reload()
    page.get_by_role("heading", level=1, name="Cluster").wait_for()


def test_files_are_kept_for_good_and_the_page_is_asked_for_anew(served: Served):
    """And neither needs a key: there is nothing of the cluster in them."""
    with httpx.Client(base_url=served.cluster.url(0), trust_env=False) as http:
        page = http.get("/")
        assert page.headers["cache-control"] == "no-cache"
        assert http.get("/", headers={"if-none-match": page.headers["etag"]}).status_code == 304
        (script,) = re.findall(r'src="([^"]+\.js)"', page.text)
        reply = http.get(f"/{script}")
        assert "immutable" in reply.headers["cache-control"]
        assert "script-src 'self'" in reply.headers["content-security-policy"]
        assert http.get("/shoal/v1/live").status_code == 401
        assert http.get("/shoal/v1/console/log?of=x").status_code == 401
        assert http.get("/shoal/v1/requests").status_code == 401
