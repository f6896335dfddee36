"""Try the README's two commands and docs/install.md on bare systems:
`python -m tests.bare [SUITE...]`.

Uses the committed files only, and leaves nothing but its cache. Takes five to six minutes a suite.
"""

import argparse
import signal
import subprocess
import sys
import time

from sandbox import SandboxError
from tests.bare.debian_package import try_package
from tests.bare.install_page import type_page, type_pipx
from tests.bare.package_upgrade import try_upgrade
from tests.bare.system import USER, BareSystem, NotPossible, bare_system, check_possible

DEMO_SECONDS = 600
TEST_SECONDS = 900
SHORT_PART = " ".join(
    [
        "tests/unit/test_client.py",
        "tests/integration/test_forwarder.py",
        "tests/acceptance/test_rights.py",
        "tests/acceptance/test_tls.py",
    ]
)
"""The part of `make test` that has behaved differently across Python and server versions."""
MISSING = (
    "demo: rabbitmq-server and postgresql are not installed: install what is missing (as root:"
    " apt-get install --no-install-recommends rabbitmq-server postgresql), start Docker, or set"
    " MIRRORFEED_AMQP_URL and MIRRORFEED_DATABASE_URL"
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bare", description=__doc__)
    parser.add_argument("suites", nargs="*", default=["bookworm", "trixie"], metavar="SUITE")
    parser.add_argument(
        "--if-possible",
        action="store_true",
        help="leave out docs/install.md, and exit with 0 if this machine cannot run the rest",
    )
    parser.add_argument(
        "--package",
        action="store_true",
        help="build, install and remove the Debian package instead, for which there must be"
        " Python 3.13: trixie",
    )
    parser.add_argument(
        "--package-upgrade",
        action="store_true",
        help="put the Debian package in the place of an older one that is in use instead, which"
        " boots a system: trixie",
    )
    parser.add_argument("--run", metavar="COMMAND", help="run this in a clone instead, as root")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda signum, _frame: sys.exit(128 + signum))
    try:
        for suite in options.suites:
            check_possible(suite)
            with bare_system(suite) as system:
                if options.package:
                    began = time.monotonic()
                    print(try_package(system))
                    report(suite, "the Debian package", began)
                elif options.package_upgrade:
                    began = time.monotonic()
                    print(try_upgrade(system))
                    report(suite, "an upgrade of the Debian package", began)
                elif options.run is not None:
                    began = time.monotonic()
                    print(system.run(options.run, timeout_seconds=3600))
                    report(suite, options.run, began)
                else:
                    try_all(suite, system)
            # That boots a system, which few machines that run it unasked can do.
            asked = options.run is not None or options.package or options.package_upgrade
            if not asked and not options.if_possible:
                with bare_system(suite) as system:
                    try_install_page(suite, system)
                with bare_system(suite) as system:
                    try_pipx(suite, system)
    except NotPossible as reason:
        print(f"not tried on bare systems: {reason}", file=sys.stderr)
        return 0 if options.if_possible else 1
    except (AssertionError, SandboxError, subprocess.TimeoutExpired) as error:
        print(f"bare: {error}", file=sys.stderr)
        return 1
    return 0


def try_all(suite: str, system: BareSystem) -> None:
    began = time.monotonic()
    said = system.run("make demo", user=USER, expect=2, timeout_seconds=DEMO_SECONDS)
    assert MISSING in said.splitlines(), said
    assert "Traceback" not in said, said
    began = report(suite, "a user without the servers' packages is told what to install", began)

    sources = "/etc/apt/sources.list"
    system.run(
        f"cp {sources} /root && sed -i 's,//[^/]*/,//mirror.invalid/,' {sources}",
        timeout_seconds=60,
    )
    said = system.run("make demo", expect=2, timeout_seconds=DEMO_SECONDS)
    (line,) = (line for line in said.splitlines() if line.startswith("demo: "))
    assert "rabbitmq-server and postgresql cannot be installed (http" in line, said
    assert "mirror.invalid" in line, said
    assert "Traceback" not in said, said
    system.run(f"cp /root/sources.list {sources}", timeout_seconds=60)
    began = report(suite, "root without a package mirror is told so", began)

    said = system.run("make demo", timeout_seconds=DEMO_SECONDS)
    assert "Nothing is left of it" in said, said
    assert "to fetch" in said, said
    began = report(suite, "make demo", began)

    said = system.run(f"make test TESTS='{SHORT_PART}'", timeout_seconds=TEST_SECONDS)
    assert " passed" in said.splitlines()[-1], said
    began = report(suite, "make test, a short part", began)

    said = system.run("make demo", user=USER, timeout_seconds=DEMO_SECONDS)
    assert "Nothing is left of it" in said, said
    report(suite, "make demo, as a user who has the packages", began)


def try_install_page(suite: str, system: BareSystem) -> None:
    began = time.monotonic()
    said = type_page(system)
    assert "Traceback" not in said, said
    report(suite, "docs/install.md, to a status table", began)


def try_pipx(suite: str, system: BareSystem) -> None:
    began = time.monotonic()
    type_pipx(system)
    report(suite, "docs/install.md, the commands by pipx", began)


def report(suite: str, what: str, began: float) -> float:
    now = time.monotonic()
    print(f"{suite}: {what}: {now - began:.0f} s", flush=True)
    return now


if __name__ == "__main__":
    sys.exit(main())
