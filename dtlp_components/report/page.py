# SPDX-License-Identifier: Apache-2.0
"""A report as one HTML page that needs nothing else: texts, tables and drawings by section."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Figure", "Section", "Table", "embed_figure", "render_page"]

TEMPLATE = "page.html.jinja"


@dataclass(frozen=True)
class Table:
    """
    A table.

    Args:
        caption: what it says, also to those who do not see it.
        head: names of columns.
        rows: cells; the first of a row is its head.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Figure:
    """
    A drawing.

    Args:
        source: data address of the image.
        caption: below it.
        alt: what there is to see, for those who do not.
        width: in pixels of the page, 0 for the image's own.
        folded: whether a click unfolds it.
    """

    source: str
    caption: str
    alt: str
    width: int = 0
    folded: bool = False


@dataclass(frozen=True)
class Section:
    """
    A part of the page with a heading.

    Args:
        id: of its anchor.
        heading: of the part.
        texts: paragraphs.
        tables: below them.
        figures: below these.
    """

    id: str
    heading: str
    texts: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)


def embed_figure(figure: Any, caption: str, alt: str, *, folded: bool = False, pixels: bool = False) -> Figure:
    """
    A matplotlib figure as part of a page; it is closed.

    Args:
        figure: of matplotlib.
        caption: below it.
        alt: what there is to see.
        folded: whether a click unfolds it.
        pixels: as PNG, for images of scans; else as SVG, which is sharp at every size.
    """
    from matplotlib import pyplot

    stream = io.BytesIO()
    kind = "png" if pixels else "svg"
    figure.savefig(stream, format=kind, dpi=110, metadata={} if pixels else {"Date": None})
    width = round(96 * figure.get_size_inches()[0])
    pyplot.close(figure)
    mime = "image/png" if pixels else "image/svg+xml"
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    return Figure(f"data:{mime};base64,{data}", caption, alt, width, folded)


def render_page(title: str, summary: str, notes: Sequence[str], sections: Sequence[Section], footer: str) -> str:
    """
    The page's HTML. Names of scans, classes and trainings are texts, whatever they look like.

    Args:
        title: heading, and title of the window.
        summary: a sentence on all of it.
        notes: what has to be known before anything is read, each in a box.
        sections: with something in them; the others are left out.
        footer: last line.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    filled = [section for section in sections if section.texts or section.tables or section.figures]
    return environment.get_template(TEMPLATE).render(
        title=title, summary=summary, notes=notes, sections=filled, footer=footer
    )
