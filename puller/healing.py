"""A mirror that hinders its own mirroring is put right, under its lock only.

Never because of anything that the network or the other side did.
"""

import logging
import os
import time
from contextlib import suppress
from pathlib import Path

from mirrorfeed.puller.folder import Folder
from mirrorfeed.puller.git import Git
from mirrorfeed.puller.git_mirror import GitMirror
from mirrorfeed.puller.packed_refs import OWN, is_ours
from mirrorfeed.puller.process import sees_all_of_this_user, users_of
from mirrorfeed.puller.reasons import FailureClass, MirrorFailure
from mirrorfeed.puller.refs import files_of_refs, refs_on_disk

logger = logging.getLogger(__name__)

ONCE_SECONDS = 86_400.0
"""How often a mirror may be made anew."""
UNTOUCHED_SECONDS = 3600.0
"""A git that cannot be seen may live, but not with a file to which it wrote nothing for so long."""
_TEMPORARY = ("tmp_pack_", "tmp_idx_", "tmp_rev_", "tmp_obj_", "tmp_objdir-", "incoming-")


def tidy(mirror: Path) -> int:
    """Removes what a git that was killed has left: its locks, and packs that are not complete.

    Returns how many files and folders that were; none, if any process works in the mirror, and none
    that may belong to one that cannot be seen.
    """
    left = [each for each in _left_behind(mirror) if _is_of_the_dead(each)]
    if not left or users_of(mirror):
        return 0
    for each in left:
        _remove(each)
    return len(left)


def _left_behind(mirror: Path) -> list[Path]:
    found = [each for each in mirror.glob("*.lock") if each.is_file()]
    found += [each for name in ("packed-refs.new", OWN) for each in mirror.glob(name)]
    for parent, _, files in os.walk(mirror / "refs"):
        found += [Path(parent, file) for file in files if file.endswith(".lock")]
    objects = mirror / "objects"
    for folder in (objects, objects / "pack", objects / "info", objects / "info/commit-graphs"):
        with suppress(OSError):
            found += [
                Path(each.path)
                for each in os.scandir(folder)
                if each.name.startswith(_TEMPORARY) or each.name.endswith(".lock")
            ]
    # A loose object is written beside where it will be, in one of 256 folders.
    return [*found, *objects.glob("[0-9a-f][0-9a-f]/tmp_obj_*")]


def _is_of_the_dead(path: Path) -> bool:
    """If no process that can be seen works in the mirror. Ours has the lock of the mirror."""
    try:
        if path.name == OWN or is_ours(path):
            return True
        found = path.lstat()
    except FileNotFoundError:
        return False
    is_old = time.time() - found.st_mtime > UNTOUCHED_SECONDS
    return found.st_uid == os.geteuid() and (is_old or sees_all_of_this_user())


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        for each in path.iterdir():
            _remove(each)
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


def heal(
    failure: MirrorFailure,
    *,
    mirror: GitMirror,
    git: Git,
    folder: Folder,
    healed_at: float,
) -> float | None:
    """Puts right what has made the attempt fail, if that is the mirror itself.

    `healed_at` is when the mirror was last made anew. Returns that, or None if nothing was done and
    it is no use to try once more. Raises MirrorFailure if it cannot be made anew.
    """
    path = mirror.path
    if not path.exists():
        return None
    if failure.failure_class is FailureClass.LOCKED:
        if removed := tidy(path):
            logger.warning("removed what a git had left", extra={"mirror": path, "files": removed})
            return healed_at
        if users := users_of(path):
            raise MirrorFailure(
                FailureClass.LOCKED, f"{failure.line}; process {users[0]} works in the mirror"
            )
        return None
    if failure.failure_class is not FailureClass.CORRUPT or failure.is_hearsay:
        return None
    if removed := _remove_broken_refs(path):
        logger.warning("removed broken references", extra={"mirror": path, "references": removed})
        return healed_at
    damage = git.damage(path)
    if damage is None:
        return None  # then it is upstream's
    now = time.time()
    if 0 <= now - healed_at < ONCE_SECONDS:
        raise MirrorFailure(
            FailureClass.CORRUPT,
            f"{failure.line}; the mirror was made anew less than a day ago: look after the disk",
        )
    if borrowers := borrowers_of(path, folder):
        raise MirrorFailure(
            FailureClass.CORRUPT,
            f"{failure.line}; it is not made anew, as {borrowers[0]} borrows objects from it",
        )
    folder.publish(mirror.clone_aside(), path)
    logger.warning(
        "made a corrupt mirror anew",
        extra={"mirror": path, "because": failure.line, "damage": damage},
    )
    return now


def _remove_broken_refs(path: Path) -> int:
    """Removes files of references in which no object is named, as a power cut leaves them; the next
    fetch brings back those that upstream has. Returns how many files there were."""
    broken = {name for name, at in refs_on_disk(path).objects.items() if not at}
    files = [path / name for name in files_of_refs(path) if name in broken]  # or it is packed
    for file in files:
        file.unlink(missing_ok=True)
    return len(files)


def borrowers_of(path: Path, folder: Folder) -> list[Path]:
    """Other mirrors that have no objects of their own where this one has them
    (gitrepository-layout(5), objects/info/alternates)."""
    objects = (path / "objects").resolve()
    found = []
    for each in folder.path.glob("*.git/objects/info/alternates"):
        with suppress(OSError):
            base = each.parent.parent
            lines = each.read_text(errors="replace").splitlines()
            if any((base / line).resolve() == objects for line in lines if line):
                found.append(base.parent)
    return found
