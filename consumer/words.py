"""Durations and numbers in words, the same on a terminal and on a page."""


def span(seconds: float) -> str:
    """A duration as people say it: in its largest unit."""
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds:.0f} s"


def exact_span(seconds: float) -> str:
    """A duration as people measure it: in its two largest units."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def plural(count: int, noun: str, several: str | None = None) -> str:
    """The number and the noun, which gets an s unless `several` is given."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {several or noun + 's'}"


def capitalised(text: str) -> str:
    """As a sentence begins; the rest stays as it is."""
    return text[:1].upper() + text[1:]
