"""Upstreams for the puller: real repositories behind real servers, some of which misbehave."""

import base64
import os
import shutil
import socket
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from sandbox import wait_until
from sandbox.ports import PortBlock

GIT_ENVIRONMENT = {
    "GIT_AUTHOR_NAME": "Ada",
    "GIT_AUTHOR_EMAIL": "ada@example.org",
    "GIT_COMMITTER_NAME": "Ada",
    "GIT_COMMITTER_EMAIL": "ada@example.org",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "LC_ALL": "C",
}
START_SECONDS = 20.0
USER, TOKEN = "jane", "s3cret-t0ken"
"""Whom the server knows below /secret/."""
BASIC = "Basic " + base64.b64encode(f"{USER}:{TOKEN}".encode()).decode()
LOGIN_PAGE = b"<!DOCTYPE html><title>Sign in</title><form>Who are you?</form>"


def git(*arguments: str | Path, input_: str | None = None, expect: int = 0) -> str:
    """What it prints, run with nobody's settings."""
    result = subprocess.run(
        ["git", *map(str, arguments)],
        env={**os.environ, **GIT_ENVIRONMENT},
        input=input_,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == expect, f"git {arguments}: {result.stderr}"
    return result.stdout.strip()


class Upstream:
    """A bare repository that others mirror; a new one, if there is none."""

    def __init__(self, path: Path, *, object_format: str = "sha1") -> None:
        self.path = path
        if not path.exists():
            git("init", "-q", "--bare", "-b", "main", f"--object-format={object_format}", path)

    def commit(self, branch: str = "main", *, text: str = "x", size: int = 0) -> str:
        """Adds a commit to a branch, with a file of `size` random bytes; gives its id."""
        name = f"{time.monotonic_ns()}"
        blob = git_bytes(self.path, os.urandom(size) if size else text.encode())
        tree = git("-C", self.path, "mktree", input_=f"100644 blob {blob}\t{name}\n")
        tip = self.refs().get(f"refs/heads/{branch}")
        parents = ["-p", tip] if tip else []
        commit = git("-C", self.path, "commit-tree", tree, *parents, "-m", text)
        git("-C", self.path, "update-ref", f"refs/heads/{branch}", commit)
        return commit

    def rewrite(self, branch: str = "main") -> str:
        """Gives the branch a history that has nothing in common with the one before."""
        git("-C", self.path, "update-ref", "-d", f"refs/heads/{branch}")
        return self.commit(branch, text=f"again {time.monotonic_ns()}")

    def delete(self, *refs: str) -> None:
        for ref in refs:
            git("-C", self.path, "update-ref", "-d", ref)

    def refs(self) -> dict[str, str]:
        return refs_of(self.path)

    def git(self, *arguments: str) -> str:
        return git("-C", self.path, *arguments)


def git_bytes(path: Path, content: bytes) -> str:
    """The id of a new blob."""
    result = subprocess.run(
        ["git", "-C", path, "hash-object", "-w", "--stdin"],
        input=content,
        capture_output=True,
        check=True,
    )
    return result.stdout.decode().strip()


def refs_of(path: Path) -> dict[str, str]:
    lines = git("-C", path, "for-each-ref", "--format=%(refname) %(objectname)").splitlines()
    return {name: at for name, _, at in (line.partition(" ") for line in lines)}


def head_of(path: Path) -> str:
    return git("-C", path, "symbolic-ref", "HEAD")


def fingerprint(folder: Path) -> dict[str, bytes]:
    """All that is in a folder, byte for byte."""
    return {
        str(each.relative_to(folder)): each.read_bytes()
        for each in sorted(folder.rglob("*"))
        if each.is_file()
    }


class WebServer(ThreadingHTTPServer):
    """git http-backend below /git/, and other places below which a server misbehaves."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, root: Path, address: str) -> None:
        self.root = root
        self.slow_seconds = 0.0
        """How long each request below /slow/ takes."""
        self.requests: dict[str, int] = defaultdict(int)
        """How many there were for each repository."""
        self.most_at_once = 0
        self._at_once = 0
        self._guard = threading.Lock()
        self.quiet = threading.Event()
        """Set when those who wait in silence may go."""
        super().__init__((address, 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://{self.server_address[0]!s}:{self.server_port}"

    def note(self, path: str) -> None:
        with self._guard:
            self.requests[path] += 1

    @contextmanager
    def counted(self) -> Iterator[None]:
        """The work for a request, up to its answer: what comes after, the client does not wait
        for."""
        with self._guard:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            yield
        finally:
            with self._guard:
                self._at_once -= 1

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was killed is no error of a server's."""


class _Handler(BaseHTTPRequestHandler):
    server: WebServer

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        place, _, rest = self.path.lstrip("/").partition("/")
        self.server.note(urlsplit(self.path).path.removesuffix("/info/refs"))
        match place:
            case "git":
                self._git(f"/{rest}")
            case "slow":
                self._git(f"/{rest}", wait_seconds=self.server.slow_seconds)
            case "status":
                self._say(int(rest.split("/")[0]), b"no\n")
            case "login":
                self._say(HTTPStatus.OK, LOGIN_PAGE, "text/html")
            case "page":
                self._say(HTTPStatus.OK, LOGIN_PAGE.replace(b">", b">\n"), "text/html")
            case "blank":
                self._say(HTTPStatus.OK, b"")
            case "secret" if self.headers.get("Authorization") == BASIC:
                self._git(f"/{rest}")
            case "secret":
                self.send_response(HTTPStatus.UNAUTHORIZED)
                self.send_header("WWW-Authenticate", 'Basic realm="x"')
                self.send_header("Content-Length", "0")
                self.end_headers()
            case "to":
                self.send_response(HTTPStatus.FOUND)
                self.send_header("Location", f"file://{self.server.root}/{rest}")
                self.send_header("Content-Length", "0")
                self.end_headers()
            case "silent":
                self.server.quiet.wait(START_SECONDS * 10)
            case "files":
                self._file(rest)
            case "cut":
                self._git(f"/{rest}", at_most=20_000)
            case _:
                self._say(HTTPStatus.NOT_FOUND, b"nothing\n")

    def _say(self, status: int, body: bytes, kind: str = "text/plain") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _file(self, path: str) -> None:
        """As any web server has it, for bzr."""
        file = self.server.root / urlsplit(path).path
        if file.is_file():
            self._say(HTTPStatus.OK, file.read_bytes(), "application/octet-stream")
        else:
            self._say(HTTPStatus.NOT_FOUND, b"nothing\n")

    def _git(self, path: str, at_most: int | None = None, wait_seconds: float = 0.0) -> None:
        parts = urlsplit(path)
        length = int(self.headers.get("Content-Length") or 0)
        variables = {
            "GIT_PROJECT_ROOT": str(self.server.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": parts.path,
            "QUERY_STRING": parts.query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "REMOTE_ADDR": "127.0.0.1",
        }
        asked = self.rfile.read(length)
        with self.server.counted():
            time.sleep(wait_seconds)
            done = subprocess.run(
                ["git", "http-backend"],
                env={**os.environ, **GIT_ENVIRONMENT, **variables},
                input=asked,
                capture_output=True,
                check=False,
            )
        head, _, body = done.stdout.partition(b"\r\n\r\n")
        status = HTTPStatus.OK
        headers = []
        for line in head.decode().split("\r\n"):
            name, _, value = line.partition(": ")
            if name == "Status":
                status = HTTPStatus(int(value.split()[0]))
            elif name:
                headers.append((name, value))
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:at_most])

    def log_message(self, *_: object) -> None:
        """Tests look at what arrives, not at a log."""


@contextmanager
def web_server(root: Path, address: str = "127.0.0.1") -> Iterator[WebServer]:
    with WebServer(root, address) as server, ThreadPoolExecutor(1) as threads:
        serving = threads.submit(server.serve_forever, 0.05)
        try:
            yield server
        finally:
            server.quiet.set()
            server.shutdown()
            serving.result()


@contextmanager
def listening(*command: str | Path, port: int) -> Iterator["subprocess.Popen[bytes]"]:
    """A server of its own, once it listens; ended in the end."""
    process = subprocess.Popen(
        [str(each) for each in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )

    def answers() -> bool:
        assert process.poll() is None, f"{command[0]} ended with {process.returncode}"
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        return False

    try:
        wait_until(answers, START_SECONDS, f"{command[0]} to listen")
        yield process
    finally:
        process.terminate()
        process.wait()


@contextmanager
def git_daemon(root: Path) -> Iterator[str]:
    """Its URL."""
    program = Path(git("--exec-path")) / "git-daemon"
    options = ("--export-all", "--reuseaddr", "--listen=127.0.0.1", f"--base-path={root}")
    with closing(PortBlock()) as block:
        port = block.ports[0]
        with listening(program, *options, f"--port={port}", root, port=port):
            yield f"git://127.0.0.1:{port}"


@contextmanager
def silent_server() -> Iterator[int]:
    """The port of a server that accepts whoever comes, and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield server.getsockname()[1]


class SshServer:
    """A private sshd that lets one key in, and runs git for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._block = PortBlock()
        self.port = self._block.ports[0]
        self.key = folder / "client"
        self.known_hosts = folder / "known_hosts"
        for name in ("host", "other", "client"):
            self._make_key(folder / name, "")
        self._make_key(folder / "encrypted", "a passphrase")
        (folder / "authorized").write_text((folder / "client.pub").read_text())
        self.trust("host")

    @staticmethod
    def _make_key(path: Path, passphrase: str) -> None:
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-f", path], check=True
        )

    def trust(self, key: str) -> None:
        """Known hosts in which the server has that key."""
        kind, value, *_ = (self.folder / f"{key}.pub").read_text().split()
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {kind} {value}\n")

    def url(self, path: Path) -> str:
        return f"ssh://{os.environ.get('USER', 'root')}@127.0.0.1:{self.port}{path}"

    def close(self) -> None:
        self._block.close()

    @contextmanager
    def running(self) -> Iterator[None]:
        config = self.folder / "sshd_config"
        config.write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {self.folder}/host\n"
            f"AuthorizedKeysFile {self.folder}/authorized\nStrictModes no\nUsePAM no\n"
            f"PidFile {self.folder}/sshd.pid\nPasswordAuthentication no\n"
            "KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n"
        )
        sshd = str(shutil.which("sshd") or "/usr/sbin/sshd")
        with listening(sshd, "-D", "-e", "-f", config, port=self.port):
            yield


def has_sshd() -> bool:
    """Whether one can be started here: it separates privileges in a folder of the system's."""
    program = shutil.which("sshd") or "/usr/sbin/sshd"
    if not Path(program).exists() or shutil.which("ssh") is None:
        return False
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    return True
