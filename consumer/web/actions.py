"""What forms of the page do. Each of them leads to a page that shows the result, so that loading
that again repeats nothing."""

import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from msgspec import Struct, structs
from sqlalchemy import Connection
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response

from mirrorfeed.consumer.apply.message import DEFAULT_LIMITS
from mirrorfeed.consumer.dead_letters import store as letter_store
from mirrorfeed.consumer.dead_letters.edit import edit
from mirrorfeed.consumer.dead_letters.store import LetterState, Selection
from mirrorfeed.consumer.errors import LayoutError, OperationError, StillDead
from mirrorfeed.consumer.operations import store
from mirrorfeed.consumer.operations.preview import preview
from mirrorfeed.consumer.operations.store import Kind, State
from mirrorfeed.consumer.partitions.layout import Stage, read_layout
from mirrorfeed.consumer.sources import decisions
from mirrorfeed.consumer.web import query
from mirrorfeed.consumer.web.access import peer_of
from mirrorfeed.consumer.web.context import Context, Page
from mirrorfeed.consumer.web.forms import Form, FormTooLarge, read_form
from mirrorfeed.consumer.web.operator import Operator
from mirrorfeed.consumer.web.pages import letters
from mirrorfeed.consumer.web.pages.letters import selection_of
from mirrorfeed.contract import routing

Refuse = Callable[[Request, Exception], Response]
Show = Callable[[Request, Page], Response]

MOST_TEXT = 2000
FASTEST = 1e6

logger = logging.getLogger(__name__)


class Refused(Exception):
    """Nothing may be changed from this page; the message says why."""


class Changed(Exception):
    """A letter is no longer as it was shown; the message says so."""


class Action(Struct, frozen=True):
    """A form that somebody who may has sent."""

    context: Context
    operator: Operator
    request: Request
    form: Form
    actor: str

    def number(self, name: str) -> int:
        """From the path. Raises ValueError."""
        return query.identifier(f"the {name}", self.request.path_params[f"{name}_id"])


class Done(Struct, frozen=True):
    """What a form asks for is done."""

    path: str
    """Of the page that shows it."""
    is_new: bool = True
    """False if it was so already, as after a second click."""


Act = Callable[[Action], Done | Page]
"""Does what the form asks for. A page says why it has changed nothing."""


def endpoint(
    context: Context, act: Act, show: Show, refuse: Refuse
) -> Callable[[Request], Awaitable[Response]]:
    """Answers a POST. `refuse` makes the page that says why it was not done."""

    def carry_out(request: Request, form: Form) -> Response:
        try:
            if (because := context.why_not()) is not None or context.operator is None:
                raise Refused(because)
            actor = (
                request.scope["user"]
                or f"somebody at {peer_of(request.scope) or 'an unknown address'}"
            )
            done = act(Action(context, context.operator, request, form, actor))
            context.shared.forget()
        except Exception as error:
            return refuse(request, error)
        if isinstance(done, Page):
            return show(request, done)
        if done.is_new:
            logger.info("done from the page", extra={"user": actor, "path": request.scope["path"]})
        address = f"{context.settings.prefix}{done.path}"
        return RedirectResponse(address, HTTPStatus.SEE_OTHER, {"cache-control": "no-store"})

    async def answer(request: Request) -> Response:
        try:
            form = await read_form(request)
        except ClientDisconnect:
            return Response(status_code=HTTPStatus.BAD_REQUEST)  # which nobody gets
        except (ValueError, TimeoutError) as error:
            return await run_in_threadpool(refuse, request, error)
        return await run_in_threadpool(carry_out, request, form)

    return answer


def preview_letters(action: Action) -> Done:
    """Keeps the letters that were ticked, or all that the filter finds, and tries them.

    Raises ValueError, OperationError and DBAPIError.
    """
    kind, _, which = action.form.get("do", "").partition("-")
    if kind not in (Kind.APPLY, Kind.DISCARD, Kind.RESTORE) or which not in ("all", "ticked"):
        raise ValueError("choose what to do with which letters")
    state = LetterState.DISCARDED if kind == Kind.RESTORE else LetterState.DEAD
    if which == "ticked":
        ids = [query.identifier("the letter", each) for each in action.form.getlist("id")]
        if not ids:
            raise OperationError("no letter is ticked")
        selection = Selection(ids=tuple(ids), state=state)
    else:
        selection = selection_of(action.form, state)
    operation_id = preview(action.operator.engine, Kind(kind), selection, action.actor)
    return Done(f"/operations/{operation_id}")


def preview_partitions(action: Action) -> Done:
    """Raises ValueError, LayoutError and DBAPIError."""
    wanted = query.number(action.form, "partitions")
    if wanted is None or not 1 <= wanted <= routing.SLOTS:
        raise ValueError(f"the number of partitions must be from 1 to {routing.SLOTS}")
    with action.operator.engine.begin() as connection:
        layout = read_layout(connection)
        if layout.stage is Stage.STEADY and layout.partitions == wanted:
            raise LayoutError(f"there are {wanted} partitions already")
        if layout.moving_to not in (None, wanted):
            raise LayoutError(layout.under_way)
        asked = {"partitions": wanted, "from": layout.partitions}
        operation_id = store.begin(
            connection, Kind.REPARTITION, asked, [], action.actor, state=State.PREVIEWED
        )
    return Done(f"/operations/{operation_id}")


def start(action: Action) -> Done:
    """Sent twice, it starts once. Raises ValueError, OperationError and DBAPIError."""
    operation_id = action.number("operation")
    rate = _rate(action.form)
    note = query.text(action.form, "note", MOST_TEXT)
    with action.operator.engine.begin() as connection:
        operation = store.get(connection, operation_id)
        if operation.kind is Kind.DISCARD and operation.state is State.PREVIEWED and note is None:
            raise ValueError("say why these letters do not matter: it is kept with each of them")
        is_first_alone = "first_alone" in action.form and operation.letters > 1
        is_new = store.start(
            connection, operation_id, note=note, rate=rate, first_alone=is_first_alone
        )
    action.operator.wake()
    return Done(f"/operations/{operation_id}", is_new)


def stop(action: Action) -> Done:
    """Raises OperationError and DBAPIError."""
    return _change(action, store.stop)


def go_on(action: Action) -> Done:
    """Raises OperationError and DBAPIError."""
    done = _change(action, store.go_on)
    action.operator.wake()
    return done


def undo(action: Action) -> Done:
    """A preview of restoring what an operation has discarded. Raises OperationError and
    DBAPIError."""
    operation_id = action.number("operation")
    with action.operator.engine.begin() as connection:
        operation = store.get(connection, operation_id)
    if operation.kind is not Kind.DISCARD or operation.ended_at is None:
        raise OperationError(f"operation {operation_id} has discarded nothing")
    selection = Selection(state=LetterState.DISCARDED, discarded_at=operation.ended_at)
    undone = preview(action.operator.engine, Kind.RESTORE, selection, action.actor)
    return Done(f"/operations/{undone}")


def edit_letter(action: Action) -> Done | Page:
    """Says at once whether the new body could be applied, and changes no letter that is no longer
    as it was shown; what was typed is kept. Raises LetterError, ValueError and DBAPIError."""
    letter_id, is_trial = action.number("letter"), "check" in action.form
    draft = action.form.get("body", "").replace("\r\n", "\n")
    body = draft.strip().encode()
    extra: dict[str, object] = {"draft": draft, "version": action.form.get("version", "")}
    try:
        with action.operator.editing:
            is_new = _is_new(action, letter_id, body)
            edit(action.operator.engine, letter_id, body, limits=DEFAULT_LIMITS, is_trial=is_trial)
    except Changed as error:
        status, said = HTTPStatus.CONFLICT, str(error)
        action.context.shared.forget()
        del extra["version"]  # from now on it is that of the body which is shown
    except StillDead as error:
        status, said = HTTPStatus.CONFLICT, str(error)
    else:
        if not is_trial:
            return Done(f"/letters/{letter_id}", is_new)
        status, said = HTTPStatus.OK, "this could be applied"
    page = letters.read_one(action.context, action.request)
    extra |= {"said": said, "is_good": status is HTTPStatus.OK}
    return structs.replace(page, extra={**page.extra, **extra}, status=status)


def accept(action: Action) -> Done:
    """Raises LedgerError, ValueError and DBAPIError."""
    first, last = query.number(action.form, "first"), query.number(action.form, "last")
    if first is None or last is None:
        raise ValueError("say from which number to which")
    source, note = action.form.get("source", ""), _needed_note(action)
    with action.operator.engine.begin() as connection:
        decisions.accept(connection, source, first, last, note)
    return Done("/audit")


def undo_decision(action: Action) -> Done:
    """Raises LedgerError, ValueError and DBAPIError."""
    number, note = query.number(action.form, "decision"), _needed_note(action)
    if number is None:
        raise ValueError("say which decision")
    with action.operator.engine.begin() as connection:
        decisions.undo(connection, number, note)
    return Done("/audit")


ACTIONS: dict[str, Act] = {
    "/letters/preview": preview_letters,
    "/letters/{letter_id}/edit": edit_letter,
    "/operations/{operation_id}/start": start,
    "/operations/{operation_id}/stop": stop,
    "/operations/{operation_id}/go-on": go_on,
    "/operations/{operation_id}/undo": undo,
    "/partitions/preview": preview_partitions,
    "/audit/accept": accept,
    "/audit/undo": undo_decision,
}
"""By path."""


def status_of_refusal(error: Exception) -> HTTPStatus | None:
    """For what only a form can do wrong."""
    if isinstance(error, Refused):
        return HTTPStatus.FORBIDDEN
    if isinstance(error, FormTooLarge):
        return HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    return HTTPStatus.REQUEST_TIMEOUT if isinstance(error, TimeoutError) else None


def _is_new(action: Action, letter_id: int, body: bytes) -> bool:
    """False if the letter has that body already, as after a second click. Raises Changed if it has
    another one than when the form was shown, and LetterError."""
    with action.operator.engine.begin() as connection:
        letter = letter_store.get(connection, letter_id, first_bytes=letters.SHOWN_BYTES)
    is_new = bytes(letter.body) != body
    is_as_shown = letters.version_of(dict(letter._mapping)) == action.form.get("version")
    if is_new and not is_as_shown and letter.state == LetterState.DEAD:
        raise Changed(
            "somebody has changed the letter since you began: its body is now the one below. What"
            " you have typed is not saved; Save would replace that body"
        )
    return is_new


def _change(action: Action, change: Callable[[Connection, int], bool]) -> Done:
    operation_id = action.number("operation")
    with action.operator.engine.begin() as connection:
        store.get(connection, operation_id)
        is_new = change(connection, operation_id)
    return Done(f"/operations/{operation_id}", is_new)


def _rate(form: Form) -> float | None:
    text = query.text(form, "rate")
    if text is None:
        return None
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0.1 <= rate <= FASTEST:
        raise ValueError(f"{text} letters a second is no rate from 0.1 to {FASTEST:,.0f}")
    return rate


def _needed_note(action: Action) -> str:
    """With who it was: the decision itself knows only the database's user."""
    note = query.text(action.form, "note", MOST_TEXT)
    if note is None:
        raise ValueError("say why: it is kept with the decision")
    return f"{note} ({action.actor}, on the page)"
