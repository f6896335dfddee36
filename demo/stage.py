"""The demo's stage: a temporary folder in which commands run as you would type them."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from demo.errors import DemoError
from mirrorfeed.contract import environment
from sandbox import wait_until
from sandbox.folder import PrivateFolder

SCRIPTS = Path(sys.executable).parent
STOP_SECONDS = 10
WIDTH = 140
"""Characters per line if the output is not a terminal, so that table rows are not wrapped."""
SETTINGS_OF_OTHERS = ("GIT_", "MIRRORFEED_")
"""The demo must not commit to the repository whose hook runs it, or write to somebody's spool. The
servers' URLs are passed explicitly."""
GIT = {
    "GIT_AUTHOR_NAME": "Ada",
    "GIT_AUTHOR_EMAIL": "ada@example.org",
    "GIT_COMMITTER_NAME": "Ada",
    "GIT_COMMITTER_EMAIL": "ada@example.org",
    # Your settings may require signatures or another language; a newcomer may have none.
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "LC_ALL": "C.UTF-8",
}


class Stage:
    """A folder with a spool, the commands, and the services that run in it."""

    def __init__(self, console: Console, folder: PrivateFolder, urls: dict[str, str]) -> None:
        self.path = folder.path
        self._console = console
        self._folder = folder
        self._services: dict[str, subprocess.Popen[bytes]] = {}
        self._environment = {
            **{
                name: value
                for name, value in os.environ.items()
                if not name.startswith(SETTINGS_OF_OTHERS)
            },
            **GIT,
            **urls,
            environment.SPOOL: str(self.path / "spool.db"),
            environment.PULLER_KEEP_FREE_BYTES: "0",  # three drawings fit on any disk
            "PATH": f"{SCRIPTS}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        }
        if not console.is_terminal:
            self._environment["COLUMNS"] = str(console.width)

    def show(self, *command: str, expect: int = 0) -> None:
        """Runs a command for the audience. Raises DemoError if it exits with another code."""
        self._show_prompt(command)
        exit_code = subprocess.run(  # noqa: S603  the demo's own commands
            command, cwd=self.path, env=self._environment, stderr=subprocess.STDOUT, check=False
        ).returncode
        if exit_code != expect:
            raise DemoError(f"{command[0]} exited with {exit_code} instead of {expect}")
        if exit_code:
            self._console.print(Text(f"(exits with {exit_code})", "dim"))

    def output(self, *command: str) -> str:
        """What a command prints, run behind the scenes. Raises DemoError if it fails."""
        result = subprocess.run(  # noqa: S603  the demo's own commands
            command,
            cwd=self.path,
            env=self._environment,
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        if result.returncode:
            raise DemoError(f"{shlex.join(command)} failed: {result.stderr.strip()}")
        return result.stdout.strip()

    def attempt(self, *command: str) -> None:
        """Runs a command behind the scenes, which may fail."""
        subprocess.run(  # noqa: S603  the demo's own commands
            command, cwd=self.path, env=self._environment, capture_output=True, check=False
        )

    def document(self, *command: str) -> Any:
        """The JSON document that a command prints."""
        return json.loads(self.output(*command, "--json"))

    def start(self, *command: str) -> None:
        """Starts a service."""
        self._show_prompt((*command, "&"))
        self._services[shlex.join(command)] = self._folder.spawn(command, self._environment)

    def check_services(self) -> None:
        """Raises DemoError if a service has ended."""
        for name, service in self._services.items():
            if service.poll() is not None:
                raise DemoError(
                    f"{name} ended unexpectedly, with {service.returncode}\n"
                    f"{self._folder.log_tail()}"
                )

    def stop(self) -> dict[str, int]:
        """Ends the services by SIGTERM; returns the exit code of each.

        Raises:
            TimeoutError: one takes longer than 10 seconds.
        """
        for service in self._services.values():
            service.send_signal(signal.SIGTERM)
        wait_until(
            lambda: all(service.poll() is not None for service in self._services.values()),
            STOP_SECONDS,
            "the services to end",
        )
        codes = {name: service.returncode for name, service in self._services.items()}
        self._services.clear()
        return codes

    def _show_prompt(self, command: tuple[str, ...]) -> None:
        line = "$ " + " ".join(part if part == "&" else shlex.quote(part) for part in command)
        self._console.print(Text(line, "bold cyan"), soft_wrap=True)


@contextmanager
def open_stage(console: Console, urls: dict[str, str]) -> Iterator[Stage]:
    """An empty stage that leaves nothing behind."""
    folder = PrivateFolder("demo")
    stage = Stage(console, folder, urls)
    try:
        yield stage
    finally:
        try:
            stage.stop()  # what an error left running
        finally:
            folder.remove()


def check_programs() -> None:
    """Raises DemoError if a program that the demo runs is missing."""
    if shutil.which("git") is None:
        raise DemoError("git is not installed: install it (apt-get install git)", exit_code=2)
    for name in ("mirror-puller", "mirror-publisher", "mirror-consumer"):
        if not (SCRIPTS / name).exists():
            raise DemoError(
                f"{name} is not in {SCRIPTS}: install it ({sys.executable} -m pip install -e"
                " '.[consumer]')",
                exit_code=2,
            )
