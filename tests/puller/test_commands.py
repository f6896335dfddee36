"""What the puller's other commands show and do."""

import gzip
import json
import os

import pytest

from mirrorfeed.puller.urls import PROTOCOLS
from tests.pullers import TestPuller
from tests.upstreams import Upstream, fingerprint


def test_status_tells_what_is_due_and_failing_and_why(
    puller: TestPuller, upstream: Upstream
) -> None:
    """For people in groups, for programs as one document."""
    puller.write_list({1: upstream.path.as_uri(), 2: "file:///no", 3: "/etc", 4: "file:///nono"})
    puller.once(expect=1)
    puller.write_list({1: upstream.path.as_uri(), 2: "file:///no", 3: "/etc", 5: "file:///new"})
    found = puller.status()
    assert [each["id"] for each in found["branches"]] == [1, 2, 3, 5]
    assert found["classes"] == {"not-found": 1, "refused-url": 1}
    assert (found["due"], found["running"], found["failing"]) == (1, 0, 2)
    assert found["not_in_the_list"] == 1
    first = found["branches"][0]
    assert first["unique_name"] == "~ada/b1"
    assert first["revision"] == upstream.refs()["refs/heads/main"]
    assert first["size_bytes"] > 0
    shown = puller.shell.run("mirror-puller", "status").stdout
    assert shown.startswith("4 branches: 1 due, 0 running, 2 failing; mirrors take ")
    assert "1 branch left the list" in shown
    assert "\nnot-found: 1\n  2  ~ada/b2  1 in a row  fatal: '/no' does not appear" in shown


def test_status_of_a_folder_that_nothing_was_run_into_asks_for_a_list(puller: TestPuller) -> None:
    """With a list every branch of it is due; nothing is made."""
    result = puller.shell.run("mirror-puller", "status", expect=2)
    assert "name one with --list" in result.stderr
    puller.write_list(["https://example.org/a"])
    shown = puller.shell.run("mirror-puller", "status", "--list", str(puller.list)).stdout
    assert shown == "1 branch: 1 due, 0 running, 0 failing; mirrors take 0 bytes\n"
    assert not puller.into.exists()


def test_status_shows_nothing_that_controls_a_terminal(puller: TestPuller) -> None:
    """Names and URLs come from a list that anybody may have written."""
    puller.list.write_text('id,unique_name,url\n1,"a\x1b[2Jb",https://x/\x1b[2J\n')
    puller.once(expect=1)
    for command in ("status", "dry-run", "prune"):
        result = puller.shell.run("mirror-puller", command)
        assert "\x1b" not in result.stdout + result.stderr
    assert "\x1b" not in puller.sync("1", expect=1)


def test_a_dry_run_changes_nothing(puller: TestPuller, upstream: Upstream) -> None:
    """It names what is due, in order, and what is refused; nobody is asked."""
    puller.write_list({1: upstream.path.as_uri(), 2: "ext::sh", 3: "https://example.org/a"})
    command = ("mirror-puller", "dry-run", "--list", str(puller.list))
    shown = puller.shell.run(*command).stdout
    assert f"3 branches in {puller.list}, 3 would be mirrored now" in shown
    assert f"1  ~ada/b1  clone {upstream.path.as_uri()}" in shown
    assert "2  ~ada/b2  refused-url: the URL 'ext::sh' is refused" in shown
    assert not puller.into.exists()
    puller.write_list({1: upstream.path.as_uri()})
    puller.once()
    before = without_journals(fingerprint(puller.into))
    assert "0 would be mirrored now" in puller.shell.run("mirror-puller", "dry-run").stdout
    shown = puller.shell.run("mirror-puller", "dry-run", "--all").stdout
    assert "look and fetch" in shown
    assert without_journals(fingerprint(puller.into)) == before


def without_journals(files: dict[str, bytes]) -> dict[str, bytes]:
    """SQLite makes these when it reads, too."""
    return {name: body for name, body in files.items() if "state.db-" not in name}


def test_root_does_not_make_files_that_the_service_cannot_use(puller: TestPuller) -> None:
    """What changes the mirrors must run as the user whose they are; looking is free."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    puller.into.mkdir()
    os.chown(puller.into, 65534, 65534)
    puller.write_list(["file:///nowhere"])
    result = puller.shell.run(*puller.command("--once"), expect=2)
    assert "belongs to nobody" in result.stderr
    assert "runuser -u nobody" in result.stderr
    assert list(puller.into.iterdir()) == []
    puller.shell.run("mirror-puller", "status", "--list", str(puller.list))


def test_sync_mirrors_by_number_and_by_name(puller: TestPuller, upstream: Upstream) -> None:
    """With the list and the settings of the last run."""
    puller.write_list([upstream.path.as_uri(), "file:///nowhere"])
    puller.once(expect=1)
    puller.also(MIRRORFEED_PULLER_ALLOW_PROTOCOL="")
    tip = upstream.commit()
    said = puller.sync("1", "~ada/b1")
    assert said == f"1 ~ada/b1: mirrored {tip}\n"
    assert puller.outcome() == tip
    assert puller.sync("~ada/b2", expect=1).startswith("2 ~ada/b2: not-found: ")
    result = puller.shell.run("mirror-puller", "sync", "3", expect=1)
    assert f"'3' is not a branch with a URL in {puller.list}" in result.stderr


def test_leaving_the_list_removes_nothing_but_prune_does(
    puller: TestPuller, upstream: Upstream
) -> None:
    """Not more than 5 % at once, though one may always go."""
    urls = {each: upstream.path.as_uri() for each in range(1, 6)}
    puller.write_list(urls)
    puller.once()
    for gone in (4, 5):
        del urls[gone]
    puller.write_list(urls)
    puller.once()
    assert puller.mirror(4).exists()
    result = puller.shell.run("mirror-puller", "prune", expect=1)
    assert "2 of 5 mirrors are not those of branches in" in result.stderr
    assert "--at-most 100" in result.stderr
    shown = puller.shell.run("mirror-puller", "prune", "--dry-run").stdout
    assert "2 mirrors would go" in shown
    assert puller.mirror(4).exists()
    urls[5] = upstream.path.as_uri()
    puller.write_list(urls)
    shown = puller.shell.run("mirror-puller", "prune").stdout
    assert "4 ~ada/b4 " in shown
    assert "1 mirror removed" in shown
    assert not puller.mirror(4).exists()
    assert puller.mirror(5).exists()
    urls = {1: "https://bzr.example.org/b", 2: urls[2], 3: urls[3], 5: urls[5]}
    puller.write_list({1: urls[1]}, vcs="bzr")
    puller.list.write_text(
        puller.list.read_text()
        + "".join(f"{each},b{each},{urls[each]},git\n" for each in (2, 3, 5))
    )
    shown = puller.shell.run("mirror-puller", "prune").stdout
    assert shown.startswith("1 ~ada/b1 "), shown
    assert 4 not in puller.states()


def test_prune_spares_branches_that_are_not_mirrored_at_present(
    puller: TestPuller, upstream: Upstream
) -> None:
    """A line without a URL is a line of the list: nothing of its branch is lost."""
    puller.write_list([upstream.path.as_uri()] * 3)
    puller.once()
    puller.write_list({1: upstream.path.as_uri(), 2: "", 3: ""})
    shown = puller.shell.run("mirror-puller", "prune", "--at-most", "100").stdout
    assert shown == "0 mirrors removed, 0 bytes\n"
    assert puller.refs(2) == puller.refs(3) == upstream.refs()
    assert set(puller.states()) == {1, 2, 3}
    assert puller.status()["not_in_the_list"] == 0


def test_prune_knows_what_is_no_mirror(puller: TestPuller, upstream: Upstream) -> None:
    """A number that no branch can have stays; of a mirror that was put elsewhere the link goes."""
    puller.write_list([upstream.path.as_uri()] * 2)
    puller.once()
    stray = puller.into / f"{2**63}.git"
    stray.mkdir()
    elsewhere = puller.folder / "elsewhere.git"
    puller.mirror(2).rename(elsewhere)
    puller.mirror(2).symlink_to(elsewhere)
    before = fingerprint(elsewhere)
    puller.write_list({1: upstream.path.as_uri()})
    shown = puller.shell.run("mirror-puller", "prune").stdout
    assert shown.startswith("2 ~ada/b2 ")
    assert sorted(each.name for each in puller.into.iterdir()) == [".puller", "1.git", stray.name]
    assert fingerprint(elsewhere) == before


def test_a_list_comes_from_a_manifest_of_grokmirrors(puller: TestPuller) -> None:
    """Its repositories get numbers, and keep them."""
    manifest = puller.folder / "manifest.js.gz"
    first = {"/pub/b.git": {"fingerprint": "x", "modified": 1}, "/pub/a.git": {"reference": None}}
    manifest.write_bytes(gzip.compress(json.dumps(first).encode()))
    command = ("mirror-puller", "import-manifest", str(manifest), "--site", "https://host/")
    text = puller.shell.run(*command).stdout
    assert text == (
        "id,unique_name,url\n1,pub/a,https://host/pub/a.git\n2,pub/b,https://host/pub/b.git\n"
    )
    puller.list.write_text(text)
    plain = puller.folder / "manifest.js"
    plain.write_text(json.dumps({**first, "/0.git": {}}))
    command = ("mirror-puller", "import-manifest", str(plain), "--site", "https://host")
    text = puller.shell.run(*command, "--list", str(puller.list)).stdout
    assert "3,0,https://host/0.git\n" in text
    assert "2,pub/b," in text


@pytest.mark.parametrize("body", [b"", b"junk", b'["/a.git"]', b"\x1f\x8bjunk", b'{"/.git": {}}'])
def test_a_manifest_that_is_none_is_refused(puller: TestPuller, body: bytes) -> None:
    """In one line."""
    manifest = puller.folder / "manifest.js"
    manifest.write_bytes(body)
    command = ("mirror-puller", "import-manifest", str(manifest), "--site", "https://host/")
    result = puller.shell.run(*command, expect=2)
    assert result.stderr.startswith("mirror-puller: the manifest ")
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--allow-protocol", "gopher"), "--allow-protocol 'gopher' is not known"),
        (("--interval", "soon"), "the duration 'soon' cannot be read"),
        (("--interval", "0s"), "the interval must be longer than 0s"),
        (("--jobs", "0"), "Invalid value for '--jobs'"),
        (("--hook", "'x"), "cannot be read: No closing quotation"),
        (("--forward", "--amqp-url", "gopher://x"), "the AMQP URL cannot be read"),
        (("--into", "/proc/no/mirrors"), "the folder /proc/no/mirrors cannot be used"),
    ],
)
def test_wrong_options_are_named(puller: TestPuller, arguments: tuple[str, ...], says: str) -> None:
    """With exit code 2, before anything is done."""
    puller.write_list(["https://example.org/a"])
    result = puller.shell.run(*puller.command("--once", *arguments), expect=2)
    assert says in result.stderr
    assert "Traceback" not in result.stderr
    assert not puller.spool.exists()


def test_a_missing_git_is_named_with_its_remedy(puller: TestPuller) -> None:
    """Before any attempt; bzr branches do without it."""
    puller.write_list(["https://example.org/a"])
    puller.also(PATH="/nowhere")
    result = puller.shell.run(*puller.command("--once"), expect=2)
    assert "git is not installed: install it" in result.stderr
    assert puller.events() == []


def test_every_setting_is_an_option_and_a_variable(puller: TestPuller) -> None:
    """`--help` names both, and the variable counts."""
    text = " ".join(puller.shell.run("mirror-puller", "run", "--help").stdout.split())
    for name in ("INTO", "JOBS", "PER_HOST", "INTERVAL", "ALLOW_PROTOCOL", "STALL_TIMEOUT",
                 "TIMEOUT", "STOP_TIMEOUT", "MAX_MIRROR_BYTES", "KEEP_FREE_BYTES", "GIT_CONFIG",
                 "KNOWN_HOSTS", "SSH_KEY", "HOOK", "HOOK_TIMEOUT", "MAINTENANCE_INTERVAL",
                 "FORWARD", "LIST"):  # fmt: skip
        assert f"MIRRORFEED_PULLER_{name}" in text
    for protocol in PROTOCOLS:
        assert protocol in text
    puller.write_list(["file:///nowhere"])
    puller.also(MIRRORFEED_PULLER_LIST=str(puller.list), MIRRORFEED_PULLER_INTERVAL="2h")
    puller.shell.run("mirror-puller", "run", "--once", "--no-forward", expect=1)
    state = puller.states()[1]
    assert (state.due_at - state.attempted_at) / 3600 == pytest.approx(4, rel=0.11)
