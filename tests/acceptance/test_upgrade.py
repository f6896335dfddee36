"""From the tables of an older version to those of this one."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from alembic.script import ScriptDirectory
from msgspec.structs import replace
from sqlalchemy import Engine, text
from sqlalchemy.engine import URL

from mirrorfeed.amqp.connections import broker_channel, connection_parameters
from mirrorfeed.consumer import migrations
from mirrorfeed.consumer.database import SCHEMA_VERSION, open_engine
from mirrorfeed.consumer.partitions.topology import declare_topology
from mirrorfeed.contract import environment, routing, wire
from mirrorfeed.contract.tracing import Trace
from tests.builders import at, completed, failed, script_run, started
from tests.commands import Shell
from tests.servers import (
    OLDER_ARGUMENTS,
    branch,
    new_database,
    publish,
    publish_events,
    register_branches,
    rows,
    wait_for_rows,
)
from tests.traps import set_traps

ROOT = Path(__file__).parents[2]
VERSION_0_1_0 = "95d9f4323f7b1a1b77397bbb067788978e37119c"
NOT_SO = 1
USAGE = 2

# All that a table, an index or a function is. Columns that were added later come last in one of two
# tables that are the same otherwise.
CATALOG = """
    SELECT 'column', table_name || '.' || column_name, concat_ws(
        ' ', data_type, is_nullable, column_default, is_identity, identity_generation)
    FROM information_schema.columns WHERE table_schema = 'public'
    UNION ALL
    SELECT 'constraint', conrelid::regclass || '.' || conname, pg_get_constraintdef(oid)
    FROM pg_constraint WHERE connamespace = 'public'::regnamespace
    UNION ALL
    SELECT 'index', indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
    UNION ALL
    SELECT 'function', proname, pg_get_functiondef(oid)
    FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    UNION ALL
    SELECT 'options', relname, reloptions::text
    FROM pg_class WHERE relnamespace = 'public'::regnamespace AND reloptions IS NOT NULL
    UNION ALL
    SELECT 'replica identity', relname, relreplident::text
    FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
    UNION ALL
    SELECT 'view', viewname, definition FROM pg_views WHERE schemaname = 'public'
    UNION ALL
    SELECT 'version', version_num, NULL FROM schema_version
    ORDER BY 1, 2
"""


@pytest.fixture(scope="module")
def old_version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """0.1.0 as it was, from the history of this repository."""
    folder = tmp_path_factory.mktemp("0.1.0")
    archive = subprocess.run(
        ["git", "archive", VERSION_0_1_0, "contract", "publisher", "consumer", "schema.sql"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    subprocess.run(["tar", "--extract", "--file=-"], input=archive.stdout, cwd=folder, check=True)
    return folder


@pytest.fixture
def old_engine(template_url: URL, old_version: Path) -> Iterator[Engine]:
    """A database of 0.1.0."""
    with new_database(template_url) as url:
        engine = open_engine(url.render_as_string(hide_password=False))
        with engine.begin() as connection:
            connection.exec_driver_sql((old_version / "schema.sql").read_text())
            connection.execute(text("INSERT INTO topology (partitions) VALUES (4)"))
        yield engine
        engine.dispose()


def url_of(engine: Engine) -> str:
    query = "SELECT inet_server_addr()::text, inet_server_port(), current_database(), current_user"
    ((host, port, database, user),) = rows(engine, query)
    return f"postgresql://{user}@{host.split('/')[0]}:{port}/{database}"


def start_old(old_version: Path, shell: Shell, *command: str) -> "subprocess.Popen[str]":
    """`mirror-consumer` of 0.1.0."""
    return subprocess.Popen(
        [sys.executable, "-c", "from consumer.cli import main; main()", *command],
        cwd=old_version,
        env={**shell.environment(), "PYTHONPATH": str(old_version)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )


def finish(process: "subprocess.Popen[str]") -> str:
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0, output
    return output


def catalog(engine: Engine) -> list[Any]:
    return [tuple(row) for row in rows(engine, CATALOG)]


def test_there_is_one_newest_revision() -> None:
    """It is what the program needs."""
    config = migrations._config()
    assert ScriptDirectory.from_config(config).get_heads() == [SCHEMA_VERSION]
    assert migrations.newest() == SCHEMA_VERSION


def test_the_revisions_lead_to_the_schema(old_engine: Engine, engine: Engine) -> None:
    """The first published tables, brought forward, are those of `schema.sql`, to the last index."""
    migrations.bring_forward(old_engine)
    assert catalog(old_engine) == catalog(engine)


def test_what_is_in_the_tables_stays(old_engine: Engine, old_version: Path) -> None:
    """Every row of every table of a filled database."""
    with old_engine.begin() as connection:
        connection.exec_driver_sql(
            """
            INSERT INTO branch (id, unique_name) SELECT i, 'b' || i FROM generate_series(1, 50) i;
            INSERT INTO mirror_attempt (branch_id, started_at, finished_at, outcome, revision_id)
                SELECT id, now() - id * interval '1 minute', now(), 'completed', 'rev' FROM branch;
            INSERT INTO script_activity (name, hostname, date_started, date_completed)
                VALUES ('gc', 'vostok', now(), now());
            INSERT INTO dead_letter (reason, detail, body) VALUES ('invalid', 'bad', 'x');
            INSERT INTO ledger_source (source) VALUES ('/pullers/vostok/1'), ('other');
            INSERT INTO ledger_range (source_id, first, last, recorded_at)
                VALUES (1, 1, 70, '2026-01-01Z'), (1, 75, 75, '2026-01-02Z');
            INSERT INTO ledger_arrival (source, sequences) VALUES ('/pullers/vostok/1', '{72,73}');
            """
        )
    tables = ["branch", "mirror_attempt", "script_activity", "dead_letter", "topology"]
    tables += ["ledger_source", "ledger_range", "ledger_arrival"]
    before = {table: rows(old_engine, f"SELECT * FROM {table} ORDER BY 1") for table in tables}
    migrations.bring_forward(old_engine)
    for table in tables:
        after = rows(old_engine, f"SELECT * FROM {table} ORDER BY 1")
        assert [row[: len(before[table][0])] for row in after] == before[table], table
    assert rows(old_engine, "SELECT id, uri, hostname, first_heard_at::date::text FROM source") == [
        (1, "/pullers/vostok/1", "vostok", "2026-01-01"),
        (2, "other", None, rows(old_engine, "SELECT now()::date::text")[0][0]),
    ]


def test_init_can_be_repeated_by_several_at_once(old_engine: Engine) -> None:
    """Each waits for the one before, and finds nothing left to do."""
    with ThreadPoolExecutor() as threads:
        for each in [threads.submit(migrations.bring_forward, old_engine) for _ in range(4)]:
            each.result()
    assert rows(old_engine, "SELECT version_num FROM schema_version") == [(SCHEMA_VERSION,)]


def test_a_dba_gets_the_sql_to_run(old_engine: Engine, engine: Engine, shell: Shell) -> None:
    """`init --sql` prints it; what it prints does the whole work, and then there is no more."""
    shell = Shell({**shell.variables, environment.DATABASE_URL: url_of(old_engine)})
    check = shell.run("mirror-consumer", "init", "--check", expect=NOT_SO)
    assert (
        f"the tables have version 0001: mirror-consumer init brings them to {SCHEMA_VERSION}"
        in check.stderr
    )
    script = shell.run("mirror-consumer", "init", "--sql").stdout
    assert rows(old_engine, "SELECT to_regclass('schema_version')") == [(None,)]
    with old_engine.connect() as connection:
        connection.connection.cursor().execute(script)
        connection.commit()
    assert catalog(old_engine) == catalog(engine)
    shell.run("mirror-consumer", "init", "--check")
    assert shell.run("mirror-consumer", "init", "--sql").stdout == ""


def test_a_command_says_what_old_tables_need(old_engine: Engine, shell: Shell) -> None:
    """And does nothing to them."""
    shell = Shell({**shell.variables, environment.DATABASE_URL: url_of(old_engine)})
    for command in (("status",), ("run", "--drain")):
        result = shell.run("mirror-consumer", *command, expect=USAGE)
        assert (
            f"the tables have version 0001, but this program needs {SCHEMA_VERSION}:"
            " run mirror-consumer init" in result.stderr
        )


def test_the_schema_is_no_way_around_a_revision(old_engine: Engine) -> None:
    """`schema.sql` on older tables changes nothing, and says what does."""
    with (
        pytest.raises(Exception, match=r"version 0001: run mirror-consumer init"),
        old_engine.begin() as connection,
    ):
        connection.execution_options(no_parameters=True).exec_driver_sql(
            (ROOT / "schema.sql").read_text()
        )


def test_an_upgrade_runs_nobody_elses_code(old_engine: Engine) -> None:
    """Whatever others have created in the schema of the tables, for the owner to fall into."""
    with old_engine.begin() as connection:
        set_traps(connection)
    with old_engine.connect() as connection:
        assert migrations.script(connection) != ""
    migrations.bring_forward(old_engine)
    assert rows(old_engine, "SELECT version_num FROM schema_version") == [(SCHEMA_VERSION,)]


def test_an_older_worker_goes_on_while_the_tables_change(
    old_engine: Engine, old_version: Path, amqp_url: str, tmp_path: Path
) -> None:
    """Changes expand first: events before, during and after the upgrade are applied or buried, by
    an old worker alone, then by it and a new one side by side."""
    variables = {
        environment.AMQP_URL: amqp_url,
        environment.DATABASE_URL: url_of(old_engine),
        environment.SPOOL: str(tmp_path / "spool.db"),
    }
    shell = Shell(variables)
    register_branches(old_engine, *range(1, 9))
    finish(start_old(old_version, shell, "init"))
    worker = start_old(old_version, shell, "run")
    try:
        publish_events(amqp_url, *(started(number, 0) for number in range(1, 9)))
        counted = "SELECT count(*) FROM mirror_attempt"
        wait_for_rows(old_engine, counted, [(8,)])
        shell.run("mirror-consumer", "init")
        # An old worker knows nothing of traces.
        traced = Trace(f"00-{'4bf92f35' * 4}-00f067aa0ba902b7-01", "vendor=1")
        ended = (completed(number, 0, "r1") for number in range(1, 9))
        publish(amqp_url, *(wire.encode(each, traced) for each in ended))
        publish(amqp_url, b"no event")
        wait_for_rows(
            old_engine, "SELECT count(*) FROM branch WHERE last_mirrored_id = 'r1'", [(8,)]
        )
        wait_for_rows(old_engine, "SELECT reason FROM dead_letter", [("malformed",)])
        with shell.running("mirror-consumer", "run"):
            wait_for_rows(old_engine, "SELECT count(*) FROM worker WHERE queues <> '{}'", [(2,)])
            publish_events(
                amqp_url,
                *(failed(number, 60, "why") for number in range(1, 9)),
                script_run("gc", 0, 60),
            )
            wait_for_rows(
                old_engine, "SELECT count(*) FROM branch WHERE mirror_failures = 1", [(8,)]
            )
            wait_for_rows(old_engine, "SELECT count(*) FROM script_activity", [(1,)])
        assert worker.poll() is None
    finally:
        worker.terminate()
        finish(worker)
    assert branch(old_engine, 1).last_mirror_attempt == at(60)


def test_an_older_worker_folds_into_newer_tables(
    old_engine: Engine, old_version: Path, amqp_url: str
) -> None:
    """What it knew as `ledger_source` is the view of a table now, which knows more."""

    def publish_numbered(source: str, *numbers: int) -> None:
        events = [script_run("gc", number, number) for number in numbers]
        publish_events(
            amqp_url,
            *(
                replace(event, source=source, sequence=number)
                for event, number in zip(events, numbers, strict=True)
            ),
        )

    shell = Shell({environment.AMQP_URL: amqp_url, environment.DATABASE_URL: url_of(old_engine)})
    finish(start_old(old_version, shell, "init"))
    publish_numbered("/pullers/vostok/1", 1, 2)
    finish(start_old(old_version, shell, "run", "--drain"))
    migrations.bring_forward(old_engine)
    publish_numbered("/pullers/vostok/1", 3, 5)
    publish_numbered("/pullers/mir/1", 1)
    assert "not folded" not in finish(start_old(old_version, shell, "run", "--drain"))
    ranges = "SELECT hostname, first, last FROM ledger_range JOIN source ON id = source_id"
    assert rows(old_engine, f"{ranges} ORDER BY 1, 2") == [
        ("mir", 1, 1),
        ("vostok", 1, 3),
        ("vostok", 5, 5),
    ]


def test_older_queues_come_over_while_events_come(
    engine: Engine, amqp_url: str, database_url: str
) -> None:
    """`init` waits until a worker runs, then replaces them: every event is applied, none is buried,
    and the new queues have the new arguments."""
    with broker_channel(connection_parameters(amqp_url)) as channel:
        channel.exchange_declare("mirror.dead", "fanout", durable=True)
        for queue in routing.partition_queues(4):
            channel.queue_declare(queue, durable=True, arguments=OLDER_ARGUMENTS)
        declare_topology(channel, 4)
    register_branches(engine, *range(1, 9))
    shell = Shell({environment.AMQP_URL: amqp_url, environment.DATABASE_URL: database_url})
    assert "start one, then run mirror-consumer init again" in (
        shell.run("mirror-consumer", "init").stderr
    )
    published = 0
    stopping = Event()

    def publish_on() -> None:
        nonlocal published
        while not stopping.is_set():
            publish_events(amqp_url, *(failed(number, published, "why") for number in range(1, 9)))
            published += 1

    with shell.running("mirror-consumer", "run"), ThreadPoolExecutor(1) as threads:
        wait_for_rows(engine, "SELECT count(*) FROM worker WHERE queues <> '{}'", [(1,)])
        publishing = threads.submit(publish_on)
        try:
            shell.run("mirror-consumer", "init")
        finally:
            stopping.set()
            publishing.result()
        wait_for_rows(engine, "SELECT DISTINCT mirror_failures FROM branch", [(published,)])
    assert published > 1
    assert rows(engine, "SELECT count(*) FROM dead_letter") == [(0,)]
    with broker_channel(connection_parameters(amqp_url)) as channel:
        assert declare_topology(channel, 4) == []
    assert "older version" not in shell.run("mirror-consumer", "init").stderr
