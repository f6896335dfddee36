"""What a puller that was killed has left: programs, files, attempts that nobody has ended."""

import logging
from collections.abc import Collection, Mapping

from mirrorfeed.puller.attempt import only_user_of
from mirrorfeed.puller.folder import BadLock, Folder, MirrorInUse
from mirrorfeed.puller.healing import tidy
from mirrorfeed.puller.reasons import FailureClass, MirrorFailure
from mirrorfeed.puller.reports import Reports
from mirrorfeed.puller.state import BranchState

logger = logging.getLogger(__name__)

KILLED = MirrorFailure(
    FailureClass.INTERRUPTED, "the puller was killed while it mirrored this branch"
)


def close_leftovers(
    folder: Folder, reports: Reports, known: Mapping[int, BranchState], listed: Collection[int]
) -> list[int]:
    """Ends and removes all of it, and reports the attempts as interrupted; nothing of a branch that
    somebody mirrors right now.

    Returns the branches of which something was left. What is known of them says by then that they
    are not being mirrored.
    """
    open_attempts = reports.open_attempts(known.keys() | set(listed))
    noted = [each for each, state in known.items() if state.running_since is not None]
    closed = []
    for branch_id in sorted({*open_attempts, *noted, *folder.remains()}):
        try:
            with only_user_of(folder, branch_id):
                folder.restore(branch_id)
                mirror = folder.mirror(branch_id, "git")
                if mirror.exists():
                    tidy(mirror)
                if branch_id in open_attempts:
                    reports.interrupted(branch_id, open_attempts[branch_id], KILLED.reason)
        except MirrorInUse:
            continue
        except (BadLock, OSError) as error:
            logger.error(
                "cannot close what was left open", extra={"branch": branch_id, "because": error}
            )
            continue
        if branch_id in known:
            known[branch_id].running_since = None
        closed.append(branch_id)
    if closed:
        logger.warning("closed what was left open", extra={"branches": len(closed)})
    return closed
