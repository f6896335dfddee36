"""Mirror three git repositories with everything real: git, RabbitMQ, PostgreSQL, the commands.

The servers are those named by MIRRORFEED_AMQP_URL and MIRRORFEED_DATABASE_URL, else throwaway
ones. Nothing is left behind.
"""

import argparse
import os
import signal
import sys
import time
from contextlib import ExitStack
from types import FrameType
from typing import NoReturn

from rich.console import Console

from demo.errors import DemoError
from demo.playground import keep_playing
from demo.servers import both_servers, left_as_found
from demo.stage import WIDTH, check_programs, open_stage
from demo.story import chapter, tell
from mirrorfeed.amqp.connections import BrokerUnavailable
from mirrorfeed.consumer.errors import DatabaseUnavailable
from mirrorfeed.contract import environment, exit_codes
from sandbox import SandboxError, prepare

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
NEXT = """\
make play                                         the same without end, and a page to watch it
mirror-puller --help, mirror-consumer --help      the commands, each with an example
README.md, docs/                                  the guarantees and how it works
schema.sql, docs/asyncapi.yaml                    the tables and the events
docker compose up                                 the same, with servers that stay
make test                                         the proof that it all works"""


def main() -> int:
    """Play the demo and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument(
        "--keep", action="store_true", help="go on mirroring until Ctrl-C, and show the page"
    )
    keep = parser.parse_args().keep
    for number in SIGNALS:
        signal.signal(number, leave)
    began = time.monotonic()
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH)
    try:
        play(console, keep)
    except DemoError as error:
        return refuse(str(error), error.exit_code)
    except (SandboxError, TimeoutError) as error:
        return refuse(str(error), exit_codes.NOT_MET)
    except ValueError as error:  # a server's URL
        return refuse(str(error), exit_codes.USAGE)
    except (BrokerUnavailable, DatabaseUnavailable) as error:
        return refuse(f"a server cannot be reached: {error}", exit_codes.UNREACHABLE)
    console.print(f"Nothing is left of it, after {time.monotonic() - began:.0f} seconds.")
    chapter(console, "What to look at next")
    console.print(NEXT)
    return 0


def play(console: Console, keep: bool) -> None:
    check_programs()
    with ExitStack() as opened:
        chapter(console, "Servers")
        prepare()
        with console.status("looking for a RabbitMQ and a PostgreSQL, or starting them"):
            broker, database = opened.enter_context(both_servers())
        console.print(f"{broker.name}\n{database.name}")
        opened.enter_context(left_as_found(broker.url, database.url))
        urls = {environment.AMQP_URL: broker.url, environment.DATABASE_URL: database.url}
        stage = opened.enter_context(open_stage(console, urls))
        console.print(f"The commands below run in {stage.path}, with these servers' URLs.")
        if keep:
            keep_playing(console, stage)  # until a signal
        tell(console, stage, database.url)
        console.print("Cleaning up.")


def refuse(message: str, exit_code: int) -> int:
    sys.stderr.write(f"demo: {message}\n")
    return exit_code


def leave(number: int, _frame: FrameType | None) -> NoReturn:
    for other in SIGNALS:  # nothing may interrupt the cleaning up
        signal.signal(other, signal.SIG_IGN)
    os.write(sys.stderr.fileno(), b"\ndemo: stopped, cleaning up\n")
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
