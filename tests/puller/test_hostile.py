"""Upstreams that are silent, ask for something, or are not what they seem."""

import os
import shutil
import time
from pathlib import Path

import pytest

from tests.puller.lying import redirecting
from tests.pullers import TestPuller
from tests.terminal import terminal
from tests.upstreams import (
    TOKEN,
    USER,
    SshServer,
    Upstream,
    WebServer,
    fingerprint,
    has_sshd,
    silent_server,
)

needs_sshd = pytest.mark.skipif(not has_sshd(), reason="sshd is not installed (openssh-server)")
needs_ssh = pytest.mark.skipif(shutil.which("ssh") is None, reason="ssh is not installed")


def log_of_git(puller: TestPuller) -> Path:
    """Where every git that the puller starts from now on leaves a line."""
    folder = puller.folder / "bin"
    folder.mkdir(exist_ok=True)
    log = puller.folder / "git.log"
    script = folder / "git"
    script.write_text(f'#!/bin/sh\necho "$@" >> {log}\nexec {shutil.which("git")} "$@"\n')
    script.chmod(0o755)
    puller.also(PATH=f"{folder}:{os.environ['PATH']}")
    return log


@pytest.mark.parametrize("scheme", ["git", "http", pytest.param("ssh", marks=needs_ssh)])
def test_a_silent_server_costs_no_more_than_the_time_limit(puller: TestPuller, scheme: str) -> None:
    """Nothing of the attempt is left, neither git nor what it has started."""
    with silent_server() as port:
        puller.write_list([f"{scheme}://127.0.0.1:{port}/a.git"])
        began = time.monotonic()
        puller.once("--stall-timeout", "1s", expect=1)
        assert time.monotonic() - began < 6
    assert puller.outcome() == "timeout"
    assert "made no progress for 1 s" in puller.reason()
    assert puller.programs() == []


def test_a_server_that_sends_for_ever_meets_the_hard_limit(
    puller: TestPuller, upstream: Upstream
) -> None:
    """Progress alone is not enough."""
    program = puller.folder / "chatting"
    program.write_text("#!/bin/sh\nwhile :; do echo working >&2; sleep 0.1; done\n")
    program.chmod(0o755)
    folder = puller.folder / "bin"
    folder.mkdir()
    program.rename(folder / "git")
    puller.also(PATH=f"{folder}:{os.environ['PATH']}")
    puller.write_list([upstream.path.as_uri()])
    puller.once("--timeout", "2s", expect=1)
    assert puller.outcome() == "timeout"
    assert "took longer than 2 s and was ended; it last said: working" in puller.reason()


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("status/403", "auth-or-missing"),
        ("status/404", "not-found"),
        ("status/429", "rate-limited"),
        ("status/500", "network"),
        ("status/503", "network"),
        ("login", "not-a-repository"),
        ("page", "not-a-repository"),
        ("blank", "not-a-repository"),
        ("secret", "auth-or-missing"),
        ("nothing", "not-found"),
        ("cut/git", "network"),
    ],
)
def test_what_a_server_says_is_the_class(
    puller: TestPuller, upstream: Upstream, web: WebServer, place: str, expected: str
) -> None:
    """For the first attempt, and for one with a mirror, which stays as it was."""
    upstream.commit(size=100_000)
    here = place.partition("/git")[0]
    url = f"{web.url}/{here}/a.git"
    puller.write_list([url])
    puller.once(expect=1)
    assert puller.outcome() == expected, puller.reason()
    assert not puller.mirror().exists()
    puller.write_list([f"{web.url}/git/a.git"])
    puller.once("--interval", "1s")
    before = fingerprint(puller.mirror())
    upstream.commit(size=100_000)
    puller.write_list([url])
    if expected != "rate-limited":  # then the host is left alone
        puller.once(expect=1)
        assert puller.outcome() == expected, puller.reason()
    assert without_objects(fingerprint(puller.mirror())) == without_objects(before)


def without_objects(files: dict[str, bytes]) -> dict[str, bytes]:
    """What arrived before a connection broke off may stay; nothing refers to it."""
    return {name: body for name, body in files.items() if not name.startswith("objects/")}


def test_only_a_host_that_asks_for_it_is_left_alone(puller: TestPuller, web: WebServer) -> None:
    """429 pauses its other branches, too; a login page and an error do not."""
    port = web.server_port
    puller.write_list(
        {
            1: f"http://127.0.0.1:{port}/login/a",
            2: f"http://127.0.0.1:{port}/status/500/a",
            3: f"http://127.0.0.2:{port}/x",
            4: f"http://127.0.0.1:{port}/status/429/a",
            5: f"http://127.0.0.1:{port}/status/404/a",
        }
    )
    log = puller.once("--jobs", "1", expect=1)
    assert "a host is left alone host=127.0.0.1 seconds=900" in log
    assert [puller.outcomes(each) for each in (1, 2, 4, 5)] == [
        ["not-a-repository"],
        ["network"],
        ["rate-limited"],
        [],
    ]
    assert set(puller.status()["paused_hosts"]) == {"127.0.0.1"}
    puller.once(expect=1)
    assert puller.outcomes(5) == []
    assert len(puller.outcomes(3)) == 2


@pytest.mark.parametrize("place", ["secret", "encrypted key"])
def test_nobody_is_asked_for_a_password(
    puller: TestPuller, web: WebServer, request: pytest.FixtureRequest, place: str
) -> None:
    """On a terminal, where git and ssh could; the attempt fails within moments."""
    if place == "secret":
        puller.write_list([f"{web.url}/secret/a.git"])
    else:
        if not has_sshd():
            pytest.skip("sshd is not installed (openssh-server)")
        ssh: SshServer = request.getfixturevalue("ssh")
        puller.use_key(ssh.folder / "encrypted")
        puller.write_list([ssh.url(puller.folder)])
    began = time.monotonic()
    with terminal(puller.shell, *puller.command("--once"), columns=200) as screen:
        assert screen.end() == 1
    assert time.monotonic() - began < 6
    assert puller.outcome() == "auth-or-missing"
    for word in ("Username", "Password", "passphrase"):
        assert f"{word} for" not in screen.written.replace("could not read Username for", "")
    assert "seconds=" in screen.written


@needs_sshd
def test_a_mirror_comes_over_ssh(puller: TestPuller, upstream: Upstream, ssh: SshServer) -> None:
    """From a host whose key is known."""
    puller.write_list([ssh.url(upstream.path)])
    puller.once()
    assert puller.refs() == upstream.refs()


@needs_sshd
@pytest.mark.parametrize("known", ["other", "nothing"])
def test_a_host_with_another_key_is_not_believed(
    puller: TestPuller, upstream: Upstream, ssh: SshServer, known: str
) -> None:
    """Nor one that nobody knows."""
    puller.write_list([ssh.url(upstream.path)])
    if known == "nothing":
        puller.known_hosts.unlink()
    else:
        ssh.trust(known)
        puller.known_hosts.write_text(ssh.known_hosts.read_text())
    puller.once(expect=1)
    assert puller.outcome() == "host-key"
    assert "Host key verification failed" in puller.reason()
    assert not puller.mirror().exists()


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc", "ext::sh -c 'touch ran'", "-ufoo", "--upload-pack=touch ran", "/etc",
        "ssh://-oProxyCommand=touch%20ran/a", "https://jane:s3cret@127.0.0.1/a",
    ],
)  # fmt: skip
def test_a_refused_line_starts_no_process(tmp_path: Path, url: str) -> None:
    """It is a failed attempt of its branch, and says why."""
    puller = TestPuller(tmp_path, "http")
    log = log_of_git(puller)
    puller.write_list([url])
    said = puller.once(expect=1)
    assert puller.outcome() == "refused-url"
    assert not log.exists()
    assert "s3cret" not in puller.reason() + said


@pytest.mark.usefixtures("upstream")
def test_a_redirection_does_not_lead_into_files(puller: TestPuller, web: WebServer) -> None:
    """Although files may be mirrored, a server has no say in it."""
    puller.write_list([f"{web.url}/to/a.git"])
    puller.once(expect=1)
    assert puller.outcome() == "refused-url", puller.reason()
    assert not puller.mirror().exists()


def test_a_server_has_no_use_of_a_token_for_another_if_redirections_are_refused(
    puller: TestPuller, upstream: Upstream, web: WebServer
) -> None:
    """In the puller's git configuration, for all places or all but some."""
    store = puller.folder / "credentials"
    store.write_text(f"http://{USER}:{TOKEN}@127.0.0.1:{web.server_port}\n")
    token = f'[credential "{web.url}"]\n\thelper = store --file {store}\n'
    refusing = f"{token}[http]\n\tfollowRedirects = false\n"
    puller.git_config.write_text(refusing)
    with redirecting(f"{web.url}/secret") as url:
        puller.write_list([f"{url}/a.git"])
        puller.once(expect=1)
        assert puller.outcome() == "refused-url", puller.reason()
        assert "returned error: 302" in puller.reason()
        assert not web.requests
        puller.git_config.write_text(f'{refusing}[http "{url}"]\n\tfollowRedirects = initial\n')
        puller.once()
        assert puller.refs() == upstream.refs()


def test_a_token_stays_where_it_is(puller: TestPuller, upstream: Upstream, web: WebServer) -> None:
    """git has it from a file that its configuration names; nobody else ever sees it."""
    store = puller.folder / "credentials"
    store.write_text(f"http://{USER}:{TOKEN}@127.0.0.1:{web.server_port}\n")
    puller.git_config.write_text(f"[credential]\n\thelper = store --file {store}\n")
    log = log_of_git(puller)
    puller.write_list([f"{web.url}/secret/a.git"])
    said = puller.once()
    upstream.commit()
    said += puller.once()
    assert puller.refs() == upstream.refs()
    said += puller.shell.run("mirror-puller", "status", "--json").stdout + log.read_text()
    found = {**fingerprint(puller.into), "spool": puller.spool.read_bytes(), "said": said.encode()}
    assert [name for name, body in found.items() if TOKEN.encode() in body] == []
