"""docs/install.md, typed from its first line to the status table."""

import re

from tests.bare.system import ROOT, USER, BareSystem

PAGE = ROOT / "docs" / "install.md"
DOWNLOAD_SECONDS = 600
SETUP_SECONDS = 300

# A machine has systemd already. What apt-get installs is started by the boot that follows.
MACHINE = """
printf '#!/bin/sh\\nexit 101\\n' > /usr/sbin/policy-rc.d
chmod +x /usr/sbin/policy-rc.d
apt-get update --quiet
apt-get install --yes --quiet --no-install-recommends systemd systemd-sysv
git clone --quiet /repository /usr/local/src/mirrorfeed
cd /usr/local/src/mirrorfeed
"""
LOOK = """
look() {
%s
}
deadline=$(($(date +%%s) + 60))
until shown=$(look 2>&1) && echo "$shown" | grep --quiet '^ 1 .* mirrored '; do
    if [ "$(date +%%s)" -gt "$deadline" ]; then
        echo "$shown"
        journalctl --no-pager --unit 'mirrorfeed-*'
        exit 1
    fi
    sleep 1
done
echo "$shown"
"""
"""Nobody knows how soon the first mirror is in the table."""
# What the page promises: units that systemd has nothing to say about, a line for cron, a spool for
# the group, services that stop when they are told to.
PROMISES = f"""
systemd-analyze verify --man=no /etc/systemd/system/mirrorfeed-*.service
runuser -u mirrorfeed -- env --ignore-environment $(grep '^[A-Z_]*=' /etc/cron.d/mirrorfeed) \\
    sh -c "$(sed --quiet 's/^[*].* [*] mirrorfeed //p' /etc/cron.d/mirrorfeed)"
usermod --append --groups mirrorfeed {USER}
runuser -u {USER} -- mirror-publisher run --branch 1 -- true
systemctl stop 'mirrorfeed-*'
! systemctl --failed --quiet | grep mirrorfeed
"""


def blocks() -> list[str]:
    """What the page says to type."""
    return re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def type_page(system: BareSystem) -> str:
    """Types all of it, and returns what was shown since the packages were installed.

    Raises AssertionError if a command fails, or if there is no table in the end.
    """
    *before, look = blocks()
    downloads = 1 + max(n for n, block in enumerate(before) if "pip install" in block)
    system.run("\n".join([MACHINE, *before[:downloads]]), timeout_seconds=DOWNLOAD_SECONDS)
    typed = ["cd /usr/local/src/mirrorfeed", *before[downloads:], LOOK % look, PROMISES]
    return system.boot("\n".join(typed), timeout_seconds=SETUP_SECONDS)
