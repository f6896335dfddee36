"""Attempts to mirror git repositories, over real transports, and what is reported of them."""

import os
import shutil
from pathlib import Path

import pytest

from tests.pullers import TestPuller
from tests.upstreams import Upstream, WebServer, fingerprint, git, head_of


@pytest.fixture(params=["http", "git", "file"])
def url(request: pytest.FixtureRequest, upstream: Upstream) -> str:
    """That of the upstream, by each transport that needs no key."""
    match request.param:
        case "http":
            return f"{request.getfixturevalue('web').url}/git/{upstream.path.name}"
        case "git":
            return f"{request.getfixturevalue('daemon')}/{upstream.path.name}"
        case _:
            return upstream.path.as_uri()


def test_a_mirror_is_as_its_upstream_is(puller: TestPuller, upstream: Upstream, url: str) -> None:
    """After the first attempt, after nothing has happened, and after much has."""
    puller.write_list([url])
    puller.once()
    assert puller.refs() == upstream.refs()
    first = upstream.refs()["refs/heads/main"]

    log = puller.once()
    assert "as it was" in log

    upstream.commit()
    upstream.commit("dev")
    upstream.git("tag", "v1", "main")
    puller.once()
    assert puller.refs() == upstream.refs()
    second = upstream.refs()["refs/heads/main"]

    upstream.delete("refs/heads/dev", "refs/tags/v1")
    third = upstream.rewrite()
    puller.once()
    assert puller.refs() == upstream.refs() == {"refs/heads/main": third}
    assert puller.outcomes() == [first, first, second, third]
    assert git("-C", puller.mirror(), "fsck", "--no-dangling") == ""


def test_nothing_is_fetched_if_nothing_has_changed(
    puller: TestPuller, upstream: Upstream, web: WebServer
) -> None:
    """Upstream is only asked what it has: one request to greet, one to list."""
    puller.write_list([f"{web.url}/git/a.git"])
    puller.once()
    web.requests.clear()
    before = fingerprint(puller.mirror())
    puller.once()
    assert web.requests == {"/git/a.git": 1, "/git/a.git/git-upload-pack": 1}
    assert fingerprint(puller.mirror()) == before


def test_a_branch_that_becomes_a_folder_is_mirrored(puller: TestPuller, upstream: Upstream) -> None:
    """`a` becomes `a/b`, and back."""
    upstream.commit("a")
    puller.write_list([upstream.path.as_uri()])
    puller.once()
    for gone, new in (("a", "a/b"), ("a/b", "a"), ("a", "a/b/c")):
        upstream.delete(f"refs/heads/{gone}")
        upstream.commit(new)
        puller.once()
        assert puller.refs() == upstream.refs()


def test_references_that_an_earlier_version_wrote_are_old_too(
    puller: TestPuller, upstream: Upstream
) -> None:
    """Each in a file of its own: none outlives its reference, and those that come from nowhere
    stay."""
    puller.write_list([upstream.path.as_uri()])
    puller.once()
    upstream.commit("dev")
    upstream.git("tag", "-am", "x", "v1", "dev")
    here = "+refs/*:refs/*"
    git("-C", puller.mirror(), "fetch", "-q", "--no-write-fetch-head", upstream.path, here)
    git("-C", puller.mirror(), "update-ref", "refs/own/x", "refs/tags/v1")
    git("-C", puller.mirror(), "symbolic-ref", "refs/heads/alias", "refs/heads/dev")
    own = upstream.refs()["refs/tags/v1"]
    upstream.commit()
    upstream.delete("refs/heads/dev")
    puller.once()
    assert puller.refs() == {**upstream.refs(), "refs/own/x": own}
    assert [each for each in (puller.mirror() / "refs").rglob("*") if each.is_file()] == []
    assert git("-C", puller.mirror(), "rev-parse", "v1^{commit}") == git(
        "-C", upstream.path, "rev-parse", "v1^{commit}"
    )


def test_an_upstream_that_moves_on_meanwhile_is_mirrored_as_it_is_then(
    puller: TestPuller, upstream: Upstream
) -> None:
    """What it listed a moment ago is gone when it is fetched."""
    puller.write_list([upstream.path.as_uri()])
    puller.once()
    upstream.rewrite()
    later = upstream.path.with_name("later.git")
    shutil.copytree(upstream.path, later)
    Upstream(later).rewrite()
    Upstream(later).git("prune", "--expire=now")
    folder = puller.folder / "bin"
    folder.mkdir()
    script = folder / "git"
    script.write_text(
        f'#!/bin/sh\n{shutil.which("git")} "$@" || exit\ncase "$*" in *ls-remote*)\n'
        f"mv {upstream.path} {upstream.path}.old; mv {later} {upstream.path};; esac\n"
    )
    script.chmod(0o755)
    puller.also(PATH=f"{folder}:{os.environ['PATH']}")
    puller.once()
    assert puller.refs() == upstream.refs()
    assert puller.outcome() == upstream.refs()["refs/heads/main"]


def test_a_shallow_upstream_is_mirrored_as_shallow_as_it_is(
    puller: TestPuller, upstream: Upstream, root: Path
) -> None:
    """Also when its history begins later than it did."""
    upstream.commit()
    shallow = Upstream(root / "shallow.git")
    fetch = ("fetch", "-q", "--depth", "1", upstream.path.as_uri(), "+main:main")
    shallow.git(*fetch)
    puller.write_list([shallow.path.as_uri()])
    puller.once()
    for _ in range(3):
        tip = upstream.commit()
    shallow.git(*fetch)
    puller.once()
    assert puller.refs() == {"refs/heads/main": tip}
    git("-C", puller.mirror(), "fsck")


def test_a_reftable_is_left_alone(puller: TestPuller, upstream: Upstream) -> None:
    """What cannot be read is not taken for empty; the reason has the remedy."""
    puller.write_list([upstream.path.as_uri()])
    puller.once()
    (puller.mirror() / "reftable").mkdir()
    (puller.mirror() / "packed-refs").unlink()
    before = fingerprint(puller.mirror())
    puller.once(expect=1)
    assert "git refs migrate --ref-format=files" in puller.reason()
    assert fingerprint(puller.mirror()) == before


def test_files_of_a_web_server_are_mirrored(
    puller: TestPuller, upstream: Upstream, web: WebServer
) -> None:
    """It need not know git."""
    puller.write_list([f"{web.url}/files/a.git"])
    upstream.git("update-server-info")
    puller.once()
    tip = upstream.commit()
    upstream.git("repack", "-dq")
    upstream.git("update-server-info")
    puller.once()
    assert puller.refs() == {"refs/heads/main": tip}


def test_head_follows_the_default_branch(puller: TestPuller, upstream: Upstream) -> None:
    """main is renamed to trunk."""
    puller.write_list([upstream.path.as_uri()])
    puller.once()
    upstream.git("branch", "-m", "main", "trunk")
    puller.once()
    assert head_of(puller.mirror()) == "refs/heads/trunk"
    tip = upstream.commit("trunk")
    upstream.commit("other")
    puller.once()
    assert puller.outcome() == tip
    upstream.git("symbolic-ref", "HEAD", "refs/heads/other")
    puller.once()
    assert head_of(puller.mirror()) == "refs/heads/other"
    assert puller.outcome() == upstream.refs()["refs/heads/other"]


@pytest.mark.parametrize("refs", ["", "all"])
@pytest.mark.parametrize("object_format", ["sha1", "sha256"])
def test_an_empty_upstream_is_mirrored_and_so_is_its_first_commit(
    puller: TestPuller, root: Path, object_format: str, refs: str
) -> None:
    """There is no revision until then, whatever its hashes are like."""
    upstream = Upstream(root / "new.git", object_format=object_format)
    puller.write_list([upstream.path.as_uri()], refs=refs)
    puller.once()
    puller.once()
    tip = upstream.commit()
    puller.once()
    later = upstream.commit()
    puller.once()
    assert puller.outcomes() == ["None", "None", tip, later]
    assert puller.refs() == upstream.refs()


@pytest.mark.parametrize("trouble", ["emptied", "removed"])
def test_an_upstream_that_vanishes_takes_nothing_along(
    puller: TestPuller, upstream: Upstream, trouble: str
) -> None:
    """The mirror stays byte for byte as it was, and the attempt has failed."""
    puller.write_list([upstream.path.as_uri()])
    puller.once()
    before = fingerprint(puller.mirror())
    if trouble == "emptied":
        upstream.delete("refs/heads/main")
    else:
        upstream.path.rename(upstream.path.with_name("elsewhere.git"))
    puller.once(expect=1)
    assert fingerprint(puller.mirror()) == before
    assert puller.outcome() == {"emptied": "upstream-empty", "removed": "not-found"}[trouble]


def test_all_references_are_mirrored_if_the_list_says_so(
    puller: TestPuller, upstream: Upstream
) -> None:
    """Except those that a forge makes anew all the time."""
    tip = upstream.refs()["refs/heads/main"]
    for name in ("refs/notes/x", "refs/pull/1/head", "refs/pull/1/merge", "refs/keep-around/x"):
        upstream.git("update-ref", name, tip)
    puller.write_list([upstream.path.as_uri()])
    puller.once()
    assert set(puller.refs()) == {"refs/heads/main"}
    puller.write_list([upstream.path.as_uri()], refs="all")
    puller.once()
    kept = {"refs/heads/main", "refs/notes/x", "refs/pull/1/head"}
    assert set(puller.refs()) == kept
    assert "as it was" in puller.once()
    puller.write_list({2: upstream.path.as_uri()}, refs="all")
    puller.once()
    assert set(puller.refs(2)) == kept
    assert puller.outcome(2) == tip


def test_another_url_of_the_same_history_is_taken(
    puller: TestPuller, upstream: Upstream, root: Path
) -> None:
    """Also if upstream has moved on there."""
    puller.write_list([upstream.path.as_uri()])
    puller.once()
    moved = Upstream(root / "moved.git")
    git("-C", moved.path, "fetch", "-q", upstream.path, "+refs/heads/*:refs/heads/*")
    tip = moved.commit()
    puller.write_list([moved.path.as_uri()])
    puller.once()
    assert puller.outcome() == tip
    assert puller.refs() == moved.refs()


def test_another_history_needs_to_be_forced(
    puller: TestPuller, upstream: Upstream, root: Path
) -> None:
    """A URL that was changed by mistake must not cost a mirror its content."""
    puller.write_list([upstream.path.as_uri()])
    puller.once()
    before = puller.refs()
    other = Upstream(root / "other.git")
    tip = other.commit(text="something else")
    puller.write_list([other.path.as_uri()])
    puller.once(expect=1)
    puller.once(expect=1)
    assert puller.outcome() == "ref-conflict"
    assert "sync 1 --force" in puller.reason()
    assert puller.refs() == before
    puller.sync("1", "--force")
    assert puller.refs() == {"refs/heads/main": tip}
    puller.once()
    assert puller.outcome() == tip


def test_submodules_and_hooks_of_a_mirror_are_left_alone(
    puller: TestPuller, upstream: Upstream, tmp_path: Path
) -> None:
    """Nothing that lies in a mirror is run."""
    puller.write_list([upstream.path.as_uri()])
    puller.once()
    hooks = puller.mirror() / "hooks"
    hooks.mkdir()
    for name in ("reference-transaction", "post-update", "pre-auto-gc"):
        (hooks / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
        (hooks / name).chmod(0o755)
    upstream.commit()
    puller.once()
    assert puller.outcome() == upstream.refs()["refs/heads/main"]
    assert not (tmp_path / "ran").exists()


def test_the_environment_of_users_has_no_say(
    puller: TestPuller, upstream: Upstream, tmp_path: Path
) -> None:
    """Neither their configuration nor git's variables change what is mirrored."""
    (tmp_path / ".gitconfig").write_text('[url "file:///nowhere/"]\n\tinsteadOf = file:///\n')
    puller.write_list([upstream.path.as_uri()])
    puller.also(GIT_DIR="/nowhere", GIT_CONFIG_PARAMETERS="'x.y=z'", GIT_SSH="/nowhere")
    puller.once()
    assert puller.refs() == upstream.refs()
    puller.git_config.write_text('[url "file:///nowhere/"]\n\tinsteadOf = file:///\n')
    puller.once(expect=1)
    assert puller.outcome() == "not-found"
