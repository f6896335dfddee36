"""Which URLs the puller mirrors. A list may come from anywhere, and its lines end up as arguments
of programs that can do a lot: what is not plainly a remote branch is refused, and starts nothing.
"""

import re
from collections.abc import Collection
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import urlsplit

from mirrorfeed.contract.events import shown
from mirrorfeed.contract.secrets import mask_secrets
from mirrorfeed.puller.reasons import FailureClass, MirrorFailure

DEFAULT_PROTOCOLS = ("https", "ssh")
PROTOCOLS = (*DEFAULT_PROTOCOLS, "http", "git", "bzr", "file")
"""Those that can be allowed; git knows all but bzr by these names (GIT_ALLOW_PROTOCOL)."""
MAX_URL_LENGTH = 4096
REMEMBERED = 16_384
"""URLs that need not be looked at again for each attempt."""

_OF_SCHEME = {
    **{name: name for name in PROTOCOLS},
    "git+ssh": "ssh",
    "ssh+git": "ssh",
    "bzr+ssh": "ssh",
    "bzr+https": "https",
    "bzr+http": "http",
}
_OF_BZR = {"https", "http", "bzr", "bzr+ssh", "bzr+https", "bzr+http", "file"}
_OF_GIT = set(_OF_SCHEME) - {"bzr", "bzr+ssh", "bzr+https", "bzr+http"}
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_HELPER = re.compile(r"[A-Za-z0-9_+.-]*::")
_SCP = re.compile(r"(?:[^/@:\s]+@)?(\[[0-9A-Fa-f:.]+\]|[^/:@\s\[\]]+):(?!//)(.+)")
CREDENTIALS = (
    "it contains credentials: put these into a credential helper or a file that the puller's git"
    " configuration names (docs/pulling.md), and take them out of the list"
)


class Place(NamedTuple):
    """Where a URL points to."""

    protocol: str
    host: str
    """In lower case; empty for a file."""


def place_of(url: str, vcs: str, protocols: Collection[str]) -> Place:
    """Where it points to, if it may be mirrored.

    Raises MirrorFailure (`refused-url`), which never quotes a secret.
    """
    place = _place(url, vcs)
    if place.protocol not in protocols:
        raise _refused(
            url,
            f"{place.protocol} is not allowed; allow it with --allow-protocol {place.protocol}",
        )
    return place


@lru_cache(REMEMBERED)
def _place(url: str, vcs: str) -> Place:
    if not url or not url.isprintable() or " " in url or len(url) > MAX_URL_LENGTH:
        raise _refused(url, "it is empty, too long, or has characters that no URL has")
    if url.startswith("-"):
        raise _refused(url, "a program would take it for an option")
    if mask_secrets(url) != url:
        raise _refused(url, CREDENTIALS)
    if _HELPER.match(url):
        raise _refused(url, "it names a helper program of git, and not a place")
    if scheme := _SCHEME.match(url):
        return _place_by_scheme(url, scheme[1].lower(), vcs)
    if (scp := _SCP.fullmatch(url)) and vcs == "git" and scp[1].lower() not in _OF_SCHEME:
        if scp[1].startswith("-") or scp[2].startswith("-"):
            raise _refused(url, "ssh would take a part of it for an option")
        return Place("ssh", scp[1].strip("[]").lower())
    raise _refused(url, "it is a local path, or no URL; write file:///… if it is really meant")


def _place_by_scheme(url: str, scheme: str, vcs: str) -> Place:
    if scheme not in (_OF_BZR if vcs == "bzr" else _OF_GIT):
        raise _refused(url, f"{vcs} branches are not mirrored by {scheme}:")
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
        _ = parts.port  # raises for what is no port
    except ValueError as error:
        raise _refused(url, f"{error}") from None
    if scheme == "file":
        if host or not parts.path.startswith("/"):
            raise _refused(url, "a file's URL is file:///, and then its path")
        return Place("file", "")
    if not host:
        raise _refused(url, "it names no host")
    if host.startswith("-") or (parts.username or "").startswith("-"):
        raise _refused(url, "ssh would take a part of it for an option")
    return Place(_OF_SCHEME[scheme], host)


def _refused(url: str, because: str) -> MirrorFailure:
    return MirrorFailure(FailureClass.REFUSED_URL, f"the URL {shown(url)} is refused: {because}")
