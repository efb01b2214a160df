"""For mkdocs: pages are read in a checkout, too, where links lead to files beside docs/; on the site they are names."""

from __future__ import annotations

import re
from typing import Any

_OUTSIDE = re.compile(r"\[([^\]]+)\]\(((?:\.\./)+)([^)#]+)(#[^)]*)?\)")


def without_outside_links(markdown: str, depth: int) -> str:
    """Return the text with links that leave docs/ replaced by what they say and the name of the file.

    Args:
        markdown: of a page.
        depth: folders between docs/ and the page.
    """

    def name(found: re.Match[str]) -> str:
        text, up, path = found[1], found[2].count("../"), found[3]
        if up <= depth:
            return found[0]
        return text if path in text else f"{text} (`{path}`)"

    return _OUTSIDE.sub(name, markdown)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Hook of mkdocs."""
    return without_outside_links(markdown, page.file.src_uri.count("/"))
