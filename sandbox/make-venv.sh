# Makes .venv with the pinned versions, on a machine that may have nothing but python3.
set -eu
need_megabytes=350 # .venv has 270, and pip unpacks beside it

say() {
    echo "$1" >&2
}

fail() {
    say "$1"
    exit 1
}

# Runs a command, and keeps what it says for `reason`.
quietly() {
    "$@" >"$said" 2>&1
}

# Why the last command failed, in one line if it has one, else all that it said.
reason() {
    sed -n "s/.*after connection broken by //p; s/^W: Failed to fetch //p; s/^E[A-Z]*: //p" "$said" |
        head -n 1 | grep . || cat "$said"
}

"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "Python 3.11 or later is needed, and this is $("$PYTHON" --version || echo none): name another: make PYTHON=..."

free_megabytes=$(df -Pk . | awk 'NR == 2 { print int($4 / 1000) }')
[ "$free_megabytes" -ge "$need_megabytes" ] ||
    fail "$(pwd) has $free_megabytes MB left, and .venv needs $need_megabytes MB: make room"

said=$(mktemp) || fail "no temporary file can be made: set TMPDIR to a folder that can be written and has room"
trap 'rm -f "$said"' EXIT

if ! "$PYTHON" -c 'import ensurepip' 2>"$said"; then
    remedy="install it (as root: apt-get install python3-venv), or name another Python: make PYTHON=..."
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >"$said"; then
        fail "Python's venv module is incomplete: $remedy"
    fi
    say "installing Debian's python3-venv (apt-get, 15 MB of lists of packages and 3 MB to fetch) ..."
    export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
    { quietly apt-get update -q && quietly apt-get install -q --yes --no-install-recommends python3-venv; } ||
        fail "python3-venv cannot be installed ($(reason)): look after that, or $remedy"
fi

say "making .venv (pip, 65 MB to fetch, 270 MB on the disk) ..."
quietly "$PYTHON" -m venv --clear .venv || fail ".venv cannot be made: $(reason)"
quietly .venv/bin/pip install --disable-pip-version-check -c constraints.txt -e '.[authserver,consumer,web,dev]' ||
    fail "pip cannot install what mirrorfeed needs ($(reason)): see that a package index is reachable (pip config list)"
