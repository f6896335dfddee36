"""One attempt to mirror a git repository: look, and fetch what is new."""

import logging
import re
import shutil
from itertools import islice
from pathlib import Path

from mirrorfeed.contract.events import shown
from mirrorfeed.puller.branch_list import Branch
from mirrorfeed.puller.folder import Folder
from mirrorfeed.puller.git import Git, Work, known_refs
from mirrorfeed.puller.mirrored import Mirrored
from mirrorfeed.puller.packed_refs import (
    LOCK,
    is_locked,
    is_name,
    packed_text,
    read_packed,
    rewriting,
)
from mirrorfeed.puller.reasons import FailureClass, MirrorFailure
from mirrorfeed.puller.refs import HEADS, Refs, conflict_in, files_of_refs, is_wanted

logger = logging.getLogger(__name__)

MAX_COMPARED = 1000
_REFUSED = re.compile(r"not our ref|unadvertised object|want [0-9a-f]+ not valid")
"""What servers say of an object that is the tip of nothing (any more)."""


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
            self._update(self.path, ours, wanted)
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
                theirs = self._git.listed(self._branch.url, incoming)
                self._update(incoming, known_refs(incoming), theirs.wanted(has_all=True))
            self._carry_over(incoming)
            self._work.accept(incoming)
        except MirrorFailure:
            shutil.rmtree(incoming, ignore_errors=True)
            raise
        return incoming

    def _carry_over(self, incoming: Path) -> None:
        """References that are not mirrored, if what they name is there. The rest cannot be had from
        a mirror that is corrupt."""
        for name, at in known_refs(self.path).objects.items():
            if not at or not is_name(name) or is_wanted(name, self._branch.has_all_refs):
                continue
            if not self._git.succeeds(incoming, "update-ref", name, at):
                logger.warning(
                    "a reference of the mirror's own is lost",
                    extra={"mirror": self.path, "reference": shown(name), "object": at},
                )

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
        if (self.path / "reftable").exists():
            raise MirrorFailure(
                FailureClass.OTHER,
                f"the mirror {self.path} has its references in a reftable, which is not read:"
                " git refs migrate --ref-format=files",
            )
        found = known_refs(self.path)
        has_all = self._branch.has_all_refs
        objects = {name: at for name, at in found.objects.items() if is_wanted(name, has_all)}
        return Refs(objects, found.head, found.head_object)

    def _update(self, git_dir: Path, ours: Refs, wanted: Refs) -> None:
        """What upstream listed is what the mirror has, all of it from one moment on."""
        url, has_all = self._branch.url, self._branch.has_all_refs
        if conflict := conflict_in(wanted.objects):
            raise MirrorFailure(
                FailureClass.REF_CONFLICT, f"upstream has both {conflict[0]} and {conflict[1]}"
            )
        try:
            if new := set(wanted.objects.values()) - set(ours.objects.values()):
                self._git.fetch_objects(url, git_dir, new)
        except MirrorFailure as failure:
            if not _REFUSED.search(failure.line):
                raise
            # Upstream has moved on since it was asked; by name it gives what it has now.
            self._git.fetch_by_name(url, git_dir, has_all=has_all)
        else:
            self._replace_refs(git_dir, wanted)

    def _replace_refs(self, git_dir: Path, wanted: Refs) -> None:
        has_all = self._branch.has_all_refs
        if any(not name.endswith(LOCK) for name in files_of_refs(git_dir)):
            # As an earlier version or a person left them: they would go on counting.
            self._git.output(git_dir, "pack-refs", "--all")
        with rewriting(git_dir) as file:
            for name in files_of_refs(git_dir):
                if name.endswith(LOCK):
                    raise is_locked(git_dir / name)
            old = read_packed(git_dir)
            kept = {
                name: at
                for name, at in old.objects.items()
                if at and is_name(name) and not is_wanted(name, has_all)
            }
            objects = {**kept, **wanted.objects}
            unknown = set(objects.values()) - old.peeled.keys()
            peeled = {**old.peeled, **self._git.peeled(git_dir, list(unknown))}
            file.write(packed_text(objects, peeled))
        for name in list(files_of_refs(git_dir)):
            # git packs neither broken nor symbolic ones.
            if is_wanted(name, has_all) and not name.endswith(LOCK):
                (git_dir / name).unlink(missing_ok=True)

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
        tip = theirs.objects[str(names[0])]
        self._git.fetch_objects(self._branch.url, self.path, [tip])
        mine = list(islice((each for each in known if each), MAX_COMPARED))
        if self._git.has_common_history(self.path, mine, tip):
            return
        raise MirrorFailure(
            FailureClass.REF_CONFLICT,
            "the URL was changed, and the history there has nothing in common with the mirror's;"
            f" if that is right: mirror-puller sync {self._branch.id} --force",
        )
