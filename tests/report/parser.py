"""Reads a page as strictly as a test needs it: every element has to be closed."""

from __future__ import annotations

from html.parser import HTMLParser


class Page(HTMLParser):
    """The elements of a page; refuses tags that close nothing."""

    _VOID = ("meta",)

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.scripts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember an element."""
        self.tags.append((tag, dict(attrs)))
        if tag not in self._VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember a shape of an SVG."""
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        """Check that the last element is the one that closes."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Keep the contents of scripts."""
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)

    def attributes(self, name: str) -> list[str]:
        """All values of one attribute."""
        return [value for _, attrs in self.tags if (value := attrs.get(name))]
