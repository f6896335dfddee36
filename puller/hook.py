"""A command of the operator's, after a mirror has changed."""

import logging
import time
from pathlib import Path

from mirrorfeed.puller.branch_list import Branch
from mirrorfeed.puller.git import Work, base_environment
from mirrorfeed.puller.process import Limits
from mirrorfeed.puller.reasons import MirrorFailure, failure_in
from mirrorfeed.puller.settings import Settings

logger = logging.getLogger(__name__)


def run_hook(
    settings: Settings,
    branch: Branch,
    mirror: Path,
    work: Work,
    *,
    old_revision: str | None,
    new_revision: str | None,
) -> None:
    """Runs it in the mirror, which nobody else touches meanwhile. That it fails is logged; the
    branch is mirrored nevertheless."""
    seconds = settings.hook_timeout_seconds
    limits = Limits(seconds, time.monotonic() + seconds, seconds)
    environment = {
        **base_environment(work.mark),
        "MIRRORFEED_BRANCH": str(branch.id),
        "MIRRORFEED_NAME": branch.name,
        "MIRRORFEED_URL": branch.url,
        "MIRRORFEED_MIRROR": str(mirror),
        "MIRRORFEED_OLD_REVISION": old_revision or "",
        "MIRRORFEED_NEW_REVISION": new_revision or "",
    }
    try:
        ended = work.processes.run(
            settings.hook, environment=environment, limits=limits, folder=mirror
        )
        if ended.exit_code != 0:
            raise failure_in(ended.errors, f"it exited with code {ended.exit_code}")
    except MirrorFailure as failure:
        logger.warning(
            "the hook failed",
            extra={"branch": branch.id, "hook": settings.hook[0], "because": failure.line},
        )
