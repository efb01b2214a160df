"""The documentation as a site: every page has its place, every link leads somewhere, the reference is current."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import docs_site
from shoal.config.reference import as_markdown
from shoal.config.shape import all_settings

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs/configuration.md").read_text()


def test_the_reference_is_that_of_the_schema():
    begin, end = "<!-- reference: begin -->\n", "<!-- reference: end -->"
    assert TEXT.partition(begin)[2].partition(end)[0].strip() == as_markdown().strip(), (
        "make it anew: python -m shoal.config.reference"
    )


def test_the_reference_has_every_setting():
    rows = set(re.findall(r"^\| `([a-z0-9_]+)` \|", TEXT, re.MULTILINE))
    assert {str(path[-1]) for path in all_settings()} <= rows


def test_the_site_builds_without_a_broken_link_and_has_every_page(tmp_path: Path):
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "--site-dir",
        str(tmp_path / "site"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    for page in (ROOT / "docs").rglob("*.md"):
        html = page.relative_to(ROOT / "docs").with_suffix(".html")
        assert (tmp_path / "site" / str(html).replace("README", "index")).exists(), html
    index = (tmp_path / "site/index.html").read_text()
    assert not re.findall(r'(?:src|href)="https?://(?:fonts|unpkg|cdn)', index), (
        "the site works without internet"
    )


@pytest.mark.parametrize(
    ("text", "depth", "shown"),
    [
        ("[examples](../examples/plans)", 0, "examples (`examples/plans`)"),
        ("[examples/plans](../examples/plans)", 0, "examples/plans"),
        ("[batch](../batch.md#x)", 1, "[batch](../batch.md#x)"),
        ("[test](../../tests/a.py)", 1, "test (`tests/a.py`)"),
    ],
)
def test_links_out_of_the_documentation_become_names(text: str, depth: int, shown: str):
    assert docs_site.without_outside_links(text, depth) == shown
