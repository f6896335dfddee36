"""docs/install.md, typed from its first line to the status table, and what it says of pipx."""

import re

from tests.bare.system import ROOT, USER, BareSystem

PAGE = ROOT / "docs" / "install.md"
DOWNLOAD_SECONDS = 600
SETUP_SECONDS = 300

# A machine has systemd already, and what it needs to reach others. What apt-get installs is started
# by the boot that follows.
MACHINE = """
apt-get purge --yes --quiet --auto-remove make git python3 python3-venv
printf '#!/bin/sh\\nexit 101\\n' > /usr/sbin/policy-rc.d
chmod +x /usr/sbin/policy-rc.d
apt-get update --quiet
apt-get install --yes --quiet --no-install-recommends systemd systemd-sysv
cd /
repository=/repository
"""
# A forge that the booted system can reach: itself.
FORGE = """
git remote set-url origin https://git.example.org/mirrorfeed.git
echo 127.0.0.1 git.example.org >> /etc/hosts
git clone --quiet --mirror . /srv/forge/mirrorfeed.git
git -C /srv/forge/mirrorfeed.git gc --quiet
git -C /srv/forge/mirrorfeed.git update-server-info
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=git.example.org \\
    -addext subjectAltName=DNS:git.example.org -keyout /root/forge.key \\
    -out /usr/local/share/ca-certificates/forge.crt
update-ca-certificates
cat > /root/forge.py <<'PYTHON'
import http.server, ssl, subprocess
server = http.server.ThreadingHTTPServer(("127.0.0.1", 443), http.server.SimpleHTTPRequestHandler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/usr/local/share/ca-certificates/forge.crt", "/root/forge.key")
server.socket = context.wrap_socket(server.socket, server_side=True)
subprocess.run(["systemd-notify", "--ready"], check=True)
server.serve_forever()
PYTHON
"""
FORGE_STARTS = """
systemd-run --quiet --unit=forge --service-type=notify --property=NotifyAccess=all \\
    --working-directory=/srv/forge python3 /root/forge.py
"""
LOOK = """
look() {
%s
}
deadline=$(($(date +%%s) + 120))
until shown=$(look 2>&1) && echo "$shown" | grep --quiet '^3 branches: 3 mirrored$'; do
    if [ "$(date +%%s)" -gt "$deadline" ]; then
        echo "$shown"
        journalctl --no-pager --unit 'mirrorfeed-*'
        exit 1
    fi
    sleep 1
done
echo "$shown"
"""
"""Nobody knows how soon the first mirrors are in the table."""
# What the page promises: units that systemd has nothing to say about, a page and metrics that see
# both servers, lines for cron, a spool for the group, services that stop when they are told to.
PROMISES = f"""
systemd-analyze verify --man=no /etc/systemd/system/mirrorfeed-*.service
python3 - <<'PYTHON'
import json, urllib.request
def fetch(url):
    with urllib.request.urlopen(url, timeout=30) as answer:
        return answer.read().decode()
workers = json.loads(fetch("http://127.0.0.1:8070/workers.json"))
assert workers["partitions"] and workers["broker_is_away"] is None, workers
assert "by-cron" in fetch("http://127.0.0.1:8070/branches"), "no branch is on the page"
metrics = fetch("http://127.0.0.1:9471/metrics")
assert "mirrorfeed_collector_success 1.0" in metrics, metrics
PYTHON
runuser -u mirrorfeed -- mirror-puller status
systemctl stop mirrorfeed-puller
for line in /etc/cron.d/mirrorfeed packaging/mirrorfeed-puller.cron; do
    runuser -u mirrorfeed -- env --ignore-environment $(grep '^[A-Z_]*=' $line) \\
        sh -c "$(sed --quiet 's/^[*].* [*] mirrorfeed //p' $line)"
done
usermod --append --groups mirrorfeed {USER}
runuser -u {USER} -- mirror-publisher run --branch 1 -- true
systemctl stop 'mirrorfeed-*'
! systemctl --failed --quiet | grep mirrorfeed
"""
COMMANDS = f"runuser -u {USER} -- mirror-puller --version; mirror-publisher --version"


def blocks(text: str) -> list[str]:
    """What a text says to type."""
    return re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def type_page(system: BareSystem) -> str:
    """Types all of it for one host, and returns what was shown since the packages were installed.

    Raises AssertionError if a command fails, or if there is no table like the page's in the end.
    """
    one_host, _, _ = PAGE.read_text().partition("\n## More hosts\n")
    *before, look = blocks(one_host)
    downloads = 1 + max(n for n, block in enumerate(before) if "pip install" in block)
    typed = [MACHINE, *before[:downloads], FORGE]
    system.run("\n".join(typed), timeout_seconds=DOWNLOAD_SECONDS)
    typed = ["cd /usr/local/src/mirrorfeed", FORGE_STARTS, *before[downloads:], LOOK % look]
    shown = system.boot("\n".join([*typed, PROMISES]), timeout_seconds=SETUP_SECONDS)
    assert "max_message_size" not in shown, shown
    (table,) = re.findall(r"^```text\n(.*?)^```$", one_host, re.MULTILINE | re.DOTALL)
    assert without_figures(table) <= without_figures(shown), shown
    return shown


def without_figures(table: str) -> set[str]:
    """Its lines. Ages and revisions are never the same, nor is what was mirrored first."""
    same = re.sub(r"\b\d+ (s|min) ago|\b[0-9a-f]{12}\b", "…", table)
    return set(re.sub(r" +", " ", same).splitlines())


def type_pipx(system: BareSystem) -> None:
    """Types what a host that only mirrors can do. Raises AssertionError if it does not work."""
    _, _, more_hosts = PAGE.read_text().partition("\n## More hosts\n")
    system.run(
        "\n".join(["apt-get update --quiet", *blocks(more_hosts), COMMANDS]),
        timeout_seconds=DOWNLOAD_SECONDS,
    )
