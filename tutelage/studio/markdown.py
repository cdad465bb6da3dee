"""Text of people and models as HTML: Markdown, then sanitised. What a model writes is never trusted."""

from __future__ import annotations

import nh3
from markdown_it import MarkdownIt
from markupsafe import Markup, escape

TAGS = {
    "p", "br", "strong", "em", "del", "code", "pre", "blockquote", "ul", "ol", "li", "hr", "h1", "h2", "h3", "h4",
    "h5", "h6", "table", "thead", "tbody", "tr", "th", "td",
}  # fmt: skip
"""No links, no images: nothing to click away to, nothing to load."""

_renderers = {
    breaks: MarkdownIt("commonmark", {"html": False, "linkify": False, "breaks": breaks}).enable("table")
    for breaks in (True, False)
}


LONGEST = 20_000
"""Characters beyond which a text is shown as it is: there are texts whose layout takes time by the square."""


def render(text: str, *, breaks: bool = True) -> Markup:
    """Safe HTML of a Markdown text. breaks: line breaks are kept, as a model or a labeler set them; files wrap."""
    if len(text) > LONGEST:
        return Markup("<pre>{}</pre>").format(escape(text))
    return Markup(nh3.clean(_renderers[breaks].render(text), tags=TAGS, attributes={"ol": {"start"}}, link_rel=None))
