"""Where a spool lies, so that a copy of it is noticed.

A copy that went on with the numbers of the original would use them twice: for different events, on
a second host, or on this one after a backup was restored.
"""

from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

MACHINE_ID = Path("/etc/machine-id")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
NO_IDS = ("", "uninitialized")
"""What systemd writes there until a machine has its own (machine-id(5))."""


class Origin(NamedTuple):
    """The machine, its current boot, and the file's number on the disk."""

    machine: str
    boot: str
    inode: int

    def is_known_as(self, noted: "Origin") -> bool:
        """Whether it is the same file on the same boot."""
        return (self.boot, self.inode) == (noted.boot, noted.inode)

    def is_copy_of(self, noted: "Origin") -> bool:
        """Whether the spool that is here now was copied, or moved to another disk, since `noted`.

        A container may have a machine id of its own, or none, and still share a spool with its
        host: both run on the same boot.
        """
        is_other_machine = self.machine != noted.machine and "" not in (self.machine, noted.machine)
        return self.inode != noted.inode or (self.boot != noted.boot and is_other_machine)


def origin_of(path: Path) -> Origin:
    """Where the file is now. Raises OSError if there is none."""
    return Origin(_digest(MACHINE_ID), _digest(BOOT_ID), path.stat().st_ino)


def _digest(file: Path) -> str:
    """Of the id in the file, which itself is not for others to know (machine-id(5)); empty if there
    is none."""
    try:
        text = file.read_text().strip()
    except OSError:
        return ""
    return "" if text in NO_IDS else sha256(f"mirrorfeed {text}".encode()).hexdigest()
