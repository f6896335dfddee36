"""Tables, sizes and ages, for people."""

from collections.abc import Sequence
from datetime import datetime

from mirrorfeed.contract.printing import printable


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with the cells of each column below each other; nothing is cut."""
    cells = [[printable(" ".join(cell.split())) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  "
        + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]


def bytes_shown(count: int) -> str:
    """In the largest decimal unit."""
    size = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def age(since: str, now: float) -> str:
    """How long ago an instant was."""
    seconds = max(0.0, now - datetime.fromisoformat(since).timestamp())
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"for {seconds // length:.0f} {unit}"
    return f"for {seconds:.0f} s"


def plural(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"
