"""The page without a network: asked as a server would ask it, and read as a browser would."""

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urlencode

from mirrorfeed.consumer.branches.survey import Survey, survey
from mirrorfeed.consumer.web.access import Access, App
from mirrorfeed.consumer.web.app import application
from mirrorfeed.consumer.web.context import Context, Settings
from mirrorfeed.consumer.web.operator import Operator, operating_engine
from mirrorfeed.consumer.web.reading import page_engine
from mirrorfeed.consumer.web.shared import Shared
from mirrorfeed.consumer.web.surveys import Surveys
from mirrorfeed.consumer.web.watch import Watch

VOID = {"meta", "link", "input", "br", "rect", "line", "path"}
"""Elements that have no end tag, in HTML or as our SVG writes them."""


class Unshared(Shared):
    """Each page reads for itself, so that a test sees at once what it has changed."""

    def get(self, key: Any, read: Callable[[], Any], *, fresh_seconds: float) -> Any:
        return read()


class Unkept(Surveys):
    """The same of the branches' order."""

    def latest(self) -> Survey | None:
        return survey(self._engine)


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    text: str

    def json(self) -> Any:
        return json.loads(self.text)


@dataclass(frozen=True)
class Site:
    """A page, and who looks at it."""

    app: App
    host: str = "localhost:8070"
    peer: str = "127.0.0.1"

    def ask(
        self,
        path: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> Answer:
        """The answer to one request. An error that the page does not expect is raised."""
        address, _, query = path.partition("?")
        given = {"host": self.host, **(headers or {})}
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": address,
            "raw_path": address.encode(),
            "root_path": "",
            "query_string": query.encode(),
            "headers": [(name.lower().encode(), each.encode()) for name, each in given.items()],
            "client": (self.peer, 50_000),
            "server": ("127.0.0.1", 8070),
        }
        sent: list[Any] = []
        received = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Any:
            if not received:  # the client stays until it has all
                await asyncio.Event().wait()
            return received.pop()

        async def send(message: Any) -> None:
            sent.append(message)

        async def ask() -> None:
            await self.app(scope, receive, send)

        asyncio.run(ask())
        start = sent[0]
        return Answer(
            start["status"],
            {name.decode(): each.decode() for name, each in start["headers"]},
            b"".join(each.get("body", b"") for each in sent[1:]).decode(),
        )

    def post(self, path: str, fields: Mapping[str, str] | Sequence[tuple[str, str]] = ()) -> Answer:
        """What a browser sends for a form of the page."""
        headers = {
            "sec-fetch-site": "same-origin",
            "content-type": "application/x-www-form-urlencoded",
        }
        return self.ask(path, method="POST", headers=headers, body=urlencode(fields).encode())

    def html(self, path: str, expect: int = 200) -> str:
        """A page as HTML, whose structure is checked."""
        answer = self.ask(path)
        assert answer.status == expect, answer.text
        assert problems_of(answer.text) == []
        return answer.text

    def document(self, path: str, expect: int = 200) -> Any:
        answer = self.ask(path)
        assert answer.status == expect, answer.text
        return answer.json()


@contextmanager
def opened(
    database_url: str,
    amqp_url: str,
    *,
    settings: Settings | None = None,
    access: Access | None = None,
    is_shared: bool = False,
    may_operate: bool = False,
) -> Iterator[Site]:
    """A page of these servers, which looks at them ten times a second."""
    engine = page_engine(database_url)
    watch = Watch(engine, amqp_url, interval_seconds=0.1)
    with ThreadPoolExecutor(1) as threads:
        shared = Shared(threads) if is_shared else Unshared(threads)
        operator = Operator(operating_engine(database_url), amqp_url) if may_operate else None
        surveys = Surveys(engine, threads) if is_shared else Unkept(engine, threads)
        context = Context(engine, watch, shared, surveys, settings or Settings(), operator)
        watch.start()
        if operator:
            operator.start()
        try:
            yield Site(application(context, access or Access()))
        finally:
            watch.stop()
            watch.join()
            if operator:
                operator.stop()
                operator.engine.dispose()
            engine.dispose()


@dataclass
class _Structure(HTMLParser):
    """What is wrong with a page, as far as a parser can tell."""

    open: list[str] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.seen.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        if identity := given.get("id"):
            self.ids.append(identity)
        for name in given:
            if name.startswith("on") or name == "style":
                self.problems.append(f"{name} on {tag}, which the policy forbids")
        if tag in ("script", "style") and "src" not in given:
            self.problems.append(f"{tag} within the page, which the policy forbids")
        if tag == "th" and "scope" not in given:
            self.problems.append("a heading of what?")
        if given.get("role") == "img" and not given.get("aria-label"):
            self.problems.append(f"{tag} is a picture that says nothing")
        if tag in ("nav", "aside") and not given.get("aria-label"):
            self.problems.append(f"{tag} without a name")
        if (
            tag in ("input", "select", "textarea")
            and given.get("type") != "hidden"
            and "label" not in self.open
        ):
            self.problems.append(f"{tag} without a label")

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        if not self.open or self.open[-1] != tag:
            self.problems.append(f"</{tag}> ends {self.open[-1:]}")
        if tag in self.open:
            while self.open[-1] != tag:  # it ends what is within, too
                self.open.pop()
            self.open.pop()


def problems_of(html: str) -> list[str]:
    """What keeps a page from being well formed, allowed by its own policy, and accessible."""
    structure = _Structure()
    structure.feed(html)
    structure.close()
    found = list(structure.problems)
    if structure.open:
        found.append(f"never ended: {structure.open}")
    needed = ("h1", "main", "title", "nav", "footer")
    found += [f"there is no {tag}" for tag in needed if tag not in structure.seen]
    if structure.seen.count("h1") != 1:
        found.append("there must be one h1")
    if len(set(structure.ids)) != len(structure.ids):
        found.append("an id is there twice")
    return found
