"""Why a command failed: what its standard error says about that, without the rest.

Programs explain at length: git ends most errors with advice. A reader of the reason needs the
error itself.
"""

import re
from collections.abc import Iterator

LAST_LINES = 3
"""What is kept of an output in which no line is marked as an error."""
LINES_AROUND = 3
"""What is kept at most before and after the lines that are marked as errors."""
MAX_ERRORS = 6

_ERROR = re.compile(r"(?:[\w.+-]{1,40}: )?(?:fatal|error):", re.IGNORECASE)
_CONSEQUENCES = (
    "fatal: could not read from remote repository",
    "fatal: the remote end hung up",
    "fatal: early eof",
    "fatal: fetch-pack: invalid index-pack output",
    "fatal: index-pack failed",
    "error: could not fetch ",
    "error: failed to push some refs",
    "error: some local refs could not be updated",
    "bzr: error: connection closed: unexpected end of message",
)
"""What git and bzr say, in lower case, after the cause: a line of ssh, of the other side, or of
their own."""
_HINTS = (
    "hint:",
    "remote: hint:",
    "Please make sure you have the correct access rights",
    "and the repository exists.",
    "To add an exception for this directory, call:",
    "\tgit config --global --add safe.directory",
    "Another git process seems to be running in this repository",
    "an editor opened by 'git commit'.",
    "are terminated then try again.",
    "may have crashed in this repository earlier:",
    "remove the file manually to continue.",
)
"""git marks most of its advice, but not all."""
_PROGRESS = re.compile(
    r"""(?:remote:\ )?
        (?: [\w ]{1,60}:\s{1,3}\d{1,3}%
          | (?:Enumerating|Counting)\ objects:\ | Total\ \d+\ \(delta\ )
      | \s*+[\d,.]{1,30}[kKMGT]?\s+\d{1,3}%\s                                    # rsync's
    """,
    re.VERBOSE,
)
_TERMINAL_CONTROL = re.compile(r"\x1b(?:\[[0-?]*+[ -/]*+[@-~]|\][^\x07\x1b]*+)")


def reason_in(output: bytes) -> str | None:
    """What the end of a command's standard error says about its failure; None if it says nothing.

    That is the last line that begins with `fatal:` or `error:` (with or without a program's name),
    and the ones directly above it. If they only say that something else failed, as git's do after
    an error of ssh, the lines before are kept too. Without such a line it is the last few lines.
    """
    lines = list(_telling_lines(output.decode(errors="replace")))
    end = next((at for at in range(len(lines), 0, -1) if _ERROR.match(lines[at - 1])), 0)
    if end == 0:
        return "\n".join(line.strip() for line in lines[-LAST_LINES:]) or None
    begin = end - 1
    while begin > 0 and end - begin < MAX_ERRORS and _ERROR.match(lines[begin - 1]):
        begin -= 1
    if all(line.lower().startswith(_CONSEQUENCES) for line in lines[begin:end]):
        furthest = max(0, begin - LINES_AROUND)
        while begin > furthest and not _ERROR.match(lines[begin - 1]):
            begin -= 1
    furthest = min(len(lines), end + LINES_AROUND)
    while end < furthest and lines[end].startswith("\t"):  # what the error is about, one by one
        end += 1
    return "\n".join(line.strip() for line in lines[begin:end])


def telling_line_in(output: bytes) -> str | None:
    """The same in one line, without those that only say that something else failed, if there is
    one that says what."""
    lines = (reason_in(output) or "").split("\n")
    causes = [line for line in lines if not line.lower().startswith(_CONSEQUENCES)]
    return "; ".join(causes or lines) or None


def _telling_lines(text: str) -> Iterator[str]:
    for line in _TERMINAL_CONTROL.sub("", text).split("\n"):
        # What overwrites itself is progress, and its last state may be the end of it.
        states = [state for state in line.split("\r") if state.strip()]
        for state in states:
            is_kept = state is states[-1] or _ERROR.match(state)
            if is_kept and not _PROGRESS.match(state) and not state.startswith(_HINTS):
                yield state
