# Makes .venv with the pinned versions, on a machine that may have nothing but python3.
set -eu
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "Python 3.11 or later is needed, this is $("$PYTHON" --version); name another: make PYTHON=..." >&2
    exit 1
}
if ! "$PYTHON" -c 'import ensurepip' 2>/dev/null; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "Python's venv module is incomplete; install it: apt-get install python3-venv" >&2
        exit 1
    fi
    echo "installing the Debian package python3-venv" >&2
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends python3-venv >&2
fi
"$PYTHON" -m venv --clear .venv
.venv/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[consumer,dev]'
