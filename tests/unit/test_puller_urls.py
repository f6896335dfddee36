"""Which URLs the puller mirrors, and what it says of the others."""

import pytest

from mirrorfeed.puller.reasons import FailureClass, MirrorFailure
from mirrorfeed.puller.urls import DEFAULT_PROTOCOLS, PROTOCOLS, place_of


@pytest.mark.parametrize(
    ("url", "vcs", "protocol", "host"),
    [
        ("https://git.example.org/a.git", "git", "https", "git.example.org"),
        ("https://GIT.example.org:8443/a.git", "git", "https", "git.example.org"),
        ("https://[::1]:8443/a.git", "git", "https", "::1"),
        ("ssh://git@example.org/a.git", "git", "ssh", "example.org"),
        ("git+ssh://git@example.org/a.git", "git", "ssh", "example.org"),
        ("git@example.org:team/a.git", "git", "ssh", "example.org"),
        ("example.org:a.git", "git", "ssh", "example.org"),
        ("bzr+ssh://bazaar.example.org/~jane/p", "bzr", "ssh", "bazaar.example.org"),
        ("https://bazaar.example.org/~jane/p", "bzr", "https", "bazaar.example.org"),
    ],
)
def test_remote_branches_are_mirrored(url: str, vcs: str, protocol: str, host: str) -> None:
    """By the protocols that are always allowed."""
    assert place_of(url, vcs, DEFAULT_PROTOCOLS) == (protocol, host)


@pytest.mark.parametrize(
    ("url", "protocol"),
    [
        ("http://example.org/a", "http"),
        ("git://example.org/a", "git"),
        ("file:///srv/a", "file"),
    ],
)
def test_some_protocols_must_be_allowed(url: str, protocol: str) -> None:
    """The refusal says how."""
    with pytest.raises(MirrorFailure) as refused:
        place_of(url, "git", DEFAULT_PROTOCOLS)
    assert refused.value.failure_class is FailureClass.REFUSED_URL
    assert f"--allow-protocol {protocol}" in refused.value.line
    assert place_of(url, "git", PROTOCOLS).protocol == protocol


@pytest.mark.parametrize(
    "url",
    [
        "", "ext::sh -c id", "ext::sh", "fd::17", "testgit::x", "::x", "-u./payload",
        "--upload-pack=x", "/etc", "./a", "../a", "a/b", "~/a", "file:/etc",
        "file://host/etc", "file://", "C:\\a b",
        "ssh://-oProxyCommand=id/a", "ssh://-u@host/a", "-oProxyCommand=id:a", "host:-a",
        "javascript://x", "ftp://example.org/a", "bzr://example.org/a", "https://", "https:///a",
        "https://example.org:port/a", "https://[::1/a", "https://example.org/a b",
        "https://example.org/a\nhttps://example.org/b", "https://example.org/\x1b[2J", "x" * 5000,
    ],
)  # fmt: skip
def test_anything_else_is_refused(url: str) -> None:
    """Whatever is allowed."""
    with pytest.raises(MirrorFailure) as refused:
        place_of(url, "git", PROTOCOLS)
    assert refused.value.reason.startswith("refused-url: the URL ")
    assert len(refused.value.reason) < 1000
    assert refused.value.reason.isprintable()


@pytest.mark.parametrize(
    "url",
    [
        "https://jane:s3cret@example.org/a",
        "https://s3cret@example.org/a",
        "https://s3cret:x-oauth-basic@example.org/a",
        "ssh://jane:s3cret@example.org/a",
        "https://example.org/a?private_token=s3cret",
    ],
)
def test_credentials_do_not_belong_into_a_list(url: str) -> None:
    """The refusal says where they do, and does not repeat them."""
    with pytest.raises(MirrorFailure, match="credential helper") as refused:
        place_of(url, "git", PROTOCOLS)
    assert "s3cret" not in refused.value.reason


def test_the_kind_of_branch_decides_which_schemes_there_are() -> None:
    """git does not know bzr's, and the other way round."""
    for url, vcs in (("bzr+ssh://example.org/a", "git"), ("git://example.org/a", "bzr")):
        with pytest.raises(MirrorFailure, match="are not mirrored by"):
            place_of(url, vcs, PROTOCOLS)
