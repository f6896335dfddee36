"""The console scripts, run as a user runs them."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SCRIPTS = Path(sys.executable).parent
TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True)
class Shell:
    """An environment in which mirrorfeed's commands run."""

    variables: Mapping[str, str]

    def run(
        self, *command: str, expect: int = 0, typed: str | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """Runs a command to its end and checks its exit code."""
        result = subprocess.run(
            self.arguments(command),
            env=self.environment(),
            input=typed,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
        assert result.returncode == expect, f"{command}: {result.stdout}\n{result.stderr}"
        return result

    def start(self, *command: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            self.arguments(command),
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
        )

    @contextmanager
    def running(self, *command: str) -> Iterator["subprocess.Popen[str]"]:
        """Runs a service during the block; on SIGTERM it must exit with 0 within 10 s.

        What it logged is added to an exception of the block.
        """
        process = self.start(*command)
        try:
            yield process
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            _, log = process.communicate(timeout=10)
            assert process.returncode == 0, log
        finally:
            process.kill()
            _, log = process.communicate()
            if log and (error := sys.exception()):
                error.add_note(f"{command} logged:\n{log}")

    def arguments(self, command: tuple[str, ...]) -> list[str]:
        return [str(SCRIPTS / command[0]), *command[1:]]

    def environment(self) -> dict[str, str]:
        return {**os.environ, **self.variables}
