# SPDX-License-Identifier: Apache-2.0
"""Draws docs/images/method-light.svg and method-dark.svg: ``python docs/figures/method.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib import pyplot
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

pyplot.switch_backend("Agg")
pyplot.rcParams["svg.hashsalt"] = "method"  # the same file each time

IMAGES = Path(__file__).parents[1] / "images"
# Okabe and Ito (2008), told apart by color-blind people
COLORS = {"labeled": "#0072B2", "unlabeled": "#E69F00", "teacher": "#009E73", "student": "#D55E00"}
THEMES = {
    "light": {"ink": "#1f2328", "line": "#57606a", "fill": "#ffffff"},
    "dark": {"ink": "#e6edf3", "line": "#9198a1", "fill": "#161b22"},
}


def draw(theme: str) -> None:
    ink, line, fill = (THEMES[theme][name] for name in ("ink", "line", "fill"))
    figure, axis = pyplot.subplots(figsize=(10.6, 5))
    axis.set(xlim=(0, 111), ylim=(0, 52))
    axis.axis("off")

    def box(x: float, y: float, width: float, height: float, text: str, kind: str, small: str = "") -> None:
        color = COLORS.get(kind, line)
        axis.add_patch(
            FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0.3,rounding_size=1.2", fc=fill, ec=color, lw=1.8)
        )
        middle = y + height / 2 + (1.3 if small else 0)
        axis.text(x + width / 2, middle, text, ha="center", va="center", color=ink, fontsize=9.5, weight="bold")
        if small:
            axis.text(x + width / 2, y + height / 2 - 1.7, small, ha="center", va="center", color=ink, fontsize=8)

    def arrow(start: tuple[float, float], end: tuple[float, float], dashed: bool = False) -> None:
        axis.add_patch(
            FancyArrowPatch(
                start, end, arrowstyle="-|>", mutation_scale=12, color=line, lw=1.4, shrinkA=0, shrinkB=0,
                linestyle=(0, (4, 3)) if dashed else "solid",
            )
        )  # fmt: skip

    def path(points: list[tuple[float, float]], dashed: bool = False) -> None:
        style = (0, (4, 3)) if dashed else "solid"
        axis.plot([x for x, _ in points], [y for _, y in points], color=line, lw=1.4, linestyle=style)
        arrow(points[-2], points[-1], dashed=dashed)

    def say(x: float, y: float, text: str, **look: Any) -> None:
        axis.text(x, y, text, **{"color": ink, "fontsize": 8, "ha": "center", "va": "center", **look})

    box(1, 36, 19, 8, "Labeled scans", "labeled", "a few")
    box(1, 10, 19, 8, "Unlabeled scans", "unlabeled", "many")
    box(36, 38, 27, 7, "Diffusion decoder", "teacher", "samples label maps (DDIM)")
    box(36, 28, 27, 7, "Difficulty-aware decoder", "teacher", "weights hard classes")
    box(36, 13, 27, 7, "Mean teacher", "teacher", "moving average of the student")
    box(76, 22, 13, 9, "Pseudo-\nlabels", "unlabeled")
    box(95, 22, 15, 9, "Student", "student", "a V-Net, kept")
    italic = {"color": COLORS["teacher"], "style": "italic", "fontsize": 8.5}
    say(49.5, 36.5, "first teacher", **italic)
    say(49.5, 21.6, "second teacher", **italic)

    for end in ((35.5, 41.5), (35.5, 32.5)):
        arrow((20.5, 40), end)
    say(27.5, 42.4, "true labels")
    for end in ((35.5, 39.3), (35.5, 30), (35.5, 16.5)):
        arrow((20.5, 14), end)
    for start, end in (((63.5, 41.5), (75.5, 29.5)), ((63.5, 31.5), (75.5, 27)), ((63.5, 16.5), (75.5, 24))):
        arrow(start, end)
    say(72.6, 38.6, "the more certain\nteacher counts more", ha="left")
    arrow((89.5, 26.5), (94.5, 26.5))
    path([(10.5, 44.4), (10.5, 49), (102.5, 49), (102.5, 31.5)])
    say(76, 50.3, "true labels")
    path([(102.5, 21.5), (102.5, 8.5), (49.5, 8.5), (49.5, 12.5)], dashed=True)
    say(78, 10, "exponential moving average")
    say(55, 4.2, "The student learns from scans mixed across both sets (CutMix) and from scans with hidden blocks.")
    say(55, 1.6, "The decoders share its encoder and are discarded after training.")
    figure.savefig(
        IMAGES / f"method-{theme}.svg", transparent=True, bbox_inches="tight", pad_inches=0.05, metadata={"Date": None}
    )
    pyplot.close(figure)


if __name__ == "__main__":
    for name in THEMES:
        draw(name)
