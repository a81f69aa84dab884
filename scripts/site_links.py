"""A hook of mkdocs: a link to a file outside of docs/ becomes its path in the repository.

On the site these files are not there; in the repository the links work as they stand.
"""

from __future__ import annotations

import posixpath
import re
from typing import Any

LINK = re.compile(r"\[([^\]]+)\]\(((?:\.\./)+[^)#\s]+)(#[^)]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    folder = posixpath.dirname(f"docs/{page.file.src_uri}")

    def as_path(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, link[2]))
        if target.startswith("docs/"):
            return link[0]
        return link[1] if link[1].strip("`") == target else f"{link[1]} (`{target}`)"

    return LINK.sub(as_path, markdown)


def on_page_content(html: str, **_: Any) -> str:
    """A role of a docstring, :func:`~package.name`, is its name in code."""
    return re.sub(
        r":(?:class|func|meth|mod|data):<code>~?(?:\w+\.)*(\w+)</code>", r"<code>\1</code>", html
    )
