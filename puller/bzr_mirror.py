"""One attempt to mirror a bzr branch, through breezy (Debian's package brz)."""

import functools
import json
import shutil
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

from mirrorfeed.contract.events import MAX_REVISION_LENGTH, InvalidEvent, check_text
from mirrorfeed.puller.branch_list import Branch
from mirrorfeed.puller.folder import Folder
from mirrorfeed.puller.git import Work, base_environment, ssh_command
from mirrorfeed.puller.mirrored import Mirrored
from mirrorfeed.puller.reasons import FailureClass, MirrorFailure, failure_in
from mirrorfeed.puller.settings import Settings

SCRIPT = Path(__file__).with_name("bzr_pull.py")
PYTHONS = (sys.executable, "/usr/bin/python3")
"""Where breezy may be: beside mirrorfeed, or from the distribution."""
FIND_SECONDS = 30.0
SCHEMES = {
    "https": ("https", "bzr+https"),
    "http": ("http", "bzr+http"),
    "ssh": ("bzr+ssh",),
    "bzr": ("bzr",),
    "file": ("file",),
}
"""What breezy calls the protocols that can be allowed."""


@functools.cache
def python_with_breezy() -> str | None:
    """The Python to run breezy with; None if it is not installed."""
    for python in PYTHONS:
        if shutil.which(python) is None:
            continue
        found = subprocess.run(
            [python, "-I", "-c", "import breezy"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=FIND_SECONDS,
            check=False,
        )
        if found.returncode == 0:
            return python
    return None


def mirror_bzr(branch: Branch, folder: Folder, settings: Settings, work: Work) -> Mirrored:
    """Makes the mirror as upstream is. Raises MirrorFailure."""
    python = python_with_breezy()
    if python is None:
        raise MirrorFailure(
            FailureClass.OTHER,
            "breezy is not installed, which bzr branches need: install it (Debian: apt-get install"
            " brz)",
        )
    work.check_room()  # whether there is anything to fetch, only breezy finds out
    mirror = folder.mirror(branch.id, branch.vcs)
    is_first = not mirror.exists()
    target = folder.incoming(branch.id) if is_first else mirror
    if is_first:
        shutil.rmtree(target, ignore_errors=True)
    schemes = [scheme for each in settings.protocols for scheme in SCHEMES.get(each, ())]
    try:
        own = folder.own / "brz"
        own.mkdir(exist_ok=True)
        ssh = _ssh_program(own, settings)
        mirrored = _pulled(python, branch.url, target, schemes, own, ssh, work)
        work.accept(target)
    except MirrorFailure:
        if is_first:
            shutil.rmtree(target, ignore_errors=True)
        raise
    if is_first:
        folder.publish(target, mirror)
    return mirrored


def _ssh_program(own: Path, settings: Settings) -> Path:
    """breezy runs a program with arguments of its own; ssh keeps the first of two options."""
    script = own / "ssh"
    command = ssh_command(settings)
    text = f'#!/bin/sh\nexec {command} -oNoHostAuthenticationForLocalhost=no "$@"\n'
    if not script.exists() or script.read_text() != text:
        new = own / f"ssh-{uuid4().hex}"
        new.write_text(text)
        new.chmod(0o700)
        new.rename(script)
    return script


def _pulled(
    python: str, url: str, target: Path, schemes: list[str], own: Path, ssh: Path, work: Work
) -> Mirrored:
    ended = work.processes.run(
        [python, "-I", str(SCRIPT), url, str(target), *schemes],
        environment={
            **base_environment(work.mark),
            "BRZ_HOME": str(own),  # nobody's settings, plugins or aliases
            "BRZ_LOG": "/dev/null",
            "BRZ_EMAIL": "puller@localhost",
            "BRZ_SSH": str(ssh),
            "BRZ_PLUGIN_PATH": "-user:-site",
        },
        limits=work.limits,
        inherited=[work.lock],
        watch=work.watch,
        on_progress=work.on_progress,
    )
    if ended.exit_code != 0:
        raise failure_in(ended.errors, f"breezy exited with code {ended.exit_code}")
    try:
        found = json.loads(ended.output)
        revision, has_changed = found["revision"], bool(found["has_changed"])
    except (ValueError, KeyError, TypeError) as error:
        raise MirrorFailure(FailureClass.OTHER, f"breezy printed no result: {error}") from error
    try:
        check_text("revision", revision, at_least=1, at_most=MAX_REVISION_LENGTH)
    except InvalidEvent:  # there is none, or no event can hold it: then the end counts without it
        revision = None
    return Mirrored(revision, revision or "", has_changed)
