"""Small charts as SVG, drawn on the server: bars side by side, the latest on the right."""

from collections.abc import Sequence

from markupsafe import Markup, escape
from msgspec import Struct

from mirrorfeed.contract.printing import printable

BAR_WIDTH, GAP, HEIGHT = 4, 1, 44
SEEN = 1.5
"""What is there at all has this height, so that it can be seen."""


class Bar(Struct, frozen=True):
    """One bar, of parts that stand on each other."""

    parts: Sequence[tuple[str, float]]
    """For each part its kind, which is a class of the stylesheet, and its size."""
    says: str
    """What the bar says when one points at it."""


def chart(bars: Sequence[Bar], label: str) -> Markup:
    """The highest bar fills the height. `label` is what the chart says to whoever cannot see it."""
    highest = max((sum(size for _, size in bar.parts) for bar in bars), default=0.0)
    width = len(bars) * (BAR_WIDTH + GAP)
    drawn = Markup("").join(
        _drawn(bar, index * (BAR_WIDTH + GAP), highest) for index, bar in enumerate(bars)
    )
    return Markup(
        '<svg class="chart" viewBox="0 0 {} {}" preserveAspectRatio="none" role="img"'
        ' aria-label="{}">{}<line class="base" x1="0" x2="{}" y1="{}" y2="{}"/></svg>'
    ).format(width, HEIGHT, printable(label), drawn, width, HEIGHT - 0.5, HEIGHT - 0.5)


def _drawn(bar: Bar, left: int, highest: float) -> Markup:
    top = float(HEIGHT - 1)
    rectangles = []
    for kind, size in bar.parts:
        room = HEIGHT - 2 - SEEN * len(bar.parts)
        height = max(SEEN, size / highest * room) if size else 0.0
        top -= height
        if height:
            rectangles.append(
                Markup('<rect class="{}" x="{}" y="{:.1f}" width="{}" height="{:.1f}"/>').format(
                    kind, left, top, BAR_WIDTH, height
                )
            )
    # All of the column says it, not just what is drawn.
    whole = Markup('<rect class="whole" x="{}" y="0" width="{}" height="{}"/>').format(
        left, BAR_WIDTH + GAP, HEIGHT
    )
    title = Markup("<title>{}</title>").format(escape(printable(bar.says)))
    return Markup("<g>{}{}{}</g>").format(title, whole, Markup("").join(rectangles))
