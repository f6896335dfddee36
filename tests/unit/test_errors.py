"""What an error means to whoever called the command."""

import re
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import pika
import pika.exceptions
import psycopg2
import psycopg2.errors
import pytest
import typer
from pika.adapters.utils import connection_workflow
from sqlalchemy import exc

from mirrorfeed.amqp.connections import BrokerUnavailable, broker_channel
from mirrorfeed.consumer import errors
from mirrorfeed.consumer.commands.program import as_consumer_error, meaning_to_caller
from mirrorfeed.consumer.database import SERVER_TROUBLE
from mirrorfeed.consumer.errors import ConsumerError
from mirrorfeed.contract import exit_codes
from mirrorfeed.contract.events import InvalidEvent
from mirrorfeed.contract.program import run_program

NO_RIGHT = "42501"


def below(error: type[Exception]) -> Iterator[type[Exception]]:
    for each in error.__subclasses__():
        yield each
        yield from below(each)


OURS = sorted(set(below(ConsumerError)), key=lambda each: each.__name__)
PIKA = sorted(
    {
        *below(pika.exceptions.AMQPError),
        connection_workflow.AMQPConnectorException,
        *below(connection_workflow.AMQPConnectorException),
    }
    - {pika.exceptions.NoFreeChannels},  # a limit that somebody set
    key=lambda each: each.__name__,
)
DATABASE_KINDS = [
    exc.DBAPIError,
    *sorted(set(below(exc.DBAPIError)), key=lambda each: each.__name__),
]


def wrapped(sqlstate: str | None, kind: type[exc.DBAPIError] = exc.DBAPIError) -> exc.DBAPIError:
    """As SQLAlchemy raises what psycopg2 did."""
    base = psycopg2.errors.lookup(sqlstate) if sqlstate else psycopg2.OperationalError
    said = type(base.__name__, (base,), {"pgcode": sqlstate})
    return kind("SELECT 1", {}, said("so it is\nLINE 1: …"))


@contextmanager
def own_streams() -> Iterator[None]:
    """A program replaces both, for good."""
    with patch("sys.stdout", sys.stdout), patch("sys.stderr", sys.stderr):
        yield


@pytest.mark.parametrize("error", OURS)
def test_each_error_has_an_exit_code_of_the_contract(error: type[ConsumerError]) -> None:
    """As one of three kinds, of which each means one code."""
    kinds = {
        errors.ConditionNotMet: exit_codes.NOT_MET,
        errors.UsageError: exit_codes.USAGE,
        errors.ServerUnavailable: exit_codes.UNREACHABLE,
    }
    assert [code for kind, code in kinds.items() if issubclass(error, kind)] == [error.exit_code]
    assert as_consumer_error(instance := error("why")) is instance


def test_all_errors_stand_in_one_file_and_in_its_drawing() -> None:
    """Nobody has to look for another."""
    assert {each.__module__ for each in OURS} == {errors.__name__}
    drawn = re.findall(r"[├└]── (\w+)", errors.__doc__ or "")
    assert sorted(drawn) == [each.__name__ for each in OURS]


@pytest.mark.parametrize("sqlstate", [None, "22003", "23514", "57P01", "40P01", "42P01", NO_RIGHT])
@pytest.mark.parametrize("kind", DATABASE_KINDS)
def test_what_the_database_says_decides(sqlstate: str | None, kind: type[exc.DBAPIError]) -> None:
    """Not the class in which SQLAlchemy wraps it. Of what it says one line is shown."""
    known = as_consumer_error(wrapped(sqlstate, kind))
    assert known is not None
    if sqlstate == NO_RIGHT:
        assert (known.exit_code, str(known)) == (
            exit_codes.USAGE,
            "so it is; give this database user the role for it, see roles.sql",
        )
        return
    is_refused = sqlstate is not None and sqlstate[:2] not in SERVER_TROUBLE
    expected = exit_codes.USAGE if is_refused else exit_codes.UNREACHABLE
    assert (known.exit_code, str(known)) == (expected, "so it is")


@pytest.mark.parametrize("error", PIKA)
def test_whatever_pika_raises_means_that_the_broker_is_away(error: type[Exception]) -> None:
    """Whichever of its errors it is."""
    assert_unreachable(raised(error))


@pytest.mark.parametrize("error", [ConnectionResetError("gone"), socket.gaierror("gone")])
def test_so_does_what_the_operating_system_says_of_a_connection(error: OSError) -> None:
    """Such as that there is no host of that name."""
    assert_unreachable(error)


def assert_unreachable(error: Exception) -> None:
    with (
        patch.object(pika.BlockingConnection, "__init__", side_effect=error) as opening,
        pytest.raises(BrokerUnavailable, match="the broker at host:5672 cannot be used") as seen,
        broker_channel([pika.URLParameters("amqp://host:5672")]),
    ):
        pass
    opening.assert_called_once()
    known = as_consumer_error(seen.value)
    assert known is not None
    assert known.exit_code == exit_codes.UNREACHABLE


def raised(error: type[Exception]) -> Exception:
    """One that can be shown, which pika's can with the arguments that pika gives them."""
    for arguments in ((320, "gone"), (2, 1), ("gone", "gone"), ([OSError("gone")],), ("gone",)):
        try:
            made = error(*arguments)
            repr(made)
        except (TypeError, IndexError, AssertionError, AttributeError):
            continue
        return made
    raise AssertionError(f"no way to make a {error}")


@pytest.mark.parametrize(
    "error", [ValueError("why"), InvalidEvent("why"), UnicodeDecodeError("utf-8", b"", 0, 1, "why")]
)
def test_a_bad_value_is_bad_usage(error: ValueError) -> None:
    """As the contract raises it, or the URL of a server."""
    known = as_consumer_error(error)
    assert known is not None
    assert (known.exit_code, str(known)) == (exit_codes.USAGE, str(error))


@pytest.mark.parametrize("error", [KeyError("x"), AssertionError(), RuntimeError(), TypeError()])
def test_a_defect_of_ours_keeps_its_traceback(error: Exception) -> None:
    """It is no error of whoever called."""
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    def fail() -> None:
        raise error

    assert as_consumer_error(error) is None
    with own_streams(), patch("sys.argv", ["program"]), pytest.raises(type(error)):
        run_program(app, "program", meaning_to_caller)


def test_an_error_ends_a_command_with_its_line_and_code(capfd: pytest.CaptureFixture[str]) -> None:
    """On standard error, and what it quotes cannot pass for a line of another program."""
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    def fail() -> None:
        raise errors.LetterError("there is no letter \x1b[2J\n7")

    with own_streams(), patch("sys.argv", ["program"]), pytest.raises(SystemExit) as ended:
        run_program(app, "program", meaning_to_caller)
    assert ended.value.code == exit_codes.NOT_MET
    assert capfd.readouterr() == ("", "program: there is no letter �[2J\n  7\n")
