# SPDX-License-Identifier: Apache-2.0
"""Sphinx: the pages of this folder, and a page of the API for every room of the package (``make docs``)."""

from __future__ import annotations

import inspect
import os
import re
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import dtlp_components  # noqa: E402
from dtlp_components import parts  # noqa: E402

project, author, release = "DTLP bundles", "the authors of dtlp_components", dtlp_components.__version__
html_title = f"DTLP bundles {release}"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["figures"]
highlight_language = "text"

# anchors as on GitHub, so that a link works in both places
myst_heading_anchors = 4

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True, "show-inheritance": True}
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_copyright = False
html_show_sourcelink = False
html_copy_source = False
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True

# ---- pages that are written when the site is built, and not tracked ------------------------------------------------
ROOMS = {
    "networks": "Networks",
    "losses": "Losses",
    "metrics": "Metrics",
    "pseudo_labels": "Pseudo-labels",
    "transforms": "Transforms",
    "data": "Data",
    "inferers": "Inferers",
    "methods": "Methods to compare with",
    "engines": "Engines",
    "handlers": "Handlers",
    "checks": "Checks",
    "bundle": "Bundles",
}
OTHERS = "others"
# texts of the repository's root that are pages of the site
ROOT_TEXTS = {"CONTRIBUTING.md": "docs/project/contributing.md", "CHANGELOG.md": "docs/project/changelog.md"}
# a sentence ends at a period, but not at that of "Eq. 7"
SENTENCE = re.compile(r".*?(?<!Eq)(?<!Fig)(?<!al)\.(?=\s|$)", re.DOTALL)


def room_of(name: str) -> str:
    room = getattr(parts, name).__module__.split(".")[1]
    return room if room in ROOMS else OTHERS


def summary(name: str) -> str:
    """The first sentence of a docstring, on one line."""
    first = (inspect.getdoc(getattr(parts, name)) or "").partition("\n\n")[0]
    sentence = SENTENCE.match(first)
    return " ".join((sentence[0] if sentence else first.rstrip(":") + ".").split())


def api_page(room: str, names: list[str]) -> str:
    """What belongs into a room, its public names, and their docstrings."""
    title = ROOMS.get(room, "Errors, processes, files of a run")
    lines = [title, "=" * len(title), ""]
    if room != OTHERS:
        lines += [inspect.getdoc(sys.modules[f"dtlp_components.{room}"]) or "", ""]
    for name in names:
        lines += [f":py:obj:`~dtlp_components.{name}`", f"    {summary(name)}", ""]
    for name in names:
        kind = "autoclass" if inspect.isclass(getattr(parts, name)) else "autofunction"
        lines += [f".. {kind}:: dtlp_components.{name}", ""]
    return "\n".join(lines)


def write_pages() -> None:
    places = [*ROOMS, OTHERS]
    names = sorted(parts.__all__, key=lambda name: (places.index(room_of(name)), name))
    files = {f"docs/reference/api/{room}.rst": api_page(room, [*group]) for room, group in groupby(names, key=room_of)}
    files |= {
        place: relinked((ROOT / name).read_text(encoding="utf-8"), name, place) for name, place in ROOT_TEXTS.items()
    }
    for place, text in files.items():
        (ROOT / place).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / place).write_text(text, encoding="utf-8")


def relinked(text: str, old: str, new: str) -> str:
    """A page's links to files, from where it stands now, and to pages of the site instead of files of the root."""

    def link(match: re.Match[str]) -> str:
        target = os.path.normpath(os.path.join(os.path.dirname(old), match[1]))
        return f"]({os.path.relpath(ROOT_TEXTS.get(target, target), os.path.dirname(new))}"

    return re.sub(r"\]\(([^)#:\s]+)(?=[)#])", link, text)


def relink_page(app: Any, page: str, source: list[str]) -> None:
    if app.env.doc2path(page).suffix == ".md":
        source[0] = relinked(source[0], f"docs/{page}.md", f"docs/{page}.md")


def setup(app: Any) -> None:
    app.connect("source-read", relink_page)


write_pages()
