"""What the documentation tells people to type works, page by page, in the order of the page."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.documented import PAGES, Reader, blocks

# The Chinese README shows the commands of the English one (tests/unit/docs/test_readme.py).
RUN = {
    p.name: found
    for p in PAGES
    if p.name != "README.zh-CN.md"
    if (found := [b for b in blocks(p) if not b.reason])
}
SERVED = {"batch.md", "fleet.md", "terminal.md"}
"""Pages that begin where nodes run."""
RARE = {"README.md", "fleet.md", "quickstart.md", "terminal.md"}
"""Pages that take longest: they start three or four nodes, some several times. Left to `make test-docs`."""


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    found = Reader(tmp_path)
    yield found
    found.close()


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=[pytest.mark.rare] if page in RARE else []) for page in RUN]
)
def test_the_commands_of_a_page_work(page: str, reader: Reader):
    if page in SERVED:
        reader.serve()
    if page == "placement.md":
        reader.use_example("cpu-only")
    for block in RUN[page]:
        if "shoal keys" in block.text:
            reader.use_keys()
        reader.run(block)
