"""Users and their passwords, hashed, in a file: one `name:hash` a line."""

import hashlib
import hmac
import logging
import re
import secrets
from base64 import b64decode, b64encode
from pathlib import Path
from threading import Lock

from mirrorfeed.consumer.errors import UsageError

SCHEME = "scrypt"
COST, BLOCK_SIZE, PARALLEL = 2**14, 8, 1
"""What RFC 7914 and OWASP advise for a login: 16 MiB and some 50 ms."""
MOST_MEMORY_BYTES = 64 * 1024 * 1024
NAME = re.compile(r"[^\s:#][^\s:]{0,99}")

logger = logging.getLogger(__name__)


def line_of(name: str, password: str) -> str:
    """The user's line for the file. Raises UsageError for a name that no line can have."""
    if not NAME.fullmatch(name):
        raise UsageError(f"the name {name!r} cannot be used: it has a space, a colon or a hash")
    salt = secrets.token_bytes(16)
    key = _key(password, salt, COST, BLOCK_SIZE, PARALLEL)
    fields = (SCHEME, COST, BLOCK_SIZE, PARALLEL, _text(salt), _text(key))
    return f"{name}:{'$'.join(map(str, fields))}"


class Users:
    """The users of a file, which is read again when it changes.

    A password that was right is not hashed again; what is remembered of it is a digest under a key
    of this process.
    """

    def __init__(self, path: Path) -> None:
        """Raises UsageError if the file cannot be read, or is not as it should be."""
        self._path = path
        self._lock = Lock()
        self._secret = secrets.token_bytes(32)
        self._right: set[bytes] = set()
        self._trouble = ""
        self._read()

    def remembers(self, name: str, password: str) -> bool:
        """Whether that was right before, and the file has not changed since. Takes no time, so
        that nobody who is known waits behind somebody who guesses."""
        try:
            is_same = self._state() == self._read_state
        except OSError:
            is_same = True  # the users it had still count
        return is_same and self._digest(name, password) in self._right

    def are(self, name: str, password: str) -> bool:
        """Whether that is the user's password. Takes some 50 ms when asked for the first time."""
        with self._lock:  # one at a time: guessing must not take all processors
            self._read_if_changed()
            digest = self._digest(name, password)
            if digest in self._right:
                return True
            wanted = self._users.get(name)
            cost, block_size, parallel, salt, key = wanted or _NOBODY
            given = _key(password, salt, cost, block_size, parallel)
            is_right = hmac.compare_digest(given, key) and wanted is not None
            if is_right:
                self._right.add(digest)
            return is_right

    def _digest(self, name: str, password: str) -> bytes:
        return hmac.digest(self._secret, f"{name}:{password}".encode(), "sha256")

    def _read_if_changed(self) -> None:
        try:
            if self._state() != self._read_state:
                self._read()
        except (OSError, UsageError) as error:
            # The users it had still count; said once for each state of the file.
            if str(error) != self._trouble:
                logger.warning("%s; the users it had still count", error)
            self._trouble = str(error)

    def _read(self) -> None:
        try:
            state = self._state()
            lines = self._path.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"the users' file {self._path} cannot be read: {error}") from error
        users = {}
        for number, line in enumerate(lines, start=1):
            if not line.strip() or line.startswith("#"):
                continue
            name, _, hashed = line.strip().partition(":")
            users[name] = _parsed(hashed, f"{self._path}, line {number}")
        if not users:
            raise UsageError(
                f"the users' file {self._path} names nobody: mirror-consumer web-user NAME prints"
                " a line for it"
            )
        self._users, self._read_state = users, state
        self._right.clear()
        self._trouble = ""

    def _state(self) -> tuple[int, ...]:
        found = self._path.stat()
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


_Hashed = tuple[int, int, int, bytes, bytes]
_NOBODY: _Hashed = (COST, BLOCK_SIZE, PARALLEL, bytes(16), bytes(32))
"""So that a name which is unknown takes as long as one that is not."""


def _parsed(hashed: str, where: str) -> _Hashed:
    match = re.fullmatch(r"scrypt\$(\d{1,7})\$(\d{1,2})\$(\d{1,2})\$([\w+/=]+)\$([\w+/=]+)", hashed)
    if match is None:
        raise UsageError(
            f"{where} is not name:hash as mirror-consumer web-user NAME prints it: write it anew"
        )
    cost, block_size, parallel = map(int, match.group(1, 2, 3))
    hashed_password: _Hashed = (
        cost,
        block_size,
        parallel,
        b64decode(match[4]),
        b64decode(match[5]),
    )
    try:
        _key("", hashed_password[3], cost, block_size, parallel)
    except ValueError as error:
        raise UsageError(f"{where} asks for too much: {error}; write it anew") from error
    return hashed_password


def _key(password: str, salt: bytes, cost: int, block_size: int, parallel: int) -> bytes:
    return hashlib.scrypt(
        password.encode(),
        salt=salt,
        n=cost,
        r=block_size,
        p=parallel,
        maxmem=MOST_MEMORY_BYTES,
        dklen=32,
    )


def _text(data: bytes) -> str:
    return b64encode(data).decode()
