"""What the private servers have in common."""

import signal
import subprocess
from abc import ABC, abstractmethod
from types import TracebackType
from typing import ClassVar, Self

from sandbox.errors import SandboxError
from sandbox.folder import PrivateFolder
from sandbox.programs import quoted, what_lacks
from sandbox.waiting import wait_until

_START_TIMEOUT_SECONDS = 60
_SHUTDOWN_TIMEOUT_SECONDS = 30


class Throwaway(ABC):
    """As a context manager it starts, and stops no matter what happens."""

    @abstractmethod
    def start(self) -> None: ...

    @abstractmethod
    def stop(self) -> None: ...

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


class PrivateServer(Throwaway):
    """A throwaway server from installed packages: own folder, own loopback ports, own processes.

    `name` is for people; `name` and `url` are valid once started. From the first `start` to `stop`
    the port and the data stay. `folder` holds the data and the logs; a shell that has changed into
    it is ended with the server. As a context manager it starts and stops.
    """

    name: str = ""
    url: str = ""
    _folder_prefix: ClassVar[str]
    _kind: ClassVar[str]
    _shutdown_signal: ClassVar[signal.Signals]

    def __init__(self) -> None:
        self.folder: PrivateFolder | None = None
        self._server: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server, with its data if it has any, and return when it answers.

        Does nothing if it is already running.

        Raises:
            SandboxError: it cannot be installed, ended at once, or does not answer within
                60 seconds; the message names what the machine lacks, else has the end of the log.
        """
        if self._server is not None and self._server.poll() is None:
            return
        try:
            if self.folder is None:
                self.folder = PrivateFolder(self._folder_prefix)
                self.folder.check_room(self._kind)
                self._create(self.folder)
            self._start(self.folder)
        except (OSError, subprocess.SubprocessError) as error:  # TimeoutError is one
            if self.folder is not None:
                self.folder.kill_processes()
            raise self._failure(str(error)) from error

    def _start(self, folder: PrivateFolder) -> None:
        (folder.path / "output.log").unlink(missing_ok=True)
        server = self._server = self._launch(folder)
        wait_until(
            lambda: server.poll() is not None or self._answers(folder),
            _START_TIMEOUT_SECONDS,
            "it to answer",
        )
        if server.poll() is not None:
            folder.kill_processes()
            raise self._failure(
                "it was killed, as the kernel does if memory runs out: end other programs"
                if server.returncode == -signal.SIGKILL
                else f"it ended with exit code {server.returncode}"
            )

    def _failure(self, what: str) -> SandboxError:
        """Why the server is not there: what the machine lacks, if the log tells, else the log."""
        log = self.folder.log_tail() if self.folder is not None else ""
        lacking = what_lacks(f"{what}\n{log}")
        if lacking is not None:
            return SandboxError(f"{self._kind} cannot be started: {lacking}")
        return SandboxError(f"{self._kind} cannot be started: {what}{quoted(log)}")

    def terminate(self) -> None:
        """Shut the server down cleanly; its data stays for the next `start`.

        Raises:
            TimeoutError: it does not end within 30 seconds.
        """
        server = self._server
        if server is not None:
            server.send_signal(self._shutdown_signal)
            wait_until(
                lambda: server.poll() is not None,
                _SHUTDOWN_TIMEOUT_SECONDS,
                f"{self.name} to shut down",
            )
        if self.folder is not None:
            self.folder.kill_processes()

    def kill(self) -> None:
        """End the server and all its helpers with SIGKILL, like a power cut; its data stays."""
        if self.folder is not None:
            self.folder.kill_processes()

    def stop(self) -> None:
        """Shut the server down cleanly and wipe its data. Does nothing if done before."""
        try:
            self.terminate()
        finally:
            if self.folder is not None:
                self.folder.remove()
            self.folder = self._server = None

    @abstractmethod
    def _create(self, folder: PrivateFolder) -> None:
        """Prepare a new folder for the first start."""

    @abstractmethod
    def _launch(self, folder: PrivateFolder) -> subprocess.Popen[bytes]:
        """Start the processes and return the one whose end is the server's end."""

    @abstractmethod
    def _answers(self, folder: PrivateFolder) -> bool:
        """Whether the server is ready for clients; sets `name` and `url` if so."""
