"""How a puller process and the campaign talk: through a file that outlives both."""

import mmap
from pathlib import Path
from struct import calcsize, pack_into, unpack_from

_FIELD = "=q"
_SIZE = calcsize(_FIELD)
_FIELDS = 4


class Board:
    """Four numbers in shared memory; each has one writer, and an aligned word is written whole."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(_FIELDS * _SIZE))
        with path.open("r+b") as file:
            self._words = mmap.mmap(file.fileno(), _FIELDS * _SIZE)

    @property
    def returned(self) -> int:
        """How many calls have returned: the spool has at least this many events."""
        return self._get(0)

    @returned.setter
    def returned(self, value: int) -> None:
        self._set(0, value)

    @property
    def refused(self) -> int:
        """How many calls raised SpoolFull."""
        return self._get(1)

    @refused.setter
    def refused(self, value: int) -> None:
        self._set(1, value)

    @property
    def granted(self) -> int:
        """How many calls the puller may make."""
        return self._get(2)

    @granted.setter
    def granted(self, value: int) -> None:
        self._set(2, value)

    @property
    def skew_seconds(self) -> int:
        """How far its host's clock is ahead."""
        return self._get(3)

    @skew_seconds.setter
    def skew_seconds(self, value: int) -> None:
        self._set(3, value)

    def _get(self, field: int) -> int:
        (value,) = unpack_from(_FIELD, self._words, field * _SIZE)
        return int(value)

    def _set(self, field: int, value: int) -> None:
        pack_into(_FIELD, self._words, field * _SIZE, value)
