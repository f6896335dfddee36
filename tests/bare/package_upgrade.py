"""The Debian package of an older version, in use, and this one in its place."""

import re
import subprocess

from tests.bare.debian_package import APT
from tests.bare.install_page import blocks
from tests.bare.system import ROOT, BareSystem

BEFORE = "91e773655ba4a413f890b80708a1658b291a8bd2"
"""No package was published before this one, so this is one of a commit whose tables are older."""
PACKAGING_BEFORE = "62161faa1a7726b5a9f6e864f446721641edf947"
"""The first that had debian/."""
SET_UP = ("rabbitmqctl add_user", "createdb", "mirrorfeed-worker", "mirrorfeed-forwarder")
"""What is in the steps of docs/install.md that it takes: the package stands for the others."""
BUILD_SECONDS = 1800
STORY_SECONDS = 600

BUILD = f"""
set -e
printf '#!/bin/sh\\nexit 101\\n' > /usr/sbin/policy-rc.d
chmod +x /usr/sbin/policy-rc.d
apt-get --quiet update
{APT} install build-essential debhelper postgresql rabbitmq-server systemd systemd-sysv
git clone --quiet /repository ../before
(
    cd ../before
    git checkout --quiet {BEFORE}
    git checkout --quiet {PACKAGING_BEFORE} -- debian
    sed -i '1s/)/~before)/' debian/changelog
    dpkg-buildpackage --build=binary --no-sign
)
dpkg-buildpackage --build=binary --no-sign
{APT} install ../mirrorfeed_*~before_*.deb
rm /usr/sbin/policy-rc.d
cp --recursive ../before /usr/local/src # which the users of the servers can read
"""

# The broker is away during the upgrade, so that something waits in the spool, and so that an
# upgrade that waits for a service would be noticed.
STORY = """
set -x
cd /usr/local/src/before
wait_for() {
    deadline=$(($(date +%s) + 120))
    until eval "$1"; do
        if [ "$(date +%s)" -gt "$deadline" ]; then
            journalctl --no-pager --unit 'mirrorfeed-*'
            exit 1
        fi
        sleep 1
    done
}
sql() {
    runuser -u postgres -- psql -qAt --command="$1" mirrorfeed
}
report() {
    runuser -u mirrorfeed -- mirror-publisher "$@"
}
spool() {
    report status --json | python3 -c '
import json, sys
said = json.load(sys.stdin)
print(*(said[name] for name in sys.argv[1:]))' "$@"
}
kept() {
    sql 'SELECT id, unique_name, last_mirrored FROM branch ORDER BY id'
    sql 'SELECT branch_id, started_at, finished_at, outcome FROM mirror_attempt ORDER BY 1, 2'
    sql 'SELECT id, reason, body, state FROM dead_letter ORDER BY id'
    spool source spooled confirmed pending
}
as_owner() {
    MIRRORFEED_AMQP_URL=$(cat /etc/mirrorfeed/setup.url) runuser -u postgres -- "$@"
}
pending() {
    test "$(spool pending)" = "$1"
}
mirrored() {
    test "$(sql 'SELECT count(*) FROM branch WHERE last_mirrored IS NOT NULL')" = "$1"
}

# set up

mirror-consumer branches add 1 one
mirror-consumer branches add 2 two
report run --branch 1 -- true
report started 99
wait_for 'mirrored 1'
wait_for 'test "$(sql "SELECT reason FROM dead_letter")" = unknown-branch'
wait_for 'pending 0'
systemctl stop rabbitmq-server
report run --branch 2 -- true
pending 2
echo '# as we like it' >> /etc/mirrorfeed/consumer.env
kept > /root/kept
sha256sum /etc/mirrorfeed/* > /root/settings
systemctl show --property=MainPID mirrorfeed-worker mirrorfeed-forwarder > /root/processes

timeout 120 dpkg --install /root/mirrorfeed_*[0-9]_*.deb
sha256sum --check --quiet /root/settings
kept | diff /root/kept -
# Services go on as they were, and the tables wait for their owner.
systemctl show --property=MainPID mirrorfeed-worker mirrorfeed-forwarder | diff /root/processes -
if mirror-consumer init --check; then exit 1; fi
cd /root/mirrorfeed
systemctl start rabbitmq-server
as_owner mirror-consumer init
runuser -u postgres -- psql -q1 --set=ON_ERROR_STOP=1 --file=- mirrorfeed < roles.sql
mirror-consumer init --check
# The worker of the version before applies what waited.
wait_for 'mirrored 2'
systemctl show --property=MainPID mirrorfeed-worker | grep --quiet --file=- /root/processes

systemctl restart mirrorfeed-worker mirrorfeed-forwarder
as_owner mirror-consumer init
mirror-consumer branches add 99 late
mirror-replay apply --all
report run --branch 99 -- true
wait_for 'mirrored 3'
wait_for 'mirror-consumer audit --grace 0'
mirror-consumer status
systemctl --failed --quiet > /root/failed
! grep mirrorfeed /root/failed || exit 1

# Whatever runs is stopped by a removal, and what was not sent is kept.
systemctl stop rabbitmq-server
report started 1
dpkg --remove mirrorfeed
test -z "$(systemctl list-units --state=active --plain --no-legend 'mirrorfeed-*')"
test -s /var/spool/mirrorfeed/spool.db
"""


def try_upgrade(system: BareSystem) -> str:
    """Returns what was said. Raises AssertionError if a step fails."""
    built = system.run(BUILD, timeout_seconds=BUILD_SECONDS)
    before, after = STORY.split("# set up\n")
    return built + system.boot(f"{before}{set_up()}{after}", timeout_seconds=STORY_SECONDS)


def set_up() -> str:
    """What the older version's own page says to type, except what the package brings."""
    page = subprocess.run(
        ["git", "show", f"{BEFORE}:docs/install.md"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    steps = [step for step in blocks(page) if any(word in step for word in SET_UP)]
    return re.sub(r"^install .*\.service .*\n", "", "".join(steps), flags=re.MULTILINE)
