"""What servers say, which may be anything: in what is listed, reported, noted and shown."""

from mirrorfeed.puller.reasons import FailureClass, MirrorFailure
from tests.puller.lying import LyingServer
from tests.pullers import TestPuller
from tests.upstreams import Upstream


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
    liar.fail(b"moved to https://jane:s3cretZZ@host/?token=s3cretYY")
    puller.write_list([liar.url])
    said = puller.once(expect=1) + puller.sync("1", expect=1) + puller.reason()
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
