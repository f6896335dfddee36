"""The file in which a mirror has its references, beside what git itself makes of it."""

import subprocess
from pathlib import Path

import pytest

from mirrorfeed.puller.packed_refs import OWN, packed_text, read_packed, rewriting
from mirrorfeed.puller.reasons import FailureClass, MirrorFailure
from mirrorfeed.puller.refs import conflict_in, refs_listed
from tests.upstreams import Upstream, git, refs_of

NAMES = (
    "refs/heads/a", "refs/heads/a-b", "refs/heads/ä/ß", "refs/heads/a.b", "refs/x", "refs/heads/@",
    "refs/heads/.a", "refs/heads/a..b", "refs/heads/a.lock", "refs/heads/a.lock/b", "refs/heads/a.",
    "refs/heads/a/", "refs/heads//a", "refs/heads/a b", "refs/heads/a~", "refs/heads/a^",
    "refs/heads/a:b", "refs/heads/a?", "refs/heads/a*", "refs/heads/[a", "refs/heads/a\\b",
    "refs/heads/a@{1}", "refs/heads/a\x7f", "refs/heads/a\x01", "refs/heads/../../config",
)  # fmt: skip


@pytest.fixture(params=["sha1", "sha256"])
def repository(tmp_path: Path, request: pytest.FixtureRequest) -> Upstream:
    """With branches, tags, and a tag of a tag."""
    found = Upstream(tmp_path / "r.git", object_format=request.param)
    for name in ("main", "b/c", "b-c", "ä"):
        found.commit(name)
    for tag, of in (("v1", "main"), ("v2", "v1"), ("v1-same", "v1^{}")):
        found.git("tag", *(["-am", "x"] if tag != "v1-same" else []), tag, of)
    return found


def test_git_writes_the_same_bytes(repository: Upstream) -> None:
    """And what is read from them is what git says."""
    repository.git("pack-refs", "--all")
    file = repository.path / "packed-refs"
    packed = read_packed(repository.path)
    assert packed.objects == repository.refs()
    for at in packed.objects.values():
        assert packed.peeled[at] == repository.git("rev-parse", f"{at}^{{}}")
    assert packed_text(*packed) == file.read_bytes()


def test_git_reads_what_takes_the_files_place(repository: Upstream) -> None:
    """Also a file without a reference, and without a line about tags it knows them, too."""
    before = repository.refs()
    repository.git("pack-refs", "--all")
    packed = read_packed(repository.path)
    with rewriting(repository.path) as file:
        file.write(packed_text({"refs/heads/main": before["refs/heads/main"]}, packed.peeled))
    assert refs_of(repository.path) == {"refs/heads/main": before["refs/heads/main"]}
    with rewriting(repository.path) as file:
        file.write(packed_text({}, {}))
    assert refs_of(repository.path) == {}
    (repository.path / "packed-refs").unlink()
    assert read_packed(repository.path) == ({}, {})


def test_a_file_that_does_not_know_all_tags_is_not_believed(repository: Upstream) -> None:
    """As gits before 2008 wrote it."""
    repository.git("pack-refs", "--all")
    file = repository.path / "packed-refs"
    file.write_bytes(file.read_bytes().partition(b"\n")[2])
    assert read_packed(repository.path) == (repository.refs(), {})


def test_nothing_changes_if_it_is_not_written_to_its_end(repository: Upstream) -> None:
    """The lock goes; that of another git stays, and is named."""
    before = repository.refs()
    repository.git("pack-refs", "--all")
    with pytest.raises(KeyError), rewriting(repository.path) as file:
        file.write(packed_text(before, {}))
    assert repository.refs() == before
    assert list(repository.path.glob("packed-refs*")) == [repository.path / "packed-refs"]
    lock = repository.path / "packed-refs.lock"
    lock.touch()
    with (
        pytest.raises(MirrorFailure, match=f"'{lock}': File exists") as failure,
        rewriting(repository.path),
    ):
        pass
    assert failure.value.failure_class is FailureClass.LOCKED
    assert lock.exists()


@pytest.mark.parametrize("is_over", [False, True])
def test_a_lock_that_a_kill_has_left_is_known(repository: Upstream, is_over: bool) -> None:
    """Before the new file has taken its place, and after."""
    repository.git("pack-refs", "--all")
    own, lock = repository.path / OWN, repository.path / "packed-refs.lock"
    own.write_text("half")
    lock.hardlink_to(repository.path / "packed-refs" if is_over else own)
    before = read_packed(repository.path)
    with rewriting(repository.path) as file:
        file.write(packed_text({}, {}))
    assert before.objects
    assert repository.refs() == {}
    assert not lock.exists()
    assert not own.exists()


def test_a_file_system_need_not_have_hard_links(
    repository: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock is one for git all the same."""

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    with rewriting(repository.path) as file:
        git("-C", repository.path, "pack-refs", "--all", expect=128)
        file.write(packed_text({}, {}))
    assert not (repository.path / "packed-refs.lock").exists()


@pytest.mark.parametrize("name", NAMES)
def test_a_server_cannot_name_what_git_would_not(name: str) -> None:
    """A line of it would make the mirror useless, or lead out of it."""
    is_valid = subprocess.run(["git", "check-ref-format", name], check=False).returncode == 0
    at = "0" * 39 + "1"
    assert refs_listed(f"{at}\t{name}\n".encode()).objects == ({name: at} if is_valid else {})


def test_two_names_that_exclude_each_other_are_found() -> None:
    """However far apart."""
    assert conflict_in({"refs/heads/a-b", "refs/heads/a/b", "refs/heads/ab"}) is None
    found = conflict_in({"refs/heads/a", "refs/heads/a-b", "refs/heads/a/b/c"})
    assert found == ("refs/heads/a", "refs/heads/a/b/c")


def test_git_is_of_the_same_opinion(tmp_path: Path) -> None:
    """That there cannot be both."""
    upstream = Upstream(tmp_path / "r.git")
    tip = upstream.commit("a")
    git("-C", upstream.path, "update-ref", "refs/heads/a/b", tip, expect=128)
