"""Run a command with a RabbitMQ and a PostgreSQL: `python -m sandbox -- COMMAND...`.

Their URLs are in the command's environment; its exit code is passed on. Without a command,
`python -m sandbox` installs what it would need, and ends.
"""

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from types import FrameType
from typing import NoReturn

from sandbox import AMQP_URL, DATABASE_URL, SandboxError, find_broker, find_database, prepare
from sandbox.packages import prepare_browser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code, 128 + N if signal N ended the command."""
    parser = argparse.ArgumentParser(prog="python -m sandbox", description=__doc__)
    parser.add_argument("command", nargs="*", metavar="-- COMMAND")
    parser.add_argument(
        "--browser", action="store_true", help="also install the browser that tests use, if it may"
    )
    given = parser.parse_args(arguments)
    command: list[str] = given.command

    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, _leave)
    try:
        prepare()
        if given.browser:
            prepare_browser()
    except SandboxError as error:
        return _refuse(error)
    if not command:
        return 0
    with ExitStack() as servers:
        with ThreadPoolExecutor() as threads:
            found = [
                threads.submit(servers.enter_context, find())
                for find in (find_broker, find_database)
            ]
        try:
            broker, database = (server.result() for server in found)
        except SandboxError as error:
            return _refuse(error)
        sys.stderr.write(f"with {broker.name} and {database.name}\n")
        return _run(command, {AMQP_URL: broker.url, DATABASE_URL: database.url})


def _refuse(error: SandboxError) -> int:
    sys.stderr.write(f"sandbox: {error}\n")
    return 1


def _run(command: Sequence[str], urls: dict[str, str]) -> int:
    try:
        process = subprocess.Popen(command, env={**os.environ, **urls})
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        return 127
    # Ctrl-C at the terminal reaches the command directly; how it ends is up to the command.
    signal.signal(signal.SIGINT, lambda _signal, _frame: None)
    signal.signal(signal.SIGTERM, lambda _signal, _frame: process.terminate())
    exit_code = process.wait()
    return exit_code if exit_code >= 0 else 128 - exit_code


def _leave(signal_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + signal_number)


if __name__ == "__main__":
    sys.exit(main())
