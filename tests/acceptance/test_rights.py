"""Each user may do its part, and nothing else: on the broker and in the database."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import ChannelClosedByBroker
from psycopg2.errors import InsufficientPrivilege
from sqlalchemy import Engine, make_url, text
from sqlalchemy.exc import DBAPIError

from mirrorfeed.amqp.connections import Addresses
from mirrorfeed.consumer.apply.applier import Applier
from mirrorfeed.consumer.branches.listing import Sort
from mirrorfeed.consumer.database import open_engine
from mirrorfeed.consumer.dead_letters.store import Selection
from mirrorfeed.consumer.operations.preview import preview
from mirrorfeed.consumer.operations.store import Kind as OperationKind
from mirrorfeed.consumer.partitions.topology import declare_topology
from mirrorfeed.consumer.web.app import PAGES
from mirrorfeed.contract import environment, routing, wire
from mirrorfeed.publisher import BranchStatusClient
from mirrorfeed.publisher.forward.forwarder import Forwarder
from sandbox import PrivateRabbitMQ, own_database
from sandbox.servers import ADVISED_CONF
from tests.builders import failed, messages, started
from tests.commands import Shell
from tests.pages import opened
from tests.servers import (
    PATIENCE_SECONDS,
    branch,
    delete_topology,
    new_database,
    publish_events,
    register_branches,
    rows,
    take_all,
    wait_for,
    wait_for_rows,
)
from tests.traps import set_traps

ROOT = Path(__file__).parents[2]
BROKER_USERS = ("puller", "worker", "setup")
DATABASE_USERS = {
    "olga": "mirrorfeed_operator",
    "rosa": "mirrorfeed_reader",
    "worker": "mirrorfeed_consumer",
}
FOLDED = "SELECT first, last FROM ledger_range"


@pytest.fixture(scope="module")
def broker() -> Iterator[PrivateRabbitMQ]:
    """A broker that is set up as docs/security.md says."""
    with PrivateRabbitMQ(ADVISED_CONF) as broker:
        for user in BROKER_USERS:
            broker.control("add_user", user, typed=f"{user}-pw\n")
        definitions = ROOT / "packaging" / "rabbitmq" / "definitions.json"
        broker.control("import_definitions", str(definitions))
        wait_for(
            lambda: all(user in broker.control("list_permissions") for user in BROKER_USERS),
            "the definitions",
        )
        yield broker


def broker_url(broker: PrivateRabbitMQ, user: str) -> str:
    return broker.url.replace("guest:guest", f"{user}:{user}-pw")


@pytest.fixture(scope="module")
def owner_url() -> Iterator[str]:
    """A database whose owner is no superuser, and users with roles.sql's roles."""
    with own_database() as server, new_database(make_url(server.url)) as url:
        superuser = open_engine(url.render_as_string(hide_password=False))
        with superuser.begin() as connection:
            connection.execute(text("CREATE ROLE owner LOGIN CREATEROLE PASSWORD 'owner-pw'"))
            connection.execute(text(f'ALTER DATABASE "{url.database}" OWNER TO owner'))
            connection.execute(text("ALTER SCHEMA public OWNER TO owner"))
            # What PostgreSQL 14 grants to everybody.
            connection.execute(text("CREATE ROLE mallory"))
            connection.execute(text("GRANT CREATE ON SCHEMA public TO mallory"))
            connection.execute(text("SET LOCAL ROLE mallory"))
            set_traps(connection)
        owner = url.set(username="owner", password="owner-pw")
        yield owner.render_as_string(hide_password=False)
        superuser.dispose()


def database_url(owner_url: str, user: str) -> str:
    return owner_url.replace("owner:owner-pw", f"{user}:{user}-pw")


@pytest.fixture
def shells(
    broker: PrivateRabbitMQ, owner_url: str, tmp_path: Path
) -> Iterator[Callable[[str, str], Shell]]:
    """Makes the shell of a broker's user and a database's user; both servers are set up, by the
    users who may, and empty."""

    def shell(broker_user: str = "nobody", database_user: str = "nobody") -> Shell:
        return Shell(
            {
                environment.AMQP_URL: broker_url(broker, broker_user),
                environment.DATABASE_URL: database_url(owner_url, database_user),
                environment.SPOOL: str(tmp_path / "spool.db"),
            }
        )

    shell("setup", "owner").run("mirror-consumer", "init")
    owner = open_engine(owner_url)
    with owner.begin() as connection:
        # Past SQLAlchemy, which would mind its per cents.
        connection.connection.cursor().execute((ROOT / "roles.sql").read_text())
        existing = set(connection.scalars(text("SELECT rolname FROM pg_roles")))
        for user, role in DATABASE_USERS.items():
            if user not in existing:
                connection.execute(
                    text(f"CREATE ROLE {user} LOGIN PASSWORD '{user}-pw' IN ROLE {role}")
                )
        connection.execute(
            text(
                "TRUNCATE branch, script_activity, dead_letter, ledger_arrival, source, operation"
                " RESTART IDENTITY CASCADE"
            )
        )
    owner.dispose()
    yield shell
    delete_topology(broker.url)


@pytest.fixture
def engine(owner_url: str, shells: object) -> Iterator[Engine]:
    """The owner's, to look."""
    engine = open_engine(owner_url)
    yield engine
    engine.dispose()


def is_refused(url: str, action: Callable[[BlockingChannel], object]) -> bool:
    """Whether the broker does not allow what is tried in a channel of its own."""
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        try:
            action(channel)
        except ChannelClosedByBroker as error:
            return bool(error.reply_code == 403)
    return False


def publish_to(exchange: str, routing_key: str) -> Callable[[BlockingChannel], object]:
    return lambda channel: channel.basic_publish(exchange, routing_key, b"{}")


NOT_A_PULLERS: dict[str, Callable[[BlockingChannel], object]] = {
    "get": lambda channel: channel.basic_get("mirror.events.p0"),
    "consume": lambda channel: channel.basic_consume("mirror.dead", lambda *_: None),
    "purge": lambda channel: channel.queue_purge("mirror.events.p0"),
    "delete a queue": lambda channel: channel.queue_delete("mirror.events.p0"),
    "delete the exchange": lambda channel: channel.exchange_delete("mirror.events"),
    "declare a queue": lambda channel: channel.queue_declare("mine"),
    "declare an exchange": lambda channel: channel.exchange_declare("mirror.events.mine"),
    "bind": lambda channel: channel.queue_bind("mirror.events.p0", "mirror.events", "#"),
    "publish into a queue": publish_to("", "mirror.events.p0"),
    "publish to the dead": publish_to("mirror.dead", ""),
    "publish to another exchange": publish_to("amq.topic", "mirror.started.00"),
}
NOT_A_WORKERS: dict[str, Callable[[BlockingChannel], object]] = {
    "publish": publish_to("mirror.events", "mirror.started.00"),
    "publish into a queue": publish_to("", "mirror.events.p0"),
    "publish to the dead": publish_to("mirror.dead", ""),
    "delete a queue": lambda channel: channel.queue_delete("mirror.events.p0"),
    "delete the exchange": lambda channel: channel.exchange_delete("mirror.events"),
    "declare a queue": lambda channel: channel.queue_declare("mine"),
    "bind": lambda channel: channel.queue_bind("mirror.events.p0", "mirror.events", "#"),
    "unbind": lambda channel: channel.queue_unbind("mirror.events.p0", "mirror.events", "*.*.00"),
    "read others": lambda channel: channel.basic_get("others"),
}
NOT_A_SETUPS: dict[str, Callable[[BlockingChannel], object]] = {
    "publish": publish_to("mirror.events", "mirror.started.00"),
    "declare another queue": lambda channel: channel.queue_declare("mirror.events.p0.mine"),
    "declare another exchange": lambda channel: channel.exchange_declare("my.mirror.events"),
    "read others": lambda channel: channel.basic_get("others"),
}


@pytest.mark.parametrize(
    ("user", "actions"),
    [("puller", NOT_A_PULLERS), ("worker", NOT_A_WORKERS), ("setup", NOT_A_SETUPS)],
)
def test_a_broker_user_may_do_nothing_else(
    broker: PrivateRabbitMQ,
    shells: object,
    user: str,
    actions: dict[str, Callable[[BlockingChannel], object]],
) -> None:
    """Everything outside a user's part is refused with 403, and its part is allowed."""
    with pika.BlockingConnection(pika.URLParameters(broker.url)) as connection:
        connection.channel().queue_declare("others", exclusive=False)
    url = broker_url(broker, user)
    assert [name for name, action in actions.items() if not is_refused(url, action)] == []
    with pika.BlockingConnection(pika.URLParameters(broker.url)) as connection:
        connection.channel().queue_delete("others")
    own = {
        "puller": publish_to("mirror.events", "mirror.started.00"),
        "worker": lambda channel: channel.basic_get("mirror.events.p0"),
        "setup": lambda channel: declare_topology(channel, routing.DEFAULT_PARTITIONS),
    }
    assert not is_refused(url, own[user])


def test_a_puller_cannot_speak_as_another_user(broker: PrivateRabbitMQ, shells: object) -> None:
    """The broker compares the user named in a message with that of its connection."""
    with pika.BlockingConnection(pika.URLParameters(broker_url(broker, "puller"))) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        with pytest.raises(ChannelClosedByBroker) as error:
            channel.basic_publish(
                "mirror.events", "mirror.started.00", b"", pika.BasicProperties(user_id="setup")
            )
    assert error.value.reply_code == 406


NOT_A_CONSUMERS = (
    "DELETE FROM branch",
    "UPDATE branch SET unique_name = 'mine'",
    "UPDATE branch SET url = 'https://elsewhere'",
    "UPDATE branch SET id = 2",
    "INSERT INTO branch (id, unique_name) VALUES (2, 'two')",
    "DELETE FROM mirror_attempt",
    "UPDATE mirror_attempt SET started_at = now()",
    "UPDATE mirror_attempt SET branch_id = 2",
    "SELECT * FROM script_activity",
    "UPDATE script_activity SET date_completed = now()",
    "DELETE FROM script_activity",
    "DELETE FROM dead_letter",
    "UPDATE dead_letter SET body = ''",
    "UPDATE dead_letter SET note = ''",
    "UPDATE ledger_range SET last = 9",
    "UPDATE ledger_arrival SET source = 'x'",
    "DELETE FROM source",
    "UPDATE source SET uri = 'x'",
    "SELECT * FROM ledger_decision",
    "INSERT INTO ledger_decision DEFAULT VALUES",
    "INSERT INTO ledger_forgotten DEFAULT VALUES",
    "SELECT * FROM letter_overflow",
    "DELETE FROM letter_overflow",
    "UPDATE letter_overflow SET resolved_at = now()",
    "INSERT INTO letter_overflow (reason, digests, note) VALUES ('invalid', '{}', 'x')",
    "UPDATE pruned_attempts SET failures = 0",
    "SELECT * FROM operation",
    "INSERT INTO operation DEFAULT VALUES",
    "INSERT INTO operation_piece DEFAULT VALUES",
    "TRUNCATE branch CASCADE",
    "DROP TABLE branch",
    "ALTER TABLE branch ADD color text",
    "CREATE TABLE mine ()",
    "SET ROLE mirrorfeed_operator",
)
NOT_AN_OPERATORS = (
    "DELETE FROM branch",
    "UPDATE branch SET id = 2",
    "UPDATE mirror_attempt SET started_at = now()",
    "DELETE FROM script_activity",
    "UPDATE dead_letter SET first_seen_at = now()",
    "UPDATE letter_overflow SET digests = '{}'",
    "DELETE FROM source",
    "UPDATE ledger_decision SET note = 'x'",
    "DELETE FROM ledger_decision",
    "UPDATE operation SET actor = 'x'",
    "UPDATE operation SET letters = 0",
    "INSERT INTO operation (kind, state, asked, actor, database_user)"
    " VALUES ('apply', 'done', '{}', 'x', 'somebody else')",
    "UPDATE operation_piece SET letter_ids = '{}'",
    "INSERT INTO ledger_decision (kind, source_id, first, last, note, decided_by)"
    " VALUES ('accept', 1, 1, 1, 'x', 'somebody else')",
    "TRUNCATE branch CASCADE",
    "DROP TABLE branch",
    "CREATE TABLE mine ()",
)
TABLES = (
    "branch",
    "mirror_attempt",
    "script_activity",
    "dead_letter",
    "ledger_arrival",
    "source",
    "ledger_range",
    "ledger_decision",
    "ledger_forgotten",
    "letter_overflow",
    "pruned_attempts",
    "operation",
    "operation_piece",
)
NOT_A_READERS = (
    *(f"INSERT INTO {table} DEFAULT VALUES" for table in TABLES),
    *(f"DELETE FROM {table}" for table in TABLES),
    "UPDATE branch SET mirror_failures = 0",
    "UPDATE mirror_attempt SET outcome = NULL",
    "UPDATE dead_letter SET state = 'replayed'",
    "UPDATE letter_overflow SET resolved_at = now()",
    "SELECT id FROM branch FOR KEY SHARE",
    "CREATE TABLE mine ()",
)


@pytest.mark.parametrize(
    ("user", "statements"),
    [("worker", NOT_A_CONSUMERS), ("olga", NOT_AN_OPERATORS), ("rosa", NOT_A_READERS)],
)
def test_a_database_user_may_do_nothing_else(
    owner_url: str, shells: object, user: str, statements: tuple[str, ...]
) -> None:
    """PostgreSQL refuses each statement for lack of the right, whatever the tables hold."""
    engine = open_engine(database_url(owner_url, user))
    assert [each for each in statements if not is_forbidden(engine, each)] == []
    engine.dispose()


def is_forbidden(engine: Engine, statement: str) -> bool:
    with engine.connect() as connection:
        try:
            connection.execute(text(statement))
        except DBAPIError as error:
            return isinstance(error.orig, InsufficientPrivilege)
    return False


def test_everybody_does_their_part(
    broker: PrivateRabbitMQ, shells: Callable[[str, str], Shell], engine: Engine, tmp_path: Path
) -> None:
    """Puller, worker, operator and reader each manage with only their own rights."""
    puller = shells("puller", "nobody")
    worker = shells("worker", "worker")
    operator = shells("nobody", "olga")
    reader = shells("nobody", "rosa")
    operator.run("mirror-consumer", "branches", "add", "1", "one", "--url", "https://host/1")
    with puller.running("mirror-publisher", "forward"), worker.running("mirror-consumer", "run"):
        puller.run("mirror-publisher", "started", "1")
        puller.run("mirror-publisher", "completed", "1", "rev-1")
        puller.run("mirror-publisher", "failed", "404", "why")
        puller.run("mirror-publisher", "failed", "405", "why")
        puller.run("mirror-publisher", "run-script", "gc", "--", "true")
        wait_for_rows(engine, "SELECT reason FROM dead_letter", [("unknown-branch",)] * 2)
        wait_for_rows(engine, "SELECT last_mirrored_id FROM branch", [("rev-1",)])
        wait_for_rows(engine, "SELECT name FROM script_activity", [("gc",)])
        worker.run("mirror-consumer", "health")
    worker.run("mirror-consumer", "run", "--drain")
    assert rows(engine, FOLDED) == [(1, 5)]
    # The same letters again, over an existing row.
    publish_events(broker.url, *(failed(number, 0, "x") for number in (404, 406, 406)))
    worker.run("mirror-consumer", "run", "--drain")
    # One more, which is not kept.
    publish_events(broker.url, failed(407, 0, "x"))
    worker.run("mirror-consumer", "run", "--drain", "--letters-per-hour", "1")

    file = tmp_path / "branches.csv"
    file.write_text(
        "id,unique_name,last_mirror_attempt,last_mirrored\n"
        "404,four,,\n2,two,2026-01-01T00:00Z,2026-01-01T00:00Z\n"
    )
    operator.run("mirror-consumer", "branches", "import", str(file))
    operator.run("mirror-replay", "apply", "--branch", "404", "--dry-run")
    operator.run("mirror-replay", "apply", "--branch", "404")
    assert branch(engine, 404).mirror_failures == 2
    ((letter,),) = rows(engine, "SELECT id FROM dead_letter WHERE branch_id = 405")
    shown = json.loads(operator.run("mirror-replay", "show", str(letter), "--json").stdout)
    body = json.loads(shown["body"])
    mended = tmp_path / "body.json"
    body |= {"subject": "404", "partitionkey": "branch:404"}
    body["data"]["branch_id"] = 404
    mended.write_text(json.dumps(body))
    operator.run("mirror-replay", "edit", str(letter), "--body-file", str(mended))
    operator.run("mirror-replay", "discard", str(letter), "--note", "no matter")
    operator.run("mirror-replay", "restore", str(letter))
    operator.run("mirror-replay", "apply", str(letter))
    reader.run("mirror-consumer", "audit", expect=1)
    overflow = ("--overflow", "--all")
    for arguments in (("discard", "--note", "x"), ("restore",), ("discard", "--note", "x")):
        said = operator.run("mirror-replay", *arguments, *overflow).stdout
        assert said.startswith("1 message not kept ")
    exported = tmp_path / "letters.jsonl"
    exported.write_text(operator.run("mirror-replay", "export").stdout)
    operator.run("mirror-replay", "import", str(exported))
    operator.run("mirror-consumer", "branches", "rename", "404", "vier")
    operator.run("mirror-consumer", "branches", "update", "vier", "--url", "https://host/4")
    refused = operator.run("mirror-consumer", "branches", "remove", "vier", "--yes", expect=2)
    assert "only the owner of the tables may" in refused.stderr
    ((source,),) = rows(engine, "SELECT uri FROM source ORDER BY id LIMIT 1")
    note = ("--note", "a test")
    operator.run("mirror-consumer", "sources", "forget", source, "--above", "1", *note)
    with engine.begin() as connection:
        connection.execute(
            text("INSERT INTO ledger_arrival (source, sequences) VALUES (:uri, '{9}')"),
            {"uri": source},
        )
    operator.run("mirror-consumer", "audit", "accept", source, "2", "8", *note)
    operator.run("mirror-consumer", "audit", "undo", "1", *note)
    assert rows(engine, "SELECT DISTINCT decided_by FROM ledger_decision") == [("olga",)]
    operator.run("mirror-consumer", "rebuild")
    operator.run("mirror-consumer", "prune", "--keep", "0")
    assert rows(engine, "SELECT count(*) FROM dead_letter WHERE state <> 'dead'") == [(0,)]

    looking = [
        reader.start(*command.split())
        for command in (
            "mirror-consumer status",
            "mirror-consumer history 1",
            "mirror-consumer branches show 404",
            "mirror-consumer scripts",
            "mirror-consumer audit",
            "mirror-consumer audit decisions",
            "mirror-consumer sources",
            "mirror-replay list --group",
            "mirror-replay list --overflow",
            "mirror-replay export",
        )
    ]
    seen = [process.communicate(timeout=30) for process in looking]
    for process, (output, log) in zip(looking, seen, strict=True):
        assert process.returncode == 0, log
        assert output != ""
    reader.run("mirror-consumer", "check-scripts", "60", "nowhere:gc", expect=1)
    shells("nobody", "owner").run("mirror-consumer", "branches", "remove", "vier", "--yes")
    refused = reader.run("mirror-consumer", "branches", "add", "3", "three", expect=2)
    assert "permission denied for table branch; give this database user" in refused.stderr


def test_a_reader_sees_every_page(
    shells: Callable[[str, str], Shell], engine: Engine, broker: PrivateRabbitMQ, owner_url: str
) -> None:
    """In a schema full of functions and operators that would fit better than PostgreSQL's own."""
    register_branches(engine, 1)
    Applier(engine).apply(messages(failed(1, 0, "why"), started(2, 0)))
    preview(engine, OperationKind.APPLY, Selection(), "olga")
    with opened(database_url(owner_url, "rosa"), broker_url(broker, "worker")) as site:
        for path in PAGES:
            address = path.format(branch_id=1, letter_id=1, operation_id=1)
            assert site.document(f"{address}.json")["at"]
        for sort in Sort:
            for query in ("reverse=1", "name=b1&host=vostok&older=1d&need=1"):
                assert site.ask(f"/branches?sort={sort}&{query}").status == 200
        for query in ("by=reason", "by=host", "by=branch", "like=1&host=vostok&branch=2"):
            assert site.ask(f"/letters?{query}").status == 200
        assert "b1" in site.ask("/branches.csv").text
        wait_for(lambda: site.document("/workers.json")["partitions"] != [], "the partitions")
        assert site.document("/workers.json")["broker_is_away"] is None


def test_an_operator_operates_and_a_reader_is_told_why_not(
    shells: Callable[[str, str], Shell], engine: Engine, broker: PrivateRabbitMQ, owner_url: str
) -> None:
    """From the page: PostgreSQL decides, and the page says what it will say."""
    Applier(engine).apply(messages(failed(1, 0, "why"), failed(2, 0, "why")))
    register_branches(engine, 1)
    place = broker_url(broker, "worker")
    form = {"do": "apply-all"}
    with opened(database_url(owner_url, "rosa"), place, may_operate=True) as site:
        answer = site.post("/letters/preview", form)
        assert (answer.status, "only a reader&#39;s rights" in answer.text) == (403, True)
    with opened(database_url(owner_url, "olga"), place, may_operate=True) as site:
        for do in ("apply-all", "discard-all"):
            path = site.post("/letters/preview", {"do": do}).headers["location"]
            assert site.post(f"{path}/start", {"note": "no matter"}).status == 303
            wait_for_rows(engine, "SELECT DISTINCT state FROM operation", [("done",)])
        states = "SELECT state FROM dead_letter ORDER BY branch_id"
        assert rows(engine, states) == [("replayed",), ("discarded",)]
        undone = site.post(f"{path}/undo").headers["location"]
        site.post(f"{undone}/start")
        wait_for_rows(engine, states, [("replayed",), ("dead",)])
        body = wire.encode(failed(1, 9, "edited")).decode()
        (letter,) = rows(engine, "SELECT id FROM dead_letter WHERE branch_id = 2")
        (version,) = re.findall('name="version" value="(.*)"', site.html(f"/letters/{letter.id}"))
        edit = {"body": body, "save": "1", "version": version}
        assert site.post(f"/letters/{letter.id}/edit", edit).status == 303


def test_a_worker_that_may_not_declare_waits_for_its_queue(
    broker: PrivateRabbitMQ, shells: Callable[[str, str], Shell], engine: Engine
) -> None:
    """It says which queue is missing and who must declare it, then goes on."""
    shells("nobody", "olga").run("mirror-consumer", "branches", "add", "1", "one")
    service = shells("worker", "worker").start("mirror-consumer", "run")
    assert service.stderr is not None
    try:
        publish_events(broker.url, failed(1, 0, "x"))
        wait_for_rows(engine, "SELECT mirror_failures FROM branch", [(1,)])
        with pika.BlockingConnection(pika.URLParameters(broker.url)) as connection:
            connection.channel().queue_delete("mirror.events.p2")
        for line in service.stderr:
            if "there is no queue mirror.events.p2, and this user may not declare it" in line:
                break
        assert "run mirror-consumer init" in line
        shells("setup", "owner").run("mirror-consumer", "init")
        publish_events(broker.url, failed(1, 1, "x"))
        wait_for_rows(engine, "SELECT mirror_failures FROM branch", [(2,)])
    finally:
        service.terminate()
        service.communicate(timeout=10)


def test_what_no_required_user_published_is_buried(
    broker: PrivateRabbitMQ, shells: Callable[[str, str], Shell], engine: Engine
) -> None:
    """It is buried as invalid and does not count as arrived; a puller's own event is applied."""
    shells("nobody", "olga").run("mirror-consumer", "branches", "add", "1", "one")
    puller = shells("puller", "nobody")
    puller.run("mirror-publisher", "failed", "1", "why")
    puller.run("mirror-publisher", "forward", "--drain")
    forged = started(1, 0)
    publish_events(broker.url, forged)
    shells("worker", "worker").run("mirror-consumer", "run", "--drain", "--require-user", "puller")
    assert rows(engine, "SELECT count(*) FROM mirror_attempt") == [(1,)]
    ((reason, detail, event_id),) = rows(engine, "SELECT reason, detail, event_id FROM dead_letter")
    assert (reason, event_id) == ("invalid", forged.id)
    assert detail.startswith("published by an unnamed user, but --require-user demands puller")
    assert rows(engine, FOLDED) == [(1, 1)]


class RenamedCredentials(pika.PlainCredentials):  # type: ignore[misc]
    """Logs in as one user and calls itself by another name, as with a token."""

    def response_for(self, start: Any) -> Any:
        return pika.PlainCredentials("puller", "puller-pw").response_for(start)


class RenamedAddresses(Addresses):
    def __next__(self) -> pika.URLParameters:
        parameters = super().__next__()
        parameters.credentials = RenamedCredentials("jane", "")
        return parameters


def test_a_user_whom_the_broker_calls_otherwise_still_publishes(
    broker: PrivateRabbitMQ, shells: object, tmp_path: Path
) -> None:
    """Its events go out without a user name, and none is set aside."""
    waiting = BranchStatusClient(tmp_path / "renamed.db", forward=False)
    for branch_id in range(1, 21):
        waiting.start_mirroring(branch_id)
    forwarder = Forwarder(tmp_path / "renamed.db", broker_url(broker, "puller"))
    forwarder._addresses = RenamedAddresses(broker_url(broker, "puller"), name="renamed")
    forwarder.wake()
    taken = take_all(broker.url, 20)
    assert waiting.flush(timeout_seconds=PATIENCE_SECONDS)
    forwarder.stop()
    waiting.close()
    assert {properties.user_id for properties, _ in taken} == {None}


def test_a_message_names_the_user_who_published_it(
    broker: PrivateRabbitMQ, shells: object, tmp_path: Path
) -> None:
    """The broker has checked that."""
    client = BranchStatusClient(tmp_path / "own.db", broker_url(broker, "puller"))
    client.start_mirroring(1)
    ((properties, _),) = take_all(broker.url, 1)
    client.close()
    assert properties.user_id == "puller"


def test_setup_changes_the_number_of_partitions(
    broker: PrivateRabbitMQ, shells: Callable[[str, str], Shell], engine: Engine
) -> None:
    """It needs an operator's rights in the database, and workers keep running meanwhile."""
    setup = shells("setup", "olga")
    worker = shells("worker", "worker")
    register_branches(engine, 1)
    with worker.running("mirror-consumer", "run"):
        for count in ("3", "4"):
            setup.run("mirror-consumer", "topology", "--partitions", count)
            publish_events(broker.url, failed(1, int(count), "x"))
        wait_for_rows(engine, "SELECT mirror_failures FROM branch", [(2,)])


def test_nobody_can_put_a_function_in_anothers_way(
    shells: Callable[..., Shell], owner_url: str
) -> None:
    """PostgreSQL 14 lets everybody create an overload of a function that others call. `init` warns
    of it, and roles.sql ends it."""
    owner = open_engine(owner_url)
    reader = open_engine(database_url(owner_url, "rosa"))
    overload = """
        CREATE FUNCTION public.unnest(bigint[]) RETURNS SETOF bigint
        LANGUAGE sql AS $$ SELECT 1::bigint $$
    """
    try:
        with owner.begin() as connection:
            connection.execute(text("GRANT CREATE ON SCHEMA public TO PUBLIC"))
        warning = shells("setup", "owner").run("mirror-consumer", "init").stderr
        assert "every user may create functions in the schema public" in warning
        with owner.begin() as connection:
            connection.connection.cursor().execute((ROOT / "roles.sql").read_text())
        with (
            pytest.raises(DBAPIError, match="permission denied for schema public"),
            reader.begin() as connection,
        ):
            connection.exec_driver_sql(overload)
        assert shells("setup", "owner").run("mirror-consumer", "init").stderr == ""
    finally:
        owner.dispose()
        reader.dispose()
