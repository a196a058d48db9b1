"""Templates for the page and the card: whatever a file or a model says is text, never markup.

Each expression of a template passes through a guard first, so that no template can forget it.
Markup that was made for its place comes in as `Markup`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any

from jinja2 import BaseLoader, Environment, StrictUndefined
from markupsafe import Markup

_MAX_TEXT = 4000


def asset(name: str) -> str:
    """A file of the templates folder."""
    return (files("rys_gguf.report") / "templates" / name).read_text("utf-8")


def render_html(name: str, values: Mapping[str, Any]) -> str:
    """An HTML template with every expression visible and escaped."""
    return _render(name, values, visible, autoescape=True)


def render_text(name: str, values: Mapping[str, Any], guard: Callable[[str], str]) -> str:
    """A template of another language; `guard` makes text safe for it."""

    def guarded(value: Any) -> Any:
        return value if isinstance(value, Markup) else guard(str(value))

    return _render(name, values, guarded, autoescape=False)


def _render(
    name: str, values: Mapping[str, Any], guard: Callable[[Any], Any], *, autoescape: bool
) -> str:
    environment = Environment(
        loader=BaseLoader(),
        autoescape=autoescape,  # noqa: S701 - off for Markdown only, which has its own guard
        finalize=guard,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.from_string(asset(name)).render(values)


def visible(value: Any, limit: int = _MAX_TEXT) -> Any:
    """Text in which everything unprintable but a line break is spelled out; Markup as it is."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return "" if value is None else value
    return shown(value, limit)


def shown(value: Any, limit: int = 400) -> str:
    """Any value as visible text of at most about `limit` characters; other values as JSON."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    cut = "..." if len(text) > limit else ""
    return (
        "".join(
            c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode("ascii")
            for c in text[:limit]
        )
        + cut
    )


def embedded_json(value: Any) -> Markup:
    """JSON for a script element: nothing in it can close the element or begin a comment."""
    raw = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    safe = raw.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return Markup(safe)  # noqa: S704 - this is what makes it safe
