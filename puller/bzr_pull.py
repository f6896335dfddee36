"""Mirrors one bzr branch, and prints its last revision. A program of its own, run by a Python that
has breezy, which need not be the one that mirrorfeed is installed for:

    python3 bzr_pull.py URL MIRROR SCHEME...

The remote branch is opened with a policy: references to other branches, branches that it is stacked
on and redirections are followed only to URLs with one of the schemes. Prints one JSON document.
"""

import json
import os
import sys
from typing import Any
from urllib.parse import urlsplit

import breezy
import breezy.bzr
from breezy import errors, ui, urlutils
from breezy.branch import Branch
from breezy.bzr import BzrProber, RemoteBzrProber
from breezy.controldir import ControlDir
from breezy.url_policy_open import BranchOpener, BranchOpenPolicy

NO_REVISION = "null:"


class RefusedPlace(Exception):
    """The branch leads to a place that is not allowed."""


class Schemes(BranchOpenPolicy):  # type: ignore[misc]  # breezy has no types
    """Only URLs with certain schemes."""

    def __init__(self, schemes: set[str]) -> None:
        self.schemes = schemes

    def should_follow_references(self) -> bool:
        return True

    def transform_fallback_location(self, branch: Any, url: str) -> tuple[str, bool]:
        return urlutils.join(branch.base, url), True

    def check_one_url(self, url: str) -> None:
        if urlsplit(str(url)).scheme not in self.schemes:
            raise RefusedPlace(url)


class Agreeing(ui.SilentUIFactory):  # type: ignore[misc]  # breezy has no types
    """Says yes to whatever is asked: only whether to break a lock is."""

    def get_boolean(self, prompt: str, **arguments: Any) -> bool:
        return True

    def confirm_action(self, *question: Any) -> bool:
        return True


def pull(url: str, mirror: str, schemes: list[str]) -> dict[str, Any]:
    """Makes the mirror as the remote branch is."""
    opener = BranchOpener(Schemes(set(schemes)), [BzrProber, RemoteBzrProber])
    remote = opener.open(url)
    with remote.lock_read():
        revision = remote.last_revision().decode()
        if os.path.isdir(mirror):
            ours = Branch.open(mirror)
            break_locks(ours)
            has_changed = ours.last_revision().decode() != revision
        else:
            # Of whole branches, even if the remote is stacked: what it is stacked on may go away.
            kind = remote.controldir.cloning_metadir(require_stacking=False)
            os.mkdir(mirror)
            ours = ControlDir.create_branch_convenience(
                mirror, force_new_repo=True, force_new_tree=False, format=kind
            )
            has_changed = True
        if has_changed:
            ours.pull(remote, overwrite=True)
    return {
        "revision": None if revision == NO_REVISION else revision,
        "has_changed": has_changed,
    }


def break_locks(branch: Any) -> None:
    """Nobody else writes to the mirror, so a lock in it is one that a kill has left."""
    for each in (branch, branch.repository):
        if each.get_physical_lock_status():
            each.break_lock()


def main() -> None:
    """Exits with 1 and a line on standard error if the branch cannot be mirrored."""
    with breezy.initialize(setup_ui=False):
        ui.ui_factory = Agreeing()
        try:
            document = pull(sys.argv[1], sys.argv[2], sys.argv[3:])
        except RefusedPlace as error:
            sys.exit(f"bzr: ERROR: mirrorfeed: refused to follow the branch to {error}")
        except (errors.BzrError, OSError) as error:
            sys.exit(f"bzr: ERROR: {error}")
    sys.stdout.write(json.dumps(document))


if __name__ == "__main__":
    main()
