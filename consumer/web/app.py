"""The application: which address shows what."""

import logging
from collections.abc import Callable, Iterator
from http import HTTPStatus

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from mirrorfeed.consumer.web.access import Access, App, Gate
from mirrorfeed.consumer.web.actions import ACTIONS, endpoint, status_of_refusal
from mirrorfeed.consumer.web.context import Context, Page, without_secrets
from mirrorfeed.consumer.web.pages import (
    audit,
    branch,
    branches,
    letters,
    now,
    operations,
    scripts,
    workers,
)
from mirrorfeed.consumer.web.rendering import STATIC, Renderer, as_json
from mirrorfeed.consumer.web.trouble import headline_of, in_words, status_of
from mirrorfeed.contract.secrets import mask_secrets

Read = Callable[[Context, Request], Page]

NO_STORE = {"cache-control": "no-store"}
KEPT = {"cache-control": "public, max-age=31536000, immutable"}
"""For what has another address when it changes."""
PAGES: dict[str, Read] = {
    "/now": now.read,
    "/branches": branches.read,
    "/branches/{branch_id}": branch.read,
    "/letters": letters.read,
    "/letters/{letter_id}": letters.read_one,
    "/operations": operations.read,
    "/operations/{operation_id}": operations.read_one,
    "/audit": audit.read,
    "/scripts": scripts.read,
    "/workers": workers.read,
}

logger = logging.getLogger(__name__)


def application(context: Context, access: Access) -> App:
    """What answers requests. Only the routes of ACTIONS can change anything, if the context has an
    operator."""
    prefix = context.settings.prefix
    site = Site(context, Renderer(prefix))
    inner = Starlette(
        routes=site.routes(),
        exception_handlers={HTTPException: site.refuse, Exception: site.fail},
    )
    # It would lead to an address without the prefix, and without TLS behind a proxy that has it.
    inner.router.redirect_slashes = False
    return Gate(inner, access, prefix)


class Site:
    """The routes, and what they answer."""

    def __init__(self, context: Context, renderer: Renderer) -> None:
        self._context = context
        self._renderer = renderer

    def routes(self) -> list[BaseRoute]:
        acts: list[BaseRoute] = [
            Route(path, endpoint(self._context, act, self._show, self._trouble), methods=["POST"])
            for path, act in ACTIONS.items()
        ]
        found: list[BaseRoute] = [
            *acts,
            Route("/live", self._live),
            Route("/static/{name}", _static),
            Route("/branches.csv", self._csv),
            Route("/", self._html(PAGES["/now"])),
        ]
        # The more exact one first: `{branch_id}` would take `17.json` for an id.
        for path, read in PAGES.items():
            found.append(Route(f"{path}.json", self._json(read)))
            found.append(Route(path, self._home if path == "/now" else self._html(read)))
        return found

    def _html(self, read: Read) -> Callable[[Request], Response]:
        def answer(request: Request) -> Response:
            try:
                return self._show(request, read(self._context, request))
            except Exception as error:
                return self._trouble(request, error)

        return answer

    def _show(self, request: Request, page: Page) -> Response:
        html = self._renderer.page(
            _masked(page),
            path=request.scope["path"],
            query=request.url.query,
            user=request.scope["user"],
            why_not=self._context.why_not(),
        )
        return _answer(html.encode(), "text/html; charset=utf-8", page.status)

    def _trouble(self, request: Request, error: Exception) -> Response:
        """A page that says what went wrong. Raises the error if it is a bug."""
        if (status := status_of_refusal(error)) is not None:
            headline, because = "That was not done", str(error)
        elif (status := status_of(error)) is not None:
            headline, because = headline_of(error), in_words(error)
        else:
            raise error
        html = self._renderer.trouble(
            headline, because, path=request.scope["path"], user=request.scope["user"]
        )
        return _answer(html.encode(), "text/html; charset=utf-8", status)

    def _json(self, read: Read) -> Callable[[Request], Response]:
        def answer(request: Request) -> Response:
            try:
                page = _masked(read(self._context, request))
            except Exception as error:
                status = status_of(error)
                if status is None:
                    raise
                return _answer(as_json({"error": in_words(error)}), "application/json", status)
            return _answer(as_json({"at": page.at, **page.document}), "application/json")

        return answer

    def _live(self, request: Request) -> Response:
        if because := self._context.watch.why_not_live():
            text = f"not live: {because}\n"
            return PlainTextResponse(text, HTTPStatus.SERVICE_UNAVAILABLE, NO_STORE)
        return PlainTextResponse("live\n", headers=NO_STORE)

    def _home(self, request: Request) -> Response:
        return RedirectResponse(f"{self._context.settings.prefix}/", headers=NO_STORE)

    def _csv(self, request: Request) -> Response:
        try:
            lines: Iterator[str] = branches.as_csv(self._context, request)
        except ValueError as error:
            return PlainTextResponse(f"{in_words(error)}\n", HTTPStatus.BAD_REQUEST, NO_STORE)
        disposition = {"content-disposition": 'attachment; filename="branches.csv"'}
        return StreamingResponse(lines, headers={**NO_STORE, **disposition}, media_type="text/csv")

    async def refuse(self, request: Request, error: Exception) -> Response:
        """An address that does not exist, or a method other than GET."""
        status = HTTPStatus(error.status_code if isinstance(error, HTTPException) else 500)
        html = self._renderer.trouble(
            "There is no such page",
            f"{request.method} {request.scope['path']}: {status.phrase.lower()}.",
            path=request.scope["path"],
            user=request.scope["user"],
        )
        headers = dict(getattr(error, "headers", None) or {})
        return _answer(html.encode(), "text/html; charset=utf-8", status, headers)

    async def fail(self, request: Request, error: Exception) -> Response:
        """A bug of ours, which Starlette also logs with its traceback."""
        html = self._renderer.trouble(
            "This page failed",
            "That is an error of ours; the log of mirror-consumer web has the details.",
            path=request.scope["path"],
            user=request.scope["user"],
        )
        return _answer(html.encode(), "text/html; charset=utf-8", HTTPStatus.INTERNAL_SERVER_ERROR)


def _masked(page: Page) -> Page:
    return Page(
        page.template,
        mask_secrets(page.title),
        page.at,
        without_secrets(page.document),
        without_secrets(page.extra),
        page.status,
    )


def _answer(
    body: bytes, kind: str, status: int = HTTPStatus.OK, headers: dict[str, str] | None = None
) -> Response:
    return Response(body, status, {**NO_STORE, **(headers or {})}, media_type=kind)


async def _static(request: Request) -> Response:
    found = STATIC.get(request.path_params["name"])
    if found is None:
        raise HTTPException(HTTPStatus.NOT_FOUND)
    kind, body = found
    return Response(body, headers=KEPT, media_type=kind)
