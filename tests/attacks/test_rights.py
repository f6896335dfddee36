"""What a database user who may only read can do to the others: not stop them, and not speak as
them, even where everybody may create functions, as PostgreSQL 14 lets them."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from psycopg2.errors import InsufficientPrivilege
from sqlalchemy import Engine, make_url, text
from sqlalchemy.exc import DBAPIError

from mirrorfeed.consumer import migrations
from mirrorfeed.consumer.apply.applier import Applier
from mirrorfeed.consumer.apply.ledger import fold
from mirrorfeed.consumer.branches.rebuild import rebuild
from mirrorfeed.consumer.database import open_engine
from mirrorfeed.consumer.partitions.assignment import LOCK_CLASS, Membership
from mirrorfeed.consumer.partitions.layout import (
    keep_unchanging_out,
    moving_layout,
    unchanging_layout,
)
from sandbox import own_database
from tests.servers import new_database, register_branches, rows

ROOT = Path(__file__).parents[2]
USERS = {
    "olga": "mirrorfeed_operator",
    "rosa": "mirrorfeed_reader",
    "worker": "mirrorfeed_consumer",
}
LOCKS_OF_0_1_0 = (0x6D6972726F72, 0x746F706F, 0x6D6F7665, 0x6C6564676572)
"""Advisory locks that `init`, declaring, moving and folding took."""
EXPENSIVE = """
    CREATE FUNCTION public.unnest(bigint[]) RETURNS SETOF bigint LANGUAGE plpgsql AS $$
    BEGIN
        DELETE FROM mirror_attempt WHERE branch_id = 1;
        RETURN QUERY SELECT pg_catalog.unnest($1);
    END $$
"""
"""What was called by everybody who computed a branch."""
UNSEEN = """
    CREATE FUNCTION public.same(bigint[], bigint[]) RETURNS boolean LANGUAGE sql
        AS $$ DELETE FROM mirror_attempt WHERE branch_id = 1; SELECT true $$;
    CREATE OPERATOR public.= (FUNCTION = public.same, LEFTARG = bigint[], RIGHTARG = bigint[])
"""

As = Callable[[str], Engine]


@pytest.fixture(scope="module")
def engine_of() -> Iterator[As]:
    """Makes the engine of a user, in a database with roles.sql's roles where everybody may create
    something. It waits for a lock for a second only."""
    with (
        own_database() as server,
        new_database(make_url(server.url)) as url,
        ExitStack() as engines,
    ):

        def engine_of(user: str) -> Engine:
            as_user = url if user == "owner" else url.set(username=user, password=f"{user}-pw")
            dsn = as_user.render_as_string(hide_password=False)
            engine = open_engine(f"{dsn}?options=-c%20lock_timeout%3D1s")
            engines.callback(engine.dispose)
            return engine

        owner = engine_of("owner")
        migrations.bring_forward(owner)
        register_branches(owner, 1, 2)
        with owner.begin() as connection:
            # Past SQLAlchemy, which would mind its per cents.
            connection.connection.cursor().execute((ROOT / "roles.sql").read_text())
            for user, role in USERS.items():
                connection.execute(
                    text(f"CREATE ROLE {user} LOGIN PASSWORD '{user}-pw' IN ROLE {role}")
                )
            connection.execute(text("GRANT CREATE ON SCHEMA public TO PUBLIC"))
        yield engine_of


def test_a_reader_cannot_put_code_in_anothers_way(engine_of: As) -> None:
    """Neither a function nor an operator that fits better than PostgreSQL's own is ever called, by
    the worker's check or an operator's rebuild."""
    owner = engine_of("owner")
    with owner.begin() as connection:
        connection.execute(
            text("INSERT INTO mirror_attempt (branch_id, started_at) VALUES (1, now()), (2, now())")
        )
    with engine_of("rosa").begin() as connection:
        connection.exec_driver_sql(EXPENSIVE)
        connection.exec_driver_sql(UNSEEN)
    Applier(engine_of("worker")).check()
    assert rebuild(engine_of("olga"), [2]).checked == 1
    assert rows(owner, "SELECT branch_id FROM mirror_attempt ORDER BY 1") == [(1,), (2,)]


def test_names_are_looked_up_where_the_tables_are(engine_of: As) -> None:
    """Whatever the user's own search path is, and in nobody's temporary tables."""
    engine = engine_of("worker")
    with engine_of("owner").begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA elsewhere")
        connection.exec_driver_sql("ALTER ROLE worker SET search_path = elsewhere, public")
    with engine.connect() as connection:
        assert connection.scalar(text("SHOW search_path")) == "public, pg_temp"
        connection.exec_driver_sql("CREATE TEMPORARY TABLE branch ()")
        assert connection.scalar(text("SELECT count(*) FROM branch")) == 2


def test_a_reader_cannot_keep_others_from_working(engine_of: As) -> None:
    """It holds every advisory lock that anybody ever took, and nobody waits for it."""
    worker, operator, owner = map(engine_of, ("worker", "olga", "owner"))
    with engine_of("rosa").connect() as reading:
        for key in LOCKS_OF_0_1_0:
            reading.execute(text("SELECT pg_advisory_lock(:key)"), {"key": key})
        for number in range(1, 100):
            reading.execute(
                text("SELECT pg_advisory_lock(:of, :number)"), {"of": LOCK_CLASS, "number": number}
            )
        for table in tables(owner):
            reading.execute(text(f"SELECT FROM {table}"))
        membership = Membership(worker, None)
        assert membership.take_part([], ["q"]).own == {"q"}
        membership.leave()
        with unchanging_layout(worker, 4) as layout:
            assert layout.partitions == 4
        with moving_layout(operator) as moving:
            keep_unchanging_out(moving)
        assert fold(worker)
        with owner.begin() as connection:
            connection.execute(migrations.LOCK_VERSION)
        reading.invalidate()  # and with it the locks


def test_a_reader_cannot_lock_more_than_its_own_rows(engine_of: As) -> None:
    """Every lock that would make a writer wait needs the right to write."""
    reader = engine_of("rosa")
    taken = [
        (table, mode)
        for table in tables(engine_of("owner"))
        for mode in ("ROW SHARE", "ROW EXCLUSIVE", "SHARE UPDATE EXCLUSIVE", "ACCESS EXCLUSIVE")
        if not is_refused(reader, f"LOCK TABLE {table} IN {mode} MODE")
    ]
    assert taken == []


def test_a_reader_cannot_speak_for_a_dead_worker(engine_of: As) -> None:
    """The others learn of its end from PostgreSQL at once, whoever holds a lock with its number."""
    dying, other = (Membership(engine_of("worker"), None) for _ in range(2))
    dying.take_part([], ["q"])
    other.take_part([], ["q"])
    owner = engine_of("owner")
    (number, served_by), _ = rows(owner, "SELECT number, backend_pid FROM worker ORDER BY number")
    rows(owner, f"SELECT pg_terminate_backend({served_by}, 10000)")
    with engine_of("rosa").connect() as reading:
        reading.execute(
            text("SELECT pg_advisory_lock(:of, :number)"), {"of": LOCK_CLASS, "number": number}
        )
        assert other.take_part([], ["q"]).own == {"q"}
    other.leave()


def tables(owner: Engine) -> list[str]:
    query = (
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    )
    return [name for (name,) in rows(owner, query)]


def is_refused(engine: Engine, statement: str) -> bool:
    with engine.connect() as connection:
        try:
            connection.execute(text(statement))
        except DBAPIError as error:
            return isinstance(error.orig, InsufficientPrivilege)
    return False
