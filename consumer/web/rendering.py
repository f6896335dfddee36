"""Pages as HTML: templates in which whatever comes from outside is made harmless by default."""

import hashlib
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from mirrorfeed.consumer.web.context import Page
from mirrorfeed.consumer.words import capitalised, exact_span, plural, span
from mirrorfeed.contract.printing import printable, printable_lines

ROOM = Path(__file__).parent
STATIC: Mapping[str, tuple[str, bytes]] = {
    name: (kind, (ROOM / "static" / name).read_bytes())
    for name, kind in (
        ("page.css", "text/css; charset=utf-8"),
        ("page.js", "text/javascript; charset=utf-8"),
        ("icon.svg", "image/svg+xml"),
    )
}
"""What pages link to, with its media type."""
PAGES = (
    ("/", "Now"),
    ("/branches", "Branches"),
    ("/letters", "Letters"),
    ("/operations", "Operations"),
    ("/audit", "Audit"),
    ("/scripts", "Scripts"),
    ("/workers", "Workers"),
)


def harmless(value: object) -> object:
    """What a template prints of a value: text without control characters and the like; Jinja
    escapes it afterwards. Markup was made by us."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return printable(value)
    return value


def lines(text: str) -> Markup:
    """The same of a text whose line breaks stay."""
    return escape(printable_lines(text))


def with_code(text: str) -> Markup:
    """What is between backquotes is set as code."""
    parts = re.split(r"`([^`]*)`", text)
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if index % 2 else escape(part)
        for index, part in enumerate(map(printable, parts))
    )


def number(value: int) -> str:
    return f"{value:,}"


def moment(instant: datetime, now: datetime) -> Markup:
    """How long ago that was; the exact time is in what the browser shows beside it."""
    seconds = (now - instant).total_seconds()
    said = f"{span(seconds)} ago" if seconds >= 0 else f"in {span(-seconds)}"
    return _time(instant, said)


def exact(instant: datetime) -> Markup:
    """The time itself, in UTC."""
    return _time(instant, _utc(instant))


def _time(instant: datetime, said: str) -> Markup:
    machine = instant.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return Markup('<time datetime="{}" title="{}">{}</time>').format(machine, _utc(instant), said)


def _utc(instant: datetime) -> str:
    return f"{instant.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


class Renderer:
    """Makes HTML of pages, for a path prefix."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._environment = Environment(
            loader=FileSystemLoader(ROOM / "templates"),
            autoescape=True,
            finalize=harmless,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters.update(
            {
                "capitalised": capitalised,
                "code": with_code,
                "exact_span": exact_span,
                "lines": lines,
                "number": number,
                "plain": "{:g}".format,
                "span": span,
            }
        )
        self._environment.globals.update(
            {
                "exact": exact,
                "pages": PAGES,
                "plural": plural,
                "prefix": prefix,
                "static": self.static,
            }
        )

    def page(
        self, page: Page, *, path: str, query: str, user: str | None, why_not: str | None
    ) -> str:
        """The page as HTML. Its document must be without secrets already. `why_not` says why
        nothing can be changed."""
        return self._environment.get_template(page.template).render(
            **page.document,
            **page.extra,
            title=page.title,
            now=page.at,
            ago=lambda instant: moment(instant, page.at),
            path=path,
            json_path=f"{prefix_of(path)}.json{f'?{query}' if query else ''}",
            user=user,
            why_not=why_not,
        )

    def trouble(self, headline: str, because: str, *, path: str, user: str | None) -> str:
        """A page that says why there is none."""
        return self._environment.get_template("trouble.html").render(
            title=headline,
            headline=headline,
            because=because,
            now=datetime.now(UTC),
            path=path,
            json_path=None,
            user=user,
            why_not=None,
        )

    def static(self, name: str) -> str:
        """The address of one of STATIC, which changes with what is in it."""
        digest = hashlib.sha256(STATIC[name][1]).hexdigest()[:12]
        return f"{self._prefix}/static/{name}?{digest}"


def prefix_of(path: str) -> str:
    """The path of a page without `.json`; Now is at the root."""
    return "/now" if path == "/" else path


def as_json(document: object) -> bytes:
    """One document, in which times are as in the contract."""
    return json.dumps(document, default=_as_json, allow_nan=False).encode()


def _as_json(value: object) -> object:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    raise TypeError(f"{type(value).__name__} has no place in a document")
