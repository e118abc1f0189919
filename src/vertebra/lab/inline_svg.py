"""A picture of matplotlib's as an element of a page: no inline styles, ids of its own, a title for screen readers."""

from __future__ import annotations

import re
from xml.etree import ElementTree

_SVG = "http://www.w3.org/2000/svg"
_XLINK = "{http://www.w3.org/1999/xlink}"
_FONT = re.compile(r"(?:(italic|oblique)\s+)?(?:(bold|\d{3})\s+)?([\d.]+)px\b")
# What matplotlib writes as inline styles; a content security policy refuses these, and allows the attributes.
_PROPERTIES = (
    frozenset(
        ("fill", "fill-opacity", "fill-rule", "stroke", "stroke-width", "stroke-opacity", "stroke-dasharray", "opacity")
    )
    | frozenset(
        ("stroke-dashoffset", "stroke-linecap", "stroke-linejoin", "stroke-miterlimit", "font-size", "font-weight")
    )
    | frozenset(("font-style", "text-anchor", "clip-path", "image-rendering", "display", "visibility"))
)


def inline_svg(svg: bytes, prefix: str, title: str, description: str) -> str:
    """An SVG file as an `<svg>` element with `role="img"`, which `title` and `description` name.

    Args:
        svg: what matplotlib wrote.
        prefix: of all ids, so that several pictures can stand in one page.
        title: short, in one line.
        description: what there is to see.
    """
    ElementTree.register_namespace("", _SVG)
    root = ElementTree.fromstring(svg)  # noqa: S314 - our own file
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        _rewrite(element, prefix)
    # What the style sheet of the file said of everything.
    for name, value in {"stroke-linejoin": "round", "stroke-linecap": "butt"}.items():
        root.set(name, value)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    texts = {f"{prefix}title": ("title", title), f"{prefix}description": ("desc", description)}
    for place, (name, (tag, text)) in enumerate(texts.items()):
        child = ElementTree.Element(f"{{{_SVG}}}{tag}", {"id": name})
        child.text = text
        root.insert(place, child)
    root.attrib |= {"role": "img", "class": "plot", "aria-labelledby": " ".join(texts)}
    return ElementTree.tostring(root, encoding="unicode")


def _rewrite(element: ElementTree.Element, prefix: str) -> None:
    """Styles become attributes, and ids get the prefix."""
    for declaration in element.attrib.pop("style", "").split(";"):
        name, _, value = (part.strip() for part in declaration.partition(":"))
        if name == "font" and (font := _FONT.search(value)):
            element.set("font-size", font[3])
            if font[1]:
                element.set("font-style", font[1])
            if font[2]:
                element.set("font-weight", font[2])
        elif name in _PROPERTIES:
            element.set(name, value.removesuffix("px") if name == "font-size" else value)
    if (link := element.attrib.pop(f"{_XLINK}href", None)) is not None:
        element.set("href", link)
    for name, value in list(element.attrib.items()):
        if name == "id":
            element.set(name, prefix + value)
        elif name == "href" and value.startswith("#"):
            element.set(name, f"#{prefix}{value[1:]}")
        elif "url(#" in value:
            element.set(name, value.replace("url(#", f"url(#{prefix}"))
