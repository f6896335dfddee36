"""What the puller remembers beside its mirrors."""

from pathlib import Path

import pytest

from mirrorfeed.puller.errors import PullerError
from mirrorfeed.puller.state import BranchState, HostState, State


def test_what_is_saved_is_there_for_others(tmp_path: Path) -> None:
    """For other commands while it is in use, and for the next process."""
    path = tmp_path / "state.db"
    known = BranchState(name="a", due_at=17.5, failures=3, failure_class="network", reason="x")
    with State(path) as state, State(path, reads_only=True) as reader:
        state.save([(1, known), (2, BranchState())])
        state.save_host("example.org", HostState(99.0, 2))
        state.save_fact("list", b"/etc/x")
        assert reader.branches() == {1: known, 2: BranchState()}
    with State(path) as state:
        assert state.branch(1) == known
        assert state.branch(3) is None
        assert state.hosts() == {"example.org": HostState(99.0, 2)}
        assert state.fact("list") == b"/etc/x"
        state.save_host("example.org", None)
        state.forget(1)
        assert state.branches() == {2: BranchState()}
        assert state.hosts() == {}


def test_looking_makes_no_file(tmp_path: Path) -> None:
    """What is not there is as if it were empty."""
    path = tmp_path / "state.db"
    with State(path, reads_only=True) as state:
        assert state.branches() == {}
        assert state.fact("list") is None
    assert not path.exists()


@pytest.mark.parametrize("kind", ["junk", "folder"])
def test_notes_that_cannot_be_read_are_named_with_the_remedy(tmp_path: Path, kind: str) -> None:
    """They may be removed: nothing holds them open."""
    path = tmp_path / "state.db"
    if kind == "folder":
        path.mkdir()
    else:
        path.write_bytes(b"junk" * 1000)
    with pytest.raises(PullerError, match=r"state\.db cannot be used: .+ remove it") as raised:
        State(path).branches()
    assert raised.tb is not None  # which would keep what was not closed
    assert path not in [file.resolve() for file in Path("/proc/self/fd").iterdir()]
