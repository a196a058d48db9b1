"""From matplotlib's SVG files to markup for the page, whose style sheet sets colours and sizes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from xml.etree import ElementTree as ET

# Colours with a meaning: the page has its own values for them, light and dark.
INK, SOFT, LINE, BACKGROUND = "#1d1e20", "#5d6066", "#e2dfd8", "#ffffff"
_COLOURS = {INK: "var(--ink)", SOFT: "var(--soft)", LINE: "var(--line)", BACKGROUND: "var(--bg)"}
_SVG, _XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_DECLARATION = re.compile(r"\s*([a-z-]+)\s*:\s*([^;]+)")
_DECIMALS = re.compile(r"-?\d+\.\d+")
# The page's style sheet decides about these.
_DROPPED = ("font", "font-size", "font-family", "stroke-linejoin", "stroke-linecap")


@dataclass(frozen=True, slots=True)
class Mark:
    """What the page adds to an artist: a class, words under the pointer, a candidate, a colour."""

    look: str = ""
    title: str = ""
    candidate: str = ""
    fill: str = ""


def inline_svg(
    svg: bytes, kind: str, spoken: str, marks: Mapping[str, Mark], colours: Mapping[str, str]
) -> str:
    """An SVG element of class `kind` that needs no namespace and refers to nothing outside.

    Groups whose id is in `marks` get what the mark says; other ids go unless something refers to
    them. `colours` are values for more colours than those with a meaning of their own.
    """
    root = ET.fromstring(svg)  # noqa: S314 - matplotlib has just written it
    _drop(root, {"metadata", "style"})
    _expand_uses(root)
    values = {**_COLOURS, **colours}
    used = {name for e in root.iter() for v in e.attrib.values() for name in _REFERENCE.findall(v)}
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        # Indentation takes much room in a large map.
        for blank in ("text", "tail"):
            if not (getattr(element, blank) or "").strip():
                setattr(element, blank, None)
        name = element.get("id", "")
        if path := element.get("d"):
            element.set("d", _DECIMALS.sub(_rounded, " ".join(path.split())))
        if name not in used:
            element.attrib.pop("id", None)
        if style := element.get("style"):
            element.set("style", _restyled(style, values))
        for attribute in ("fill", "stroke"):
            if colour := values.get(element.get(attribute, "")):
                element.attrib.pop(attribute)
                element.set("style", f"{element.get('style', '')};{attribute}:{colour}".lstrip(";"))
        if name in marks:
            _apply(element, marks[name])
    for attribute in ("version", "width", "height"):
        root.attrib.pop(attribute, None)
    root.attrib |= {"class": kind, "role": "img", "aria-label": spoken}
    return ET.tostring(root, encoding="unicode")


def _drop(parent: ET.Element, names: set[str]) -> None:
    for child in list(parent):
        if child.tag.removeprefix(_SVG) in names:
            parent.remove(child)
        else:
            _drop(child, names)


def _expand_uses(root: ET.Element) -> None:
    """Put a copy of a marker's path in the place of each `use`: the page has no references."""
    paths = {e.get("id"): e for e in root.iter(f"{_SVG}path") if e.get("id")}
    for parent in list(root.iter()):
        for at, use in enumerate(list(parent)):
            if use.tag != f"{_SVG}use":
                continue
            marker = paths[use.get(_XLINK, "").removeprefix("#")]
            style = ";".join(filter(None, (marker.get("style"), use.get("style"))))
            place = f"translate({use.get('x', '0')} {use.get('y', '0')})"
            path = {"d": marker.get("d", ""), "transform": place, "style": style}
            parent[at] = ET.Element(f"{_SVG}path", path)
    _drop_markers(root)


def _drop_markers(parent: ET.Element) -> None:
    """Drop definitions of paths alone, which nothing uses any more."""
    for child in list(parent):
        if child.tag == f"{_SVG}defs" and all(e.tag == f"{_SVG}path" for e in child):
            parent.remove(child)
        else:
            _drop_markers(child)


def _restyled(style: str, colours: Mapping[str, str]) -> str:
    kept = []
    for name, value in _DECLARATION.findall(style):
        if name not in _DROPPED:
            kept.append(f"{name}:{colours.get(value.strip(), value.strip())}")
    return ";".join(kept)


def _rounded(number: re.Match[str]) -> str:
    return f"{float(number[0]):.2f}".rstrip("0").rstrip(".")


def _apply(element: ET.Element, mark: Mark) -> None:
    if mark.look:
        element.set("class", mark.look)
    if mark.candidate:
        element.set("data-candidate", mark.candidate)
    if mark.fill:
        for shape in element:
            kept = [
                f"{name}:{value}"
                for name, value in _DECLARATION.findall(shape.get("style", ""))
                if name != "fill"
            ]
            shape.set("style", ";".join((*kept, f"fill:{mark.fill}")))
    if mark.title:
        title = ET.Element("title")
        title.text = mark.title
        element.insert(0, title)
