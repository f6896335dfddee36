"""The options that several commands of the puller take, and what becomes of them."""

import shlex
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from mirrorfeed.contract import environment
from mirrorfeed.contract.durations import duration
from mirrorfeed.contract.events import shown
from mirrorfeed.puller.errors import PullerError
from mirrorfeed.puller.settings import Settings
from mirrorfeed.puller.state import State
from mirrorfeed.puller.urls import DEFAULT_PROTOCOLS, PROTOCOLS

DEFAULT_INTO = Path("/srv/mirrors")
LIST = "list"
SETTINGS = "settings"
"""Facts that `run` notes for the other commands."""
USUAL = Settings()

IntoOption = Annotated[
    Path,
    typer.Option(
        "--into",
        envvar=environment.PULLER_INTO,
        metavar="DIR",
        help="The folder of the mirrors.",
    ),
]
ListOption = Annotated[
    Path | None,
    typer.Option(
        "--list",
        envvar=environment.PULLER_LIST,
        metavar="LIST.csv",
        help="The list. [default: the one that was run last into this folder]",
        show_default=False,
    ),
]
JobsOption = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        envvar=environment.PULLER_JOBS,
        min=1,
        max=1000,
        help=f"How many branches to mirror at once. [default: {USUAL.jobs}]",
        show_default=False,
    ),
]
PerHostOption = Annotated[
    int | None,
    typer.Option(
        "--per-host",
        envvar=environment.PULLER_PER_HOST,
        min=1,
        help=f"How many of them from one host. [default: {USUAL.per_host}]",
        show_default=False,
    ),
]
IntervalOption = Annotated[
    str | None,
    typer.Option(
        "--interval",
        envvar=environment.PULLER_INTERVAL,
        metavar="DURATION",
        help="How often to mirror a branch whose line does not say so. [default: 1h]",
        show_default=False,
    ),
]
ProtocolOption = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-protocol",
        envvar=environment.PULLER_ALLOW_PROTOCOL,
        metavar="P",
        help=f"Mirror by this protocol, too: {', '.join(PROTOCOLS[2:])}. Can be given several"
        f" times. {' and '.join(DEFAULT_PROTOCOLS)} are always allowed.",
        show_default=False,
    ),
]
StallOption = Annotated[
    str | None,
    typer.Option(
        "--stall-timeout",
        envvar=environment.PULLER_STALL_TIMEOUT,
        metavar="DURATION",
        help="End an attempt that makes no progress for this long. [default: 10m]",
        show_default=False,
    ),
]
TimeoutOption = Annotated[
    str | None,
    typer.Option(
        "--timeout",
        envvar=environment.PULLER_TIMEOUT,
        metavar="DURATION",
        help="End an attempt that takes longer than this. [default: 6h]",
        show_default=False,
    ),
]
StopOption = Annotated[
    str | None,
    typer.Option(
        "--stop-timeout",
        envvar=environment.PULLER_STOP_TIMEOUT,
        metavar="DURATION",
        help="When told to end, wait this long for attempts that are under way. [default: 30s]",
        show_default=False,
    ),
]
MaxMirrorOption = Annotated[
    int | None,
    typer.Option(
        "--max-mirror-bytes",
        envvar=environment.PULLER_MAX_MIRROR_BYTES,
        min=0,
        help="Fail a branch whose mirror is larger than this; 0 for any size. [default: 0]",
        show_default=False,
    ),
]
KeepFreeOption = Annotated[
    int | None,
    typer.Option(
        "--keep-free-bytes",
        envvar=environment.PULLER_KEEP_FREE_BYTES,
        min=0,
        help=f"Keep this much of the disk free. [default: {USUAL.keep_free_bytes}]",
        show_default=False,
    ),
]
GitConfigOption = Annotated[
    str | None,
    typer.Option(
        "--git-config",
        envvar=environment.PULLER_GIT_CONFIG,
        metavar="FILE",
        help="git's configuration, in place of the user's and the system's: for credential"
        f" helpers, say. [default: {USUAL.git_config}, if it is there]",
        show_default=False,
    ),
]
KnownHostsOption = Annotated[
    str | None,
    typer.Option(
        "--known-hosts",
        envvar=environment.PULLER_KNOWN_HOSTS,
        metavar="FILE",
        help=f"The host keys that ssh believes. [default: {USUAL.known_hosts}]",
        show_default=False,
    ),
]
SshKeyOption = Annotated[
    str | None,
    typer.Option(
        "--ssh-key",
        envvar=environment.PULLER_SSH_KEY,
        metavar="FILE",
        help="The key that ssh uses; if it is not there, those of the user."
        f" [default: {USUAL.ssh_key}]",
        show_default=False,
    ),
]
HookOption = Annotated[
    str | None,
    typer.Option(
        "--hook",
        envvar=environment.PULLER_HOOK,
        metavar="COMMAND",
        help="Run this in a mirror that has changed; no shell reads it.",
        show_default=False,
    ),
]
HookTimeoutOption = Annotated[
    str | None,
    typer.Option(
        "--hook-timeout",
        envvar=environment.PULLER_HOOK_TIMEOUT,
        metavar="DURATION",
        help="End a hook that takes longer than this. [default: 60s]",
        show_default=False,
    ),
]
MaintenanceOption = Annotated[
    str | None,
    typer.Option(
        "--maintenance-interval",
        envvar=environment.PULLER_MAINTENANCE_INTERVAL,
        metavar="DURATION",
        help="How often to run git maintenance in a mirror that changes; 0s for never."
        " [default: 7d]",
        show_default=False,
    ),
]
ForwardOption = Annotated[
    bool,
    typer.Option(
        "--forward/--no-forward",
        envvar=environment.PULLER_FORWARD,
        help="Send what is reported to the broker, unless another process does.",
    ),
]


def seconds(text: str | None) -> float | None:
    """Raises ValueError."""
    return None if text is None else duration(text).total_seconds()


def protocols(given: list[str] | None) -> tuple[str, ...] | None:
    """With those that are always allowed. Raises ValueError for one that is not known."""
    if not given:
        return None
    for each in given:
        if each not in PROTOCOLS:
            raise ValueError(
                f"--allow-protocol {shown(each)} is not known; there are {', '.join(PROTOCOLS)}"
            )
    return tuple(dict.fromkeys((*DEFAULT_PROTOCOLS, *given)))


def command_given(text: str | None) -> tuple[str, ...] | None:
    """Raises ValueError if a quotation in it does not end."""
    try:
        return None if text is None else tuple(shlex.split(text))
    except ValueError as error:
        raise ValueError(f"--hook {shown(text)} cannot be read: {error}") from None


def note_run(state: State, list_path: Path, settings: Settings) -> None:
    """So that the other commands know what `run` was told."""
    state.save_fact(LIST, str(list_path.absolute()).encode(errors="surrogateescape"))
    state.save_fact(SETTINGS, msgspec.json.encode(settings))


def noted_list(state: State, given: Path | None) -> Path:
    """The list to use. Raises PullerError if nobody has named one."""
    if given is not None:
        return given
    noted = state.fact(LIST)
    if noted is None:
        raise PullerError(
            "which list? Nothing was run into this folder yet: name one with --list, or another"
            " folder with --into"
        )
    return Path(noted.decode(errors="surrogateescape"))


def noted_settings(state: State) -> Settings:
    """What `run` was told last; the usual, if that cannot be read."""
    noted = state.fact(SETTINGS)
    try:
        return msgspec.json.decode(noted, type=Settings) if noted else Settings()
    except msgspec.MsgspecError:
        return Settings()
