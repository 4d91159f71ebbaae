"""Small pieces of HTML. Text is escaped unless it is `Html` already."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape


class Html(str):
    """Markup that was made here and needs no escaping."""

    __slots__ = ()


def text(value: str | Html) -> Html:
    """Return the value as markup."""
    return value if isinstance(value, Html) else Html(escape(value))


def join(parts: Iterable[str]) -> Html:
    """Put pieces one after the other; plain text among them is escaped."""
    return Html("".join(text(part) for part in parts))


def element(tag: str, *children: str, css: str = "") -> Html:
    """Return `<tag class=css>children</tag>`."""
    return Html(f"<{tag}{f' class={css!r}' if css else ''}>{join(children)}</{tag}>")


def section(identifier: str, title: str, *children: str) -> Html:
    """Return a section that the table of contents can point to."""
    return Html(f'<section id="{escape(identifier)}"><h2>{escape(title)}</h2>{join(children)}</section>')


def table(header: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "", texts: int = 1) -> Html:
    """Return a table whose first `texts` columns are text and whose others are figures; wide ones scroll sideways."""
    head = join(_cell("th", cell, i < texts) for i, cell in enumerate(header))
    body = join(
        element("tr", *(_cell("td" if i else "th", cell, i < texts) for i, cell in enumerate(row))) for row in rows
    )
    title = element("caption", caption) if caption else ""
    return Html(f'<div class="scroll"><table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>')


def _cell(tag: str, content: str, is_text: bool) -> Html:
    return element(tag, content, css="text" if is_text else "")


def lines(*parts: str) -> Html:
    """Put a long heading on several lines."""
    return Html("<br>".join(text(part) for part in parts))


def grid(figures: Iterable[str]) -> Html:
    """Lay figures side by side where there is room."""
    return Html(f'<div class="grid">{"".join(figures)}</div>')


def details(summary: str, *children: str) -> Html:
    """Return content that is shown on demand."""
    return Html(f"<details><summary>{text(summary)}</summary>{join(children)}</details>")


def missing(what: str, made_by: str) -> Html:
    """Say what is not there and which verb makes it."""
    return element("p", f"Missing: {what}; {made_by} makes it.", css="missing")


def video(mp4: bytes, label: str) -> Html:
    """Embed a film; it plays by itself, without sound, again and again."""
    return Html(
        f'<video controls muted loop autoplay playsinline preload="auto" aria-label="{escape(label)}" '
        f'src="{_data("video/mp4", mp4)}"></video>'
    )


def image(content: bytes, label: str, kind: str = "image/webp") -> Html:
    """Embed a picture, or an animation, as wide as it is or as the page allows."""
    return Html(f'<img alt="{escape(label)}" style="max-width:100%" src="{_data(kind, content)}">')


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
