# SPDX-License-Identifier: Apache-2.0
"""The page: one file, with landmarks, and texts that stay texts."""

from __future__ import annotations

import re

from matplotlib import pyplot

from dtlp_components.report.page import Section, Table, embed_figure, render_page

EVIL = "<script>alert('x')</script>"


def page(**kwargs: object) -> str:
    sections = [
        Section("one", "One & only", [EVIL], [Table(EVIL, ["case", EVIL], [["a", EVIL]])]),
        Section("none", "Nothing in it"),
    ]
    return render_page(EVIL, EVIL, [EVIL], sections, EVIL)


def test_names_are_texts_whatever_they_look_like() -> None:
    html = page()
    assert "<script" not in html
    assert html.count("&lt;script&gt;") >= 6


def test_section_without_content_is_left_out_of_page_and_navigation() -> None:
    html = page()
    assert 'href="#one"' in html
    assert "Nothing in it" not in html


def test_page_asks_for_nothing_from_elsewhere() -> None:
    figure, axis = pyplot.subplots()
    axis.plot([0, 1])
    drawing = embed_figure(figure, "A line", "A line that rises")
    html = render_page("t", "s", [], [Section("a", "A", figures=[drawing])], "f")
    assert not re.findall(r'(?:src|href)="(?!data:|#)', html)
    assert "default-src 'none'" in html
    assert drawing.source.startswith("data:image/svg+xml;base64,")
    assert not pyplot.fignum_exists(figure.number)


def test_page_can_be_read_without_being_seen() -> None:
    figure, _ = pyplot.subplots()
    drawing = embed_figure(figure, "c", "what there is to see", folded=True, pixels=True)
    section = Section("a", "A", tables=[Table("Scores", ["x", "y"], [["1", "2"]])], figures=[drawing])
    html = render_page("t", "s", [], [section], "f")
    for landmark in ("<header>", "<nav aria-label=", "<main>", "<footer>", "<caption>", 'scope="col"', 'scope="row"'):
        assert landmark in html
    assert 'lang="en"' in html
    assert 'alt="what there is to see"' in html
    assert 'aria-labelledby="a-heading"' in html
    assert "<details><summary>c</summary>" in html
    assert "data:image/png;base64," in html
