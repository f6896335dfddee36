"""What servers say, which may be anything: in what is listed, reported, noted and shown."""

import random
from pathlib import Path

import pytest

from mirrorfeed.puller.packed_refs import packed_text
from mirrorfeed.puller.reasons import FailureClass, MirrorFailure, failure_in
from mirrorfeed.puller.refs import Refs, conflict_in, refs_listed
from tests.puller.lying import LyingServer
from tests.pullers import TestPuller
from tests.upstreams import Upstream, git, head_of


def test_names_of_any_bytes_end_nothing(
    puller: TestPuller, upstream: Upstream, liar: LyingServer
) -> None:
    """Two that exclude each other fail their branch, and the next ones are mirrored and noted."""
    tip = upstream.refs()["refs/heads/main"].encode()
    puller.write_list([liar.url, upstream.path.as_uri()])
    puller.once()
    liar.add(tip + b" refs/heads/\xff\n", tip + b" refs/heads/\xff/x\n")
    later = upstream.commit()
    puller.once("--jobs", "1", expect=1)
    assert puller.outcome(1) == "ref-conflict"
    assert puller.reason(1).endswith("upstream has both refs/heads/? and refs/heads/?/x")
    assert puller.states()[1].reason == puller.reason(1)
    assert puller.outcome(2) == puller.states()[2].revision == later
    assert puller.sync("1", "2", expect=1).endswith(f"2 ~ada/b2: mirrored {later}\n")


def test_secrets_in_a_servers_words_are_shown_nowhere(
    puller: TestPuller, liar: LyingServer
) -> None:
    """Not in the log either, the notes, or what commands print."""
    secret = b"moved to https://jane:s3cretZZ@host/?token=s3cretYY"
    puller.write_list([liar.url])
    liar.fail(secret)
    said = puller.once(expect=1)
    liar.fail(secret)
    said += puller.sync("1", expect=1) + puller.reason()
    said += puller.shell.run("mirror-puller", "status").stdout + str(puller.states())
    assert "moved to https://***@host/?token=***" in said
    assert "s3cret" not in said


def test_a_failure_is_text_that_anybody_can_store() -> None:
    """Whatever it was made of."""
    failure = MirrorFailure(
        FailureClass.OTHER, "a\0b\udcff https://jane:s3cret@host/ " + "x" * 9999
    )
    assert failure.line.startswith("ab? https://***@host/ xxx")
    assert str(failure) == failure.line
    assert len(failure.reason.encode()) < 9000


def test_what_the_other_side_says_is_known_as_hearsay() -> None:
    """By git's marks, which half a line at the beginning of a long output may have lost."""
    corrupt = b"error: packed object 1234 (stored in x) is corrupt\n"
    much = b"remote: x\n" * 2_000
    for said, is_hearsay in (
        (corrupt, False),
        (b"remote: " + corrupt, True),
        (b"remote: x\rremote: " + corrupt + corrupt, False),
        (b"fatal: remote error: x\n" + corrupt, True),
        (corrupt + much, True),
        (b"remote: x\n" + corrupt + much, False),
    ):
        assert failure_in(said, "").is_hearsay == is_hearsay, said[:80]


LINES = (
    b" refs/heads/x\n+refs/heads/main:refs/own/x\trefs/heads/evil\n",
    b" refs/heads/x\nrefs/heads/main\trefs/heads/evil\n",
    b" refs/heads/x\n\xff\xfe\trefs/heads/evil\n",
    b" refs/heads/x\nref: refs/heads/../../x\tHEAD\n",
    b" refs/heads/x\n" + b"1" * 39 + b"\trefs/heads/evil\n",
)


@pytest.mark.parametrize("line", LINES)
def test_a_name_with_a_line_break_says_nothing_more(
    puller: TestPuller, upstream: Upstream, liar: LyingServer, line: bytes
) -> None:
    """Neither to git nor in the mirror's file of references: what is no reference is passed over,
    as what git itself would not take is."""
    puller.write_list([liar.url])
    puller.once()
    first = upstream.refs()["refs/heads/main"]
    git("-C", puller.mirror(), "update-ref", "refs/own/x", first)
    tip = upstream.commit()
    liar.add(tip.encode() + line)
    puller.once()
    expected = {"refs/heads/main": tip, "refs/heads/x": tip, "refs/own/x": first}
    assert puller.refs() == expected
    assert head_of(puller.mirror()) == "refs/heads/main"
    liar.be_honest()
    upstream.commit()
    puller.once()
    assert puller.refs() == {**upstream.refs(), "refs/own/x": first}


@pytest.mark.parametrize("object_format", ["sha1", "sha256"])
def test_an_object_of_the_other_kind_is_none(
    puller: TestPuller, root: Path, liar: LyingServer, object_format: str
) -> None:
    """Though a branch has its name, and git would find that."""
    upstream = Upstream(root / "b.git", object_format=object_format)
    tip = upstream.commit()
    other = tip[:40] if object_format == "sha256" else "1" * 64
    upstream.git("update-ref", f"refs/heads/{other}", tip)
    puller.write_list([liar.url.replace("a.git", "b.git")])
    puller.once()
    before = puller.refs()
    liar.add(f"{tip} refs/heads/x\n{other}\trefs/heads/evil\n".encode())
    puller.once(expect=1)
    assert puller.outcome() in ("other", "not-found"), puller.reason()
    assert puller.refs() == before


def test_names_that_no_git_can_have_cost_nothing(
    puller: TestPuller, upstream: Upstream, liar: LyingServer
) -> None:
    """They are passed over, also as what HEAD is; a list of others is looked at once."""
    puller.write_list([liar.url])
    puller.once()
    tip = upstream.commit().encode()
    deep = tip + b" refs/heads/" + b"a/" * 32_000
    liar.add(*(deep + b"%d\n" % each for each in range(200)), tip + b" refs/heads/b\n")
    puller.once("--timeout", "20s")
    assert puller.refs() == {**upstream.refs(), "refs/heads/b": tip.decode()}
    longest = "refs/heads/" + "a/" * 2_042 + "b"
    lines = [f"{'1' * 40}\t{longest}", f"{'1' * 40}\t{longest}c", f"ref: {longest}c\tHEAD"]
    assert refs_listed("\n".join(lines).encode()) == Refs({longest: "1" * 40})


def test_two_names_exclude_each_other_however_they_are_sorted() -> None:
    """As a comparison of each with each says."""
    draw = random.Random(17)
    for _ in range(2_000):
        names = {"refs/" + "".join(draw.choices("ab-/0", k=draw.randrange(1, 6))) for _ in range(5)}
        expected = {(a, b) for a in names for b in names if b.startswith(f"{a}/")}
        found = conflict_in(names)
        assert found in expected if expected else found is None


def test_a_file_of_references_has_no_line_that_git_would_not_read() -> None:
    """It would not read the others either."""
    at = "1" * 40
    for name, object_, peeled in (
        ("refs/heads/x\ny", at, at),
        ("HEAD", at, at),
        ("refs/heads/x", "refs/heads/main", "refs/heads/main"),
        ("refs/heads/x", at, "1" * 64),
    ):
        with pytest.raises(MirrorFailure, match="the mirror can have no reference"):
            packed_text({name: object_}, {object_: peeled})
