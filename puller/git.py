"""git's command line, with an environment that is built from little."""

import functools
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from mirrorfeed.puller.process import Ended, Limits, Processes, Watch
from mirrorfeed.puller.reasons import FailureClass, MirrorFailure, failure_in
from mirrorfeed.puller.refs import (
    ALL_REFSPECS,
    DEFAULT_REFSPECS,
    HEAD,
    HEADS,
    Refs,
    refs_listed,
    refs_on_disk,
)
from mirrorfeed.puller.settings import Settings

KEPT_VARIABLES = (
    *("PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "TZ", "SSH_AUTH_SOCK"),
    *(
        name
        for each in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ftp_proxy")
        for name in (each, each.upper())
    ),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "CURL_CA_BUNDLE", "KRB5CCNAME"),
)
MARK = "MIRRORFEED_PULLER_ATTEMPT"
"""The variable by which what an attempt has started is found if the puller itself was killed."""
CONNECT_SECONDS = 30
ALIVE_SECONDS = 30
ALIVE_COUNT = 4

_PACKET = b"packet:"
_HARMLESS = re.compile(r"(?:error|warning)(?: in \w+ [0-9a-f]+|: \S+): (?:\w+: |not a commit)")
"""What `git fsck` says of objects that it could read (git-fsck(1), FSCK MESSAGES), and of branches
that name such a one."""
_DAMAGE = re.compile(
    r"missing|corrupt|broken link|mismatch|checksum|unable to (?:read|unpack|parse|map|inflate)"
    r"|could not be parsed|cannot (?:be read|unpack)|invalid sha1 pointer|inflate|garbage"
    r"|too (?:short|small)|index unavailable|unknown type|bad (?:object|signature|index)"
    r"|(?:unexpected|unterminated) line"
)

_CONFIG = {
    "advice.detachedHead": "false",
    "core.fsync": "committed,loose-object,reference",
    "core.hooksPath": os.devnull,
    "credential.interactive": "false",
    "fetch.recurseSubmodules": "false",
    "gc.auto": "0",
    "gc.autoDetach": "false",
    "init.defaultBranch": "main",
    "maintenance.auto": "false",
    "protocol.version": "2",
    "transfer.credentialsInUrl": "die",
}


class Work(Struct, frozen=True):
    """What one attempt runs its programs with."""

    processes: Processes
    limits: Limits
    lock: int
    """The open lock of the mirror, which programs inherit."""
    mark: str
    check_room: Callable[[], None] = lambda: None
    """To be called before anything is fetched. Raises MirrorFailure."""
    watch: Watch = lambda: 0
    on_progress: Callable[[bytes], None] = lambda _: None
    accept: Callable[[Path], None] = lambda _: None
    """Raises MirrorFailure if a folder must not become a mirror."""


def base_environment(mark: str) -> dict[str, str]:
    """What any program of an attempt gets."""
    return {**_kept_variables(), MARK: mark}


@functools.cache
def _kept_variables() -> dict[str, str]:
    kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    return {"PATH": os.defpath, **kept, "LC_ALL": "C"}


def git_environment(settings: Settings, mark: str) -> dict[str, str]:
    """Nobody is asked for anything, nothing is taken from users' settings, and no protocol is
    spoken that was not allowed, not after a redirection either."""
    config = settings.git_config if Path(settings.git_config).exists() else os.devnull
    return {
        **base_environment(mark),
        "GIT_ALLOW_PROTOCOL": ":".join(each for each in settings.protocols if each != "bzr"),
        "GIT_ASKPASS": "false",
        "GIT_CONFIG_GLOBAL": config,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_DEFAULT_REF_FORMAT": "files",
        "GIT_SSH_COMMAND": ssh_command(settings),
        "GIT_SSH_VARIANT": "ssh",
        "GIT_TERMINAL_PROMPT": "0",
        **_config_variables(_CONFIG),
    }


def ssh_command(settings: Settings) -> str:
    """A command for ssh that asks nothing, notices a dead connection, believes no unknown host, and
    leaves no process behind. Made for a shell."""
    key = settings.ssh_key
    identity = {"IdentityFile": _one_word(key), "IdentitiesOnly": "yes"}
    options = {
        "BatchMode": "yes",
        "ConnectTimeout": CONNECT_SECONDS,
        "ServerAliveInterval": ALIVE_SECONDS,
        "ServerAliveCountMax": ALIVE_COUNT,
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": _one_word(settings.known_hosts),
        **(identity if key and Path(key).exists() else {}),
        "ControlMaster": "no",
        "ControlPath": "none",
        "ClearAllForwardings": "yes",
        "ForwardAgent": "no",
        "PermitLocalCommand": "no",
    }
    return " ".join(["ssh", *(f"-o{name}={_quoted(value)}" for name, value in options.items())])


def _one_word(path: str) -> str:
    """For ssh, which reads an option as a line of its configuration."""
    return f'"{path}"' if " " in path else path


def _quoted(value: object) -> str:
    text = str(value)
    return "'" + text.replace("'", "'\\''") + "'"


def _config_variables(config: Mapping[str, str]) -> dict[str, str]:
    """git-config(1), GIT_CONFIG_COUNT: stronger than any file."""
    variables = {"GIT_CONFIG_COUNT": str(len(config))}
    for number, (name, value) in enumerate(config.items()):
        variables[f"GIT_CONFIG_KEY_{number}"] = name
        variables[f"GIT_CONFIG_VALUE_{number}"] = value
    return variables


class Git:
    """git for one attempt. Every method raises MirrorFailure."""

    def __init__(self, settings: Settings, work: Work) -> None:
        self._work = work
        self._environment = git_environment(settings, work.mark)

    def listed(self, url: str, git_dir: Path) -> Refs:
        """What upstream has."""
        arguments = ("--git-dir", str(git_dir), "ls-remote", "--symref", "--", url)
        ended = self._ended(*arguments, is_fetching=False)
        if ended.exit_code != 0:
            raise git_failure(ended)
        return refs_listed(ended.output)

    def speaks_git(self, url: str, git_dir: Path) -> bool:
        """Whether there is a git server behind a URL that has listed nothing. By HTTP git takes a
        page without line breaks, and nothing at all, for the list of an empty repository."""
        if not url.lower().startswith(("http:", "https:")):
            return True
        traced = {**self._environment, "GIT_TRACE_PACKET": "2"}
        ended = self._ended(
            *("--git-dir", str(git_dir), "ls-remote", "--", url),
            environment=traced,
            is_fetching=False,
        )
        return _PACKET in ended.errors

    def clone(self, url: str, git_dir: Path) -> None:
        """Makes a mirror of branches and tags, where there is nothing yet."""
        self._work.check_room()
        self._run("clone", "--bare", "--progress", "--template=", "--", url, str(git_dir))

    def fetch_objects(self, url: str, git_dir: Path, objects: Iterable[str]) -> None:
        """Fetches these and all that belongs to them, and touches no reference. git itself makes
        sure that nothing is missing; but of what a shallow upstream has not, if we allowed no more
        of that, it would only warn."""
        self._fetch(git_dir, "--refmap=", "--stdin", "--", url, typed="\n".join(objects))

    def fetch_by_name(self, url: str, git_dir: Path, *, has_all: bool) -> None:
        """Upstream's references, and no others, are the mirror's."""
        refspecs = ALL_REFSPECS if has_all else DEFAULT_REFSPECS
        self._fetch(git_dir, "--atomic", "--prune", "--force", "--", url, *refspecs)

    def _fetch(self, git_dir: Path, *arguments: str, typed: str = "") -> None:
        self._work.check_room()
        self._run(
            *("--git-dir", str(git_dir), "fetch", "--no-tags", "--progress", "--update-shallow"),
            *("--no-write-fetch-head", "--no-auto-maintenance", "--no-recurse-submodules"),
            *("--no-show-forced-updates", *arguments),
            typed=typed,
        )

    def peeled(self, git_dir: Path, objects: Collection[str]) -> dict[str, str]:
        """What each is if no tag is looked at: itself, or what the tag is of."""
        if not objects:
            return {}
        asked = "".join(f"{each}^{{}}\n" for each in objects)
        arguments = ("--git-dir", str(git_dir), "cat-file", "--batch-check=%(objectname)")
        found = self._run(*arguments, typed=asked).output.decode().splitlines()
        if missing := next((line for line in found if " " in line), None):
            raise MirrorFailure(FailureClass.CORRUPT, f"the object {missing}")
        return dict(zip(objects, found, strict=True))

    def damage(self, git_dir: Path) -> str | None:
        """What `git fsck` finds broken; None if nothing is. That an old object is not as git would
        write it today is no damage."""
        ended = self._ended("--git-dir", str(git_dir), "fsck", "--no-dangling", "--progress")
        if ended.exit_code == 0:
            return None
        # Its exit code does not tell: of an old object in a pack it is that of a broken pack.
        said = (ended.output + b"\n" + ended.errors).decode(errors="replace").splitlines()
        return next(
            (line for line in said if _DAMAGE.search(line) and not _HARMLESS.match(line)), None
        )

    def has_common_history(self, git_dir: Path, ours: Sequence[str], theirs: str) -> bool:
        return self.succeeds(git_dir, "merge-base", theirs, *ours)

    def follow(self, git_dir: Path, head: str) -> None:
        """HEAD is that branch from now on."""
        if head.startswith(HEADS):
            self.output(git_dir, "symbolic-ref", HEAD, head)

    def name_origin(self, git_dir: Path, url: str) -> None:
        """For people who look into the mirror; the puller itself does not."""
        self.output(git_dir, "config", "remote.origin.url", url)

    def output(self, git_dir: Path, *arguments: str) -> bytes:
        return self._run("--git-dir", str(git_dir), *arguments).output

    def succeeds(self, git_dir: Path, *arguments: str) -> bool:
        return self._ended("--git-dir", str(git_dir), *arguments).exit_code == 0

    def _run(self, *arguments: str, typed: str = "") -> Ended:
        ended = self._ended(*arguments, typed=typed)
        if ended.exit_code != 0:
            raise git_failure(ended)
        return ended

    def _ended(
        self,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        is_fetching: bool = True,
        typed: str = "",
    ) -> Ended:
        work = self._work
        return work.processes.run(
            ["git", *arguments],
            environment=environment or self._environment,
            limits=work.limits,
            typed=typed.encode(),
            inherited=[work.lock],
            watch=work.watch if is_fetching else lambda: 0,
            on_progress=work.on_progress,
        )


def git_failure(ended: Ended) -> MirrorFailure:
    code = ended.exit_code
    how = f"was ended by signal {-code}" if code < 0 else f"exited with code {code}"
    return failure_in(ended.errors, f"git {how}")


def known_refs(git_dir: Path) -> Refs:
    """What a mirror has; nothing, if its files cannot be read."""
    with suppress(OSError):
        return refs_on_disk(git_dir)
    return Refs({})
