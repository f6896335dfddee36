"""One attempt to mirror a git repository: look, and fetch what is new."""

import shutil
from itertools import islice
from pathlib import Path

from mirrorfeed.puller.branch_list import Branch
from mirrorfeed.puller.folder import Folder
from mirrorfeed.puller.git import Git, Work, known_refs
from mirrorfeed.puller.mirrored import Mirrored
from mirrorfeed.puller.reasons import FailureClass, MirrorFailure
from mirrorfeed.puller.refs import HEADS, Refs, is_wanted

CANDIDATES = "refs/mirrorfeed/candidate/"
"""Where a history is looked at before it may become the mirror's."""
MAX_COMPARED = 1000


class GitMirror:
    """A branch's mirror, while nobody else uses it. Every method raises MirrorFailure."""

    def __init__(self, git: Git, folder: Folder, branch: Branch, work: Work) -> None:
        self._git = git
        self._work = work
        self._folder = folder
        self._branch = branch
        self.path = folder.mirror(branch.id, branch.vcs)

    def mirror(self, *, known_url: str, is_forced: bool) -> Mirrored:
        """Makes the mirror as upstream is.

        `known_url` is where the mirror is from; if that is not the branch's, a history that has
        nothing in common with the mirror's is refused, unless `is_forced`.
        """
        ours = self._ours()
        if ours is None or not ours.objects:
            return self._first(ours)
        theirs = self._git.listed(self._branch.url, self.path)
        wanted = theirs.wanted(has_all=self._branch.has_all_refs)
        if not wanted.objects:
            self._check_server(self.path)
            raise MirrorFailure(
                FailureClass.UPSTREAM_EMPTY,
                "upstream has no branches and tags any more; the mirror is left as it was",
            )
        if known_url != self._branch.url and not is_forced:
            self._check_history(ours, wanted)
        is_new = wanted.objects != ours.objects
        if is_new:
            self._fetch()
        if wanted.head is not None and wanted.head != ours.head:
            is_new = True
            self._git.follow(self.path, wanted.head)
        if known_url != self._branch.url:
            self._git.name_origin(self.path, self._branch.url)
        now = self._ours() if is_new else ours
        if now is None:
            raise MirrorFailure(FailureClass.CORRUPT, f"the mirror {self.path} vanished")
        return Mirrored(now.head_object, now.digest, has_changed=is_new)

    def clone_aside(self) -> Path:
        """A mirror made anew, beside the one that is there."""
        incoming = self._folder.incoming(self._branch.id)
        shutil.rmtree(incoming, ignore_errors=True)
        try:
            self._git.clone(self._branch.url, incoming)
            if self._branch.has_all_refs:
                self._git.fetch(self._branch.url, incoming, has_all=True, is_atomic=True)
            self._work.accept(incoming)
        except MirrorFailure:
            shutil.rmtree(incoming, ignore_errors=True)
            raise
        return incoming

    def _first(self, ours: Refs | None) -> Mirrored:
        """There is no mirror, or an empty one: of that, not even the kind of its hashes is known,
        so it gives way to what upstream is by now."""
        if ours is not None:
            theirs = self._git.listed(self._branch.url, self.path)
            if not theirs.wanted(has_all=self._branch.has_all_refs).objects:
                self._check_server(self.path)
                return Mirrored(None, ours.digest, has_changed=False)
        incoming = self.clone_aside()
        now = known_refs(incoming)
        if not now.objects:
            self._check_server(incoming)
        self._folder.publish(incoming, self.path)
        return Mirrored(now.head_object, now.digest, has_changed=True)

    def _ours(self) -> Refs | None:
        if not self.path.exists():
            return None
        found = known_refs(self.path)
        has_all = self._branch.has_all_refs
        objects = {name: at for name, at in found.objects.items() if is_wanted(name, has_all)}
        return Refs(objects, found.head, found.head_object)

    def _fetch(self) -> None:
        url, has_all = self._branch.url, self._branch.has_all_refs
        try:
            self._git.fetch(url, self.path, has_all=has_all, is_atomic=True)
        except MirrorFailure as failure:
            if failure.failure_class is not FailureClass.REF_CONFLICT:
                raise
            # `a` became `a/b`, say: git can only delete the one before it makes the other.
            self._git.fetch(url, self.path, has_all=has_all, is_atomic=False)

    def _check_server(self, git_dir: Path) -> None:
        """Raises MirrorFailure if what has listed nothing is no git server."""
        if not self._git.speaks_git(self._branch.url, git_dir):
            raise MirrorFailure(
                FailureClass.NOT_A_REPOSITORY,
                f"{self._branch.url} answers, but not as a git server does: perhaps with a page to"
                " sign in",
            )

    def _check_history(self, ours: Refs, theirs: Refs) -> None:
        """The URL was changed. Raises MirrorFailure if it leads to something else."""
        known = set(ours.objects.values())
        if known & set(theirs.objects.values()):
            return
        heads = [name for name in theirs.objects if name.startswith(HEADS)]
        names = [theirs.head] if theirs.head in theirs.objects else heads or list(theirs.objects)
        try:
            self._git.fetch_candidate(self._branch.url, self.path, [str(names[0])], CANDIDATES)
            mine = list(islice((each for each in known if each), MAX_COMPARED))
            if self._git.has_common_history(self.path, mine, [f"{CANDIDATES}0"]):
                return
        finally:
            self._git.succeeds(self.path, "update-ref", "-d", f"{CANDIDATES}0")
        raise MirrorFailure(
            FailureClass.REF_CONFLICT,
            "the URL was changed, and the history there has nothing in common with the mirror's;"
            f" if that is right: mirror-puller sync {self._branch.id} --force",
        )
