"""The class of a failure, from what programs say."""

import pytest

from mirrorfeed.puller.reasons import FailureClass, failure_in

URL = "https://example.org/a"
ACCESS = f"fatal: unable to access '{URL}/':"
CURL = f"{ACCESS} The requested URL returned error:"
LOCK = "error: cannot lock ref 'refs/heads/a"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (f"fatal: could not read Username for '{URL}': terminal prompts disabled",
         "auth-or-missing"),
        ("fatal: unable to get password from user", "auth-or-missing"),  # git 2.47
        ("git@example.org: Permission denied (publickey).\nfatal: Could not read from remote"
         " repository.", "auth-or-missing"),
        (f"{CURL} 403", "auth-or-missing"),
        ("fatal: remote error: access denied or repository not exported: /a", "auth-or-missing"),
        ("ERROR: Repository not found.\nfatal: Could not read from remote repository.",
         "auth-or-missing"),
        (f"fatal: repository '{URL}/' not found", "not-found"),
        ("fatal: '/a' does not appear to be a git repository\nfatal: Could not read from remote"
         " repository.", "not-found"),
        ("No ED25519 host key is known for [127.0.0.1]:2222 and you have requested strict"
         " checking.\nHost key verification failed.\nfatal: Could not read from remote repository.",
         "host-key"),
        (f"{ACCESS} server certificate verification failed. CAfile: none",
         "tls"),
        (f"{ACCESS} SSL certificate problem: self-signed certificate", "tls"),
        (f"{ACCESS} gnutls_handshake() failed: Handshake failed", "tls"),
        (f"{ACCESS} Could not resolve host: example.org", "network"),
        (f"{CURL} 500", "network"),
        (f"{CURL} 503", "network"),
        ("fatal: unable to connect to 127.0.0.1:\n127.0.0.1[0: 127.0.0.1]: errno=Connection"
         " refused", "network"),
        ("ssh: connect to host 127.0.0.1 port 1: Connection refused\nfatal: Could not read from"
         " remote repository.", "network"),
        ("error: RPC failed; curl 18 transfer closed with outstanding read data remaining\n"
         "fetch-pack: unexpected disconnect while reading sideband packet\nfatal: early EOF",
         "network"),
        (f"{CURL} 429", "rate-limited"),
        ("error: RPC failed; HTTP 429 curl 22 The requested URL returned error: 429",
         "rate-limited"),
        ("ssh: connect to host 192.0.2.1 port 22: Connection timed out", "timeout"),
        (f"fatal: {URL}/info/refs not valid: is this a git repository?", "not-a-repository"),
        ("fatal: protocol error: bad line length character: <!DO", "not-a-repository"),
        ("fatal: transport 'file' not allowed", "refused-url"),
        (f"{ACCESS} Protocol \"file\" not supported or disabled in libcurl",
         "refused-url"),
        ("error: cannot lock ref 'refs/heads/a/b': 'refs/heads/a' exists; cannot create"
         " 'refs/heads/a/b'", "ref-conflict"),
        ("fatal: cannot process 'refs/heads/a' and 'refs/heads/a/b' at the same time",
         "ref-conflict"),
        (f"{LOCK}': Unable to create '/srv/1.git/refs/heads/a.lock': File exists.", "locked"),
        ("fatal: unable to write new packed-refs: unable to create file /srv/1.git/packed-refs.new:"
         " File exists", "locked"),
        ("error: object file objects/ab/cd is empty\nfatal: loose object abcd (stored in"
         " objects/ab/cd) is corrupt", "corrupt"),
        ("error: packfile ./objects/pack/pack-1.pack does not match index", "corrupt"),
        ("fatal: bad object refs/heads/main", "corrupt"),
        ("error: unknown object type 0 at offset 148 in x.pack\nfatal: unable to get object info"
         " for 22c8370f\nfatal: failed to run repack\nerror: task 'gc' failed", "corrupt"),
        ("error: refs/heads/x does not point to a valid object!", "corrupt"),
        ("error: cannot lock ref 'refs/heads/x': unable to resolve reference 'refs/heads/x':"
         " reference broken", "corrupt"),
        ("fatal: write error: No space left on device", "disk-full"),
        ("error: unable to write file: Disk quota exceeded\nfatal: fetch-pack: invalid index-pack"
         " output", "disk-full"),
        ("bzr: ERROR: Not a branch: \"https://example.org/a/\".", "not-found"),
        ("bzr: ERROR: Connection error: while sending GET /a: [Errno 111] Connection refused",
         "network"),
        (f"{ACCESS} OpenSSL SSL_connect: Connection reset by peer in connection to x:443",
         "network"),
        (f"{ACCESS} OpenSSL SSL_connect: SSL_ERROR_SYSCALL in connection to x:443", "network"),
        ("fatal: unable to access '/etc/mirrorfeed/puller.gitconfig': Permission denied", "other"),
        ("error: insufficient permission for adding an object to repository database ./objects",
         "other"),
        ("Host key verification failed.\nbzr: ERROR: Connection closed: Unexpected end of message."
         " Please check connectivity and permissions, and report a bug if problems persist.",
         "host-key"),
        ("fatal: protocol error: bad pack header", "network"),  # cut off within it
        ("fatal: protocol error: bad line length character: <htm", "not-a-repository"),
        ("something new", "other"),
    ],
)  # fmt: skip
def test_the_class_says_what_kind_of_failure_it_is(said: str, expected: str) -> None:
    """It comes from the telling line."""
    failure = failure_in(b"remote: hello\n" + said.encode(), "git exited with code 128")
    assert failure.failure_class == expected
    assert failure.reason == f"{expected}: {failure.line}"
    assert "\n" not in failure.line


def test_a_program_that_says_nothing_has_a_reason_too() -> None:
    """How it ended."""
    failure = failure_in(b"", "git was ended by signal 9")
    assert failure.reason == "other: git was ended by signal 9"


def test_the_class_of_an_endless_line_is_found_at_once() -> None:
    """Its beginning is looked at."""
    failure = failure_in(b"fatal: " + b"cannot lock ref 'x " * 100_000, "")
    assert failure.failure_class is FailureClass.OTHER
    assert len(failure.line) == 2000
