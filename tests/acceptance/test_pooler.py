"""Behind PgBouncer: a session of one's own is enough, a transaction is not."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

import psycopg2
import pytest
from sqlalchemy import Engine, make_url

from mirrorfeed.contract import environment
from sandbox.ports import LOOPBACK, PortBlock
from tests.builders import at, completed
from tests.commands import Shell
from tests.servers import publish_events, register_branches, state_of, wait_for

PGBOUNCER = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin")

pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="pgbouncer is not installed")


@contextmanager
def pooler(database_url: str, pool_mode: str) -> Iterator[str]:
    """A PgBouncer as its package configures it, but for what it has to be told."""
    folder = Path(mkdtemp())
    url = make_url(database_url)
    ports = PortBlock()
    port = ports.ports[0]
    server = f"host={url.host} port={url.port} user={url.username} password={url.password or 'x'}"
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\n{url.database} = {server}\n"
        f"[pgbouncer]\nlisten_addr = {LOOPBACK}\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = any\npool_mode = {pool_mode}\n"
    )
    folder.chmod(0o755)
    # It refuses to run as root.
    user = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
    process = subprocess.Popen([str(PGBOUNCER), str(folder / "pgbouncer.ini")], **user)  # type: ignore[call-overload]
    pooled = url.set(host=LOOPBACK, port=port).render_as_string(hide_password=False)

    def answers() -> bool:
        assert process.poll() is None
        try:
            psycopg2.connect(pooled).close()
        except psycopg2.OperationalError:
            return False
        return True

    try:
        wait_for(answers, "PgBouncer")
        yield pooled
    finally:
        process.terminate()
        process.wait(timeout=10)
        ports.close()
        shutil.rmtree(folder)


def test_a_worker_needs_no_more_than_a_session(
    engine: Engine, topology: str, database_url: str
) -> None:
    """Nothing that it says when it connects is refused, nor what commands say."""
    register_branches(engine, 1)
    with pooler(database_url, "session") as pooled:
        shell = Shell({environment.AMQP_URL: topology, environment.DATABASE_URL: pooled})
        with shell.running("mirror-consumer", "run"):
            publish_events(topology, completed(1, 0, "rev-1"))
            wait_for(lambda: state_of(engine, 1).last_mirrored == at(0), "the event")
        assert "rev-1" in shell.run("mirror-consumer", "status", "1").stdout


def test_a_worker_refuses_a_pool_of_transactions(topology: str, database_url: str) -> None:
    """Its statements are prepared, and its life is told, by its session."""
    with pooler(database_url, "transaction") as pooled:
        shell = Shell({environment.AMQP_URL: topology, environment.DATABASE_URL: pooled})
        refused = shell.run("mirror-consumer", "run", expect=2)
        assert "set pool_mode = session" in refused.stderr
