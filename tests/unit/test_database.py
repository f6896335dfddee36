"""Database URLs, and whose fault an error is."""

from collections.abc import Callable

import pytest

from mirrorfeed.consumer.database import open_engine

ArgumentsOf = Callable[[str], dict[str, object]]


class Connected(Exception):
    """Raised in place of connecting."""


@pytest.fixture
def arguments_of(monkeypatch: pytest.MonkeyPatch) -> ArgumentsOf:
    """What psycopg2 would be called with for a URL."""

    def arguments_of(url: str) -> dict[str, object]:
        seen: dict[str, object] = {}

        def look(**arguments: object) -> None:
            seen.update(arguments)
            raise Connected

        monkeypatch.setattr("psycopg2.connect", look)
        with pytest.raises(Connected):
            open_engine(url).connect()
        return seen

    return arguments_of


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://jane:s3cret@host:5433/mirrorfeed",
        "postgresql+psycopg2://jane:s3cret@host:5433/mirrorfeed",
        "postgres://jane:s3cret@host:5433/mirrorfeed",
        "host=host port=5433 user=jane password='s3cret' dbname=mirrorfeed",
    ],
)
def test_every_usual_spelling_means_the_same(arguments_of: ArgumentsOf, dsn: str) -> None:
    """URLs with the three schemes that people have, and libpq's keywords and values."""
    arguments = arguments_of(dsn)
    assert arguments["host"] == "host"
    assert arguments["port"] == "5433"
    assert arguments["user"] == "jane"
    assert arguments["password"] == "s3cret"
    assert arguments["dbname"] == "mirrorfeed"
    assert arguments["connect_timeout"] == 5


def test_what_the_url_says_holds(arguments_of: ArgumentsOf) -> None:
    """Our arguments only fill what it leaves open, and nothing is put before its server options."""
    arguments = arguments_of(
        "postgresql://host/x?connect_timeout=9&sslmode=require&options=-c%20lock_timeout%3D1s"
    )
    assert arguments["connect_timeout"] == "9"
    assert arguments["sslmode"] == "require"
    assert arguments["options"] == "-c lock_timeout=1s"


@pytest.mark.parametrize(
    ("url", "hosts", "ports"),
    [
        ("postgresql://u:p%2Cw@a:1,b:2/x?", "a,b", "1,2"),
        ("postgresql+psycopg2://u:p%2Cw@a:1,[::1]:2/x?", "a,::1", "1,2"),
    ],
)
def test_several_hosts_are_left_to_libpq(
    arguments_of: ArgumentsOf, url: str, hosts: str, ports: str
) -> None:
    """Both libpq's and SQLAlchemy's spelling of them work."""
    arguments = arguments_of(f"{url}target_session_attrs=read-write")
    assert arguments["host"] == hosts
    assert arguments["port"] == ports
    assert arguments["dbname"] == "x"
    assert arguments["password"] == "p,w"
    assert arguments["target_session_attrs"] == "read-write"


def test_a_list_of_hosts_is_enough(arguments_of: ArgumentsOf) -> None:
    """libpq fills in the rest, as it does for a URL with one host. The startup message has nothing
    of ours that a pooler would refuse."""
    arguments = arguments_of("postgresql://a,b")
    assert arguments["host"] == "a,b"
    assert "user" not in arguments
    assert "options" not in arguments


@pytest.mark.parametrize(
    "dsn",
    ["mysql://u:s3cret@host/x", "host/s3cret", "", "postgresql://u:s3cret@host/x?bogus=1"],
)
def test_another_url_is_refused(dsn: str) -> None:
    """The error shows an example of a good one."""
    with pytest.raises(ValueError, match="look like postgresql://user:password@host") as error:
        open_engine(dsn)
    assert "s3cret" not in str(error.value)
