"""Programs that mirror: they run in a session of their own, within limits, and leave nothing.

Nothing here polls a process that behaves: a descriptor for it (pidfd_open(2)) wakes whoever waits.
"""

import errno
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from mirrorfeed.puller.reasons import FailureClass, MirrorFailure

READ_BYTES = 64 * 1024
KEPT_BYTES = 64 * 1024
"""Of standard error, from its end."""
MAX_OUTPUT_BYTES = 256 * 1024 * 1024
"""Of standard output: a list of three million references."""
TICK_SECONDS = 1.0
KILL_AFTER_SECONDS = 10.0
LAST_OUTPUT_SECONDS = 1.0
"""How long to read on after a program has ended: something it left may have its pipes open."""
POLL_SECONDS = 0.05
PROC = Path("/proc")
FIRST_PID_NAMESPACE = 0xEFFFFFFC
"""Its inode number, which Linux fixes (include/linux/proc_ns.h)."""

Watch = Callable[[], int]
"""Looks after the attempt while a program runs: gives something that grows with its progress.
Raises MirrorFailure if it must not go on."""


@dataclass(frozen=True)
class Limits:
    """How long a program may take."""

    stall_seconds: float
    """Without output or growth."""
    until: float
    """By the monotonic clock."""
    seconds: float
    """What that is in all, to say so."""


@dataclass
class Ended:
    """How a program ended."""

    exit_code: int
    """Negative: the signal that ended it."""
    output: bytes
    errors: bytes
    """The end of what it wrote to standard error."""


class Processes:
    """The programs that a puller runs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: set[int] = set()
        self._stopped_by, self._stop = os.pipe2(os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self._stop)
        os.close(self._stopped_by)

    def interrupt(self) -> None:
        """Ends all that run, and lets none start any more."""
        os.write(self._stop, b"x")

    @property
    def is_interrupted(self) -> bool:
        return bool(select.select([self._stopped_by], [], [], 0)[0])

    def run(
        self,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str],
        limits: Limits,
        folder: Path | None = None,
        typed: bytes = b"",
        inherited: Sequence[int] = (),
        watch: Watch = lambda: 0,
        on_progress: Callable[[bytes], None] = lambda _: None,
    ) -> Ended:
        """Runs a program to its end, with `typed` as its standard input.

        Whatever it has started ends with it. Raises MirrorFailure if it cannot be run, does not
        end in time (`timeout`), `watch` does, or all are interrupted.
        """
        if self.is_interrupted:
            raise MirrorFailure(FailureClass.INTERRUPTED, "the puller was told to end")
        out, err = _Pipe(), _Pipe()
        try:
            # The lock, so that `reap` takes it for none of ours at no time.
            with _input(typed) as file, self._lock:
                process = subprocess.Popen(
                    arguments,
                    env=environment,
                    cwd=folder,
                    stdin=file,
                    stdout=out.for_program,
                    stderr=err.for_program,
                    start_new_session=True,
                    pass_fds=inherited,
                )
                self._known.add(process.pid)
        except OSError as error:
            os.close(out.ours)
            os.close(err.ours)
            raise MirrorFailure(
                FailureClass.OTHER, f"{arguments[0]} cannot be run: {error.strerror}"
            ) from error
        finally:
            os.close(out.for_program)
            os.close(err.for_program)
        running = _Running(process, out.ours, err.ours, arguments[0], limits, watch, on_progress)
        try:
            return running.to_its_end(self._stopped_by)
        finally:
            running.close()
            self._known.discard(process.pid)

    def reap(self) -> None:
        """Takes note of the end of processes that became ours because their parents have ended, as
        happens to process 1."""
        with self._lock:
            for child in _children():
                if child not in self._known:
                    with suppress(ChildProcessError):
                        os.waitpid(child, os.WNOHANG)


class _Pipe:
    """From a program to us."""

    def __init__(self) -> None:
        self.ours, self.for_program = os.pipe2(os.O_CLOEXEC)


@contextmanager
def _input(typed: bytes) -> Iterator[int]:
    """A file to read it from: nobody has to write it while the program runs."""
    if not typed:
        yield subprocess.DEVNULL
        return
    file = os.memfd_create("typed", os.MFD_CLOEXEC)
    try:
        with os.fdopen(file, "wb", closefd=False) as writer:
            writer.write(typed)
        os.lseek(file, 0, os.SEEK_SET)
        yield file
    finally:
        os.close(file)


@dataclass
class _Running:
    """A program that runs, and the leader of its process group."""

    process: "subprocess.Popen[bytes]"
    out: int
    err: int
    name: str
    limits: Limits
    watch: Watch
    on_progress: Callable[[bytes], None]
    output: bytearray = field(default_factory=bytearray)
    errors: bytes = b""

    def __post_init__(self) -> None:
        self._end = os.pidfd_open(self.process.pid)
        self._open = {self.out, self.err}
        self._poll = select.poll()
        for descriptor in (self._end, *self._open):
            self._poll.register(descriptor, select.POLLIN)
        self._is_running = True
        self._is_reaped = False

    def to_its_end(self, stopped_by: int) -> Ended:
        self._poll.register(stopped_by, select.POLLIN)
        progress_at = looked_at = time.monotonic()
        grown = 0
        while self._is_running:
            now = time.monotonic()
            stalls_at = progress_at + self.limits.stall_seconds
            if now >= self.limits.until:
                raise MirrorFailure(
                    FailureClass.TIMEOUT,
                    self._with_last_words(f"took longer than {self.limits.seconds:g} s"),
                )
            if now >= stalls_at:
                raise MirrorFailure(
                    FailureClass.TIMEOUT,
                    self._with_last_words(f"made no progress for {self.limits.stall_seconds:g} s"),
                )
            next_at = min(stalls_at, self.limits.until, looked_at + TICK_SECONDS)
            ready = [each for each, _ in self._poll.poll(max(0.0, next_at - now) * 1000)]
            if stopped_by in ready:
                raise MirrorFailure(FailureClass.INTERRUPTED, "the puller was told to end")
            if self._read(ready):
                progress_at = time.monotonic()
            if time.monotonic() - looked_at >= TICK_SECONDS:
                looked_at = time.monotonic()
                if (size := self.watch()) != grown:
                    grown = size
                    progress_at = looked_at
        self._read_rest()
        return Ended(self._reaped(), bytes(self.output), self.errors)

    def close(self) -> None:
        """Ends what is left: nothing, after a program that has ended by itself."""
        if not self._is_reaped:
            self._end_group()
        for descriptor in (self.out, self.err, self._end):
            os.close(descriptor)

    def _with_last_words(self, what: str) -> str:
        words = self.errors.replace(b"\r", b"\n").rstrip().rpartition(b"\n")[2]
        said = words.decode(errors="replace").strip()
        return f"{self.name} {what} and was ended" + (f"; it last said: {said}" if said else "")

    def _read(self, ready: Sequence[int]) -> bool:
        """Whether there was anything. Raises MirrorFailure for too much of it."""
        has_read = False
        for descriptor in ready:
            if descriptor == self._end:
                self._is_running = False
                self._poll.unregister(self._end)
            elif descriptor in self._open:
                chunk = os.read(descriptor, READ_BYTES)
                if not chunk:
                    self._open.discard(descriptor)
                    self._poll.unregister(descriptor)
                    continue
                has_read = True
                if descriptor == self.err:
                    self.errors = (self.errors + chunk)[-KEPT_BYTES:]
                    self.on_progress(chunk)
                else:
                    self.output += chunk
                    if len(self.output) > MAX_OUTPUT_BYTES:
                        raise MirrorFailure(
                            FailureClass.TOO_LARGE,
                            f"{self.name} printed more than {MAX_OUTPUT_BYTES:,} bytes",
                        )
        return has_read

    def _read_rest(self) -> None:
        deadline = time.monotonic() + LAST_OUTPUT_SECONDS
        while self._open and (left := deadline - time.monotonic()) > 0:
            self._read([each for each, _ in self._poll.poll(left * 1000) if each in self._open])

    def _reaped(self) -> int:
        """Ends what the program has left in its group, and takes its exit code.

        As long as that is not taken, nobody else can get the number of the group.
        """
        self._send(signal.SIGKILL)
        self._is_reaped = True
        return self.process.wait()

    def _end_group(self) -> None:
        """Tells all of the group to end, and kills what has not after 10 s."""
        deadline = time.monotonic() + KILL_AFTER_SECONDS
        self._send(signal.SIGTERM)
        self._send(signal.SIGCONT)  # what is stopped would not even notice
        while group_members(self.process.pid) and time.monotonic() < deadline:
            # A program that waits until somebody reads what it says would not end either.
            ready, _, _ = select.select(self._open, [], [], POLL_SECONDS)
            for descriptor in ready:
                if not os.read(descriptor, READ_BYTES):
                    self._open.discard(descriptor)
        self._reaped()

    def _send(self, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)


def group_members(group: int) -> list[int]:
    """Processes of the group that have not ended."""
    return [pid for pid, state, of_group in _processes() if of_group == group and state not in "ZX"]


def _processes() -> list[tuple[int, str, int]]:
    """Number, state and group of each process that can be seen (proc(5))."""
    found = []
    for name in os.listdir(PROC):  # noqa: PTH208 - their names are enough
        if name.isdigit():
            with suppress(OSError):
                # The name of the program is in brackets, and may hold anything.
                after = (PROC / name / "stat").read_bytes().rpartition(b")")[2].split()
                found.append((int(name), after[0].decode(), int(after[2])))
    return found


def _children() -> list[int]:
    found: list[int] = []
    for task in (PROC / "self/task").iterdir():
        with suppress(OSError):
            found += map(int, (task / "children").read_text().split())
    return found


def marked_processes(variable: str, value: str) -> list[int]:
    """Processes of this user that were started with that variable in their environment."""
    wanted = f"{variable}={value}".encode()
    found = []
    for name in os.listdir(PROC):  # noqa: PTH208
        if name.isdigit() and int(name) != os.getpid():
            with suppress(OSError):
                if wanted in (PROC / name / "environ").read_bytes().split(b"\0"):
                    found.append(int(name))
    return found


def end_marked(variable: str, value: str) -> int:
    """Ends what another process has started with that variable; returns how many there were. They
    are told to, and killed after 10 s."""
    deadline = time.monotonic() + KILL_AFTER_SECONDS
    first = left = marked_processes(variable, value)
    for each in left:
        for number in (signal.SIGTERM, signal.SIGCONT):
            _send_to(each, number)
    while left and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        left = marked_processes(variable, value)
    for each in left:
        _send_to(each, signal.SIGKILL)
    return len(first)


def _send_to(process: int, number: int) -> None:
    try:
        os.kill(process, number)
    except OSError as error:
        if error.errno not in (errno.ESRCH, errno.EPERM):
            raise


def sees_all_of_this_user() -> bool:
    """Whether every process of this user on this machine can be seen here: in a container those
    outside of it cannot. Those of other users may be hidden anywhere (`hidepid`, proc(5))."""
    with suppress(OSError):
        return (PROC / "self/ns/pid").stat().st_ino == FIRST_PID_NAMESPACE
    return False


def users_of(folder: Path) -> list[int]:
    """Processes that can be seen to work in a folder: by their folder, their arguments, their
    environment or their open files. Not this one."""
    inside = folder.resolve()
    found = []
    for name in os.listdir(PROC):  # noqa: PTH208
        if not name.isdigit() or int(name) == os.getpid():
            continue
        process = PROC / name
        with suppress(OSError):
            if _works_in(process, inside):
                found.append(int(name))
    return found


def _works_in(process: Path, inside: Path) -> bool:
    words = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
    if os.fsencode(inside) in words or (process / "cwd").readlink().is_relative_to(inside):
        return True
    return any(each.readlink().is_relative_to(inside) for each in (process / "fd").iterdir())
