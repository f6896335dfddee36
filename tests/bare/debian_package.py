"""The Debian package: built, looked at, installed and removed."""

from tests.bare.system import BareSystem

APT = "DEBIAN_FRONTEND=noninteractive apt-get --quiet --yes --no-install-recommends"
BUILD = f"""
apt-get --quiet update
{APT} install build-essential debhelper lintian
dpkg-buildpackage --build=binary --no-sign
lintian --allow-root --fail-on error ../*.changes
"""
INSTALL = f"""
{APT} install ../mirrorfeed_*.deb
for command in consumer publisher puller replay; do mirror-$command --version; done
mirror-consumer web --help
runuser -u mirrorfeed -- mirror-publisher started 17
test "$(stat --format=%U:%G:%a /var/spool/mirrorfeed)" = mirrorfeed:mirrorfeed:2770
for unit in packaging/*.service; do test -f /usr/lib/systemd/system/${{unit#packaging/}}; done
systemd-analyze verify --man=no /usr/lib/systemd/system/mirrorfeed-*.service
test "$(systemctl is-enabled mirrorfeed-worker)" = disabled
"""
REMOVE = f"""
{APT} purge mirrorfeed
test ! -e /usr/lib/mirrorfeed
test ! -e /usr/bin/mirror-consumer
test -f /var/spool/mirrorfeed/spool.db
"""
"""What has not been sent yet is kept."""


def try_package(system: BareSystem) -> str:
    """Returns what was said. Raises AssertionError if a step fails."""
    return "".join(
        system.run(f"set -e\n{step}", timeout_seconds=1200) for step in (BUILD, INSTALL, REMOVE)
    )
