"""Why a branch was not mirrored: a class, which can be counted, and the line that tells it.

The line is found where `mirror-publisher run` finds it, in `mirrorfeed.publisher.reasons`.
"""

import re
from collections.abc import Iterator
from enum import StrEnum

from mirrorfeed.contract.secrets import masked_start
from mirrorfeed.publisher.client import reason_from
from mirrorfeed.publisher.reasons import telling_line_in

MAX_LINE_LENGTH = 2000
"""Of what a program said, in characters. Events hold 8192."""
MAX_SEARCHED_BYTES = 16 * 1024
"""Of what it said, from the end."""


class FailureClass(StrEnum):
    """What kind of failure it is. A reason begins with it."""

    AUTH_OR_MISSING = "auth-or-missing"
    """The other side does not let us in, or hides that there is nothing."""
    NOT_FOUND = "not-found"
    HOST_KEY = "host-key"
    TLS = "tls"
    NETWORK = "network"
    RATE_LIMITED = "rate-limited"
    TIMEOUT = "timeout"
    NOT_A_REPOSITORY = "not-a-repository"
    REFUSED_URL = "refused-url"
    REF_CONFLICT = "ref-conflict"
    LOCKED = "locked"
    CORRUPT = "corrupt"
    DISK_FULL = "disk-full"
    TOO_LARGE = "too-large"
    UPSTREAM_EMPTY = "upstream-empty"
    INTERRUPTED = "interrupted"
    OTHER = "other"
    """None of these; the line has to say it all."""


class MirrorFailure(Exception):
    """An attempt failed; the text is a line for a person."""

    def __init__(self, failure_class: FailureClass, line: str, *, is_hearsay: bool = False) -> None:
        """The line may be of the other side's making. It is kept without secrets and as any text
        can be stored: the log, the notes and the screen get it, and not only events."""
        self.line = reason_from(line)
        super().__init__(self.line)
        self.failure_class = failure_class
        self.is_hearsay = is_hearsay
        """Whether nobody but the other side says that something is corrupt."""

    @property
    def reason(self) -> str:
        """As it is reported."""
        return f"{self.failure_class}: {self.line}"


# The first that is found in the telling lines decides, and then the first found in the rest. What
# is said of the reference or the disk comes before what is said of the connection: git reports
# first that the one failed, and then that the other broke off.
_SIGNS: tuple[tuple[FailureClass, str], ...] = (
    (FailureClass.DISK_FULL, r"No space left on device|Disk quota exceeded"),
    (
        FailureClass.OTHER,  # our own files, and not a server's word
        r"unable to access '/|dubious ownership|insufficient permission for adding an object"
        r"|Read-only file system|unable to create temporary (?:file|object directory)"
        r"|could not create work tree|cannot mkdir",
    ),
    (
        FailureClass.LOCKED,
        r"\.lock': File exists|packed-refs\.new: File exists|LockContention"
        r"|Could not acquire lock",
    ),
    (
        FailureClass.REF_CONFLICT,
        r"cannot lock ref .*(?:exists; cannot create|there is a non-empty directory)"
        r"|cannot process '[^']*' and '[^']*' at the same time|refname conflict",
    ),
    (
        FailureClass.CORRUPT,
        r"(?:loose object|packed object) .* corrupt|pack(?:file)? .*(?:cannot be accessed|is"
        r" corrupt|does not match index|is far too short)|unable to read (?:sha1 file|tree)"
        r"|bad (?:tree|signature|index file|object)\b|object file .* is empty"
        r"|inflate: data stream error|did not send all necessary objects"
        r"|does not point to a valid object|unable to resolve reference|ignoring broken ref"
        r"|missing (?:blob|tree|commit|object)|unresolved delta|SHA1 COLLISION"
        r"|unknown object type|unable to (?:get object info|unpack \S+ header|parse \S+ header)"
        r"|bad packed object|bad object header|garbage at end of loose|inflate returned"
        r"|failed to (?:read delta base|unpack compressed delta|read object)|delta base offset"
        r"|could not parse commit|pack is corrupted|index CRC mismatch"
        r"|(?:unexpected|unterminated) line in .*packed-refs",
    ),
    (
        FailureClass.HOST_KEY,
        r"Host key verification failed|HOST IDENTIFICATION HAS CHANGED|host key is known for",
    ),
    (
        FailureClass.RATE_LIMITED,
        r"(?:HTTP|error:|status code|Error) 429|Too Many Requests|rate.?limit",
    ),
    (
        FailureClass.REFUSED_URL,
        r"transport '[^']*' not allowed|remote helper|[Pp]rotocol \"?\w+\"? (?:is )?not supported"
        r"|returned error: 3\d\d"  # a redirection that git was told not to follow
        r"|Unsupported protocol|Protocol \"\w+\" (?:not supported|disabled)|mirrorfeed: refused",
    ),
    (
        FailureClass.TLS,
        r"^(?!.*(?:Connection (?:reset|refused|timed out)|SSL_ERROR_SYSCALL)).*"
        r"(?:SSL|TLS|[Cc]ertificate|gnutls)",
    ),
    (
        FailureClass.AUTH_OR_MISSING,
        r"could not read (?:Username|Password)|Authentication failed|Permission denied"
        r"|returned error: 40[13]|HTTP 40[13]|access denied|[Rr]epository not found"
        r"|Invalid credentials|Too many authentication failures|Unauthorized"
        r"|unable to get password from user",
    ),
    (
        FailureClass.NOT_A_REPOSITORY,
        r"is this a git repository|invalid server response|bad line length character"
        r"|unexpected content|protocol error(?!: bad pack header)|Unknown (?:branch|repository)"
        r" format|Unable to handle http code",
    ),
    (
        FailureClass.NOT_FOUND,
        r"repository '[^']*' not found|does not appear to be a git repository"
        r"|returned error: 4(?:04|10)|HTTP 4(?:04|10)|No such file|Not a branch|does not exist"
        r"|no such repository|couldn't find remote ref",
    ),
    (FailureClass.TIMEOUT, r"[Tt]imed? ?out|timeout"),
    (
        FailureClass.NETWORK,
        r"Could not resolve|Failed to connect|Connection (?:refused|reset|closed)|unreachable"
        r"|No route to host|unexpected disconnect|early EOF|bad pack header|RPC failed|hung up"
        r"|transfer closed"
        r"|returned error: 5\d\d|HTTP 5\d\d|unable to (?:access|connect|look up)|Broken pipe"
        r"|ConnectionError|Connection error|Recv failure|Empty reply|Name or service not known",
    ),
)
_PATTERNS = tuple((each, re.compile(pattern)) for each, pattern in _SIGNS)
_CORRUPT = dict(_PATTERNS)[FailureClass.CORRUPT]
_REMOTE, _REMOTE_ERROR = "remote: ", "remote error: "
"""How git marks the other side's words: each line (gitprotocol-pack(5), side-band), and an error
that is its last word (gitprotocol-common(5), error-line)."""
_LINE_END = re.compile(r"[\r\n]")


def failure_in(output: bytes, otherwise: str) -> MirrorFailure:
    """What a program that failed says of it on standard error; `otherwise`, if it says nothing."""
    line = telling_line_in(output) or otherwise
    rest = output[-MAX_SEARCHED_BYTES:].decode(errors="replace")
    own = _own_lines(output.decode(errors="replace"), is_cut=len(output) > MAX_SEARCHED_BYTES)
    return MirrorFailure(
        class_of(line) or class_of(rest) or FailureClass.OTHER,
        masked_start(line, MAX_LINE_LENGTH),  # what is cut in two is no secret for `reason_from`
        is_hearsay=not any(_CORRUPT.search(line[:MAX_LINE_LENGTH]) for line in own),
    )


def _own_lines(text: str, *, is_cut: bool) -> Iterator[str]:
    """What a program here has said itself, and not only passed on. If the text `is_cut`, its first
    line may have lost its mark."""
    for line in _LINE_END.split(text)[is_cut:]:
        if _REMOTE_ERROR in line:
            return  # it may have line breaks, and git says nothing after it
        if not line.startswith(_REMOTE):
            yield line


def class_of(text: str) -> FailureClass | None:
    """The class that a program's words belong to; None if they belong to none."""
    for line in text.split("\n"):  # patterns have `.*`: each looks at one line
        cut = line[:MAX_LINE_LENGTH]
        for failure_class, pattern in _PATTERNS:
            if pattern.search(cut):
                return failure_class
    return None
