# shellcheck shell=sh
# For other scripts, which source it: installs packages of the system where that needs no questions.

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

# install_packages "Debian's names" "Homebrew's names": fails where neither can install without asking.
install_packages() {
    if command -v apt-get >/dev/null && as_root true 2>/dev/null; then
        echo "$(basename "$0"): installing $1 with apt-get" >&2
        export DEBIAN_FRONTEND=noninteractive
        # shellcheck disable=SC2086 # several names are several words
        as_root apt-get install -y -qq --no-install-recommends $1 >/dev/null 2>&1 || {
            # An old package list, most likely.
            as_root apt-get update -qq >&2 &&
                as_root apt-get install -y -qq --no-install-recommends $1 >/dev/null
        }
    elif command -v brew >/dev/null; then
        echo "$(basename "$0"): installing $2 with brew" >&2
        # shellcheck disable=SC2086
        HOMEBREW_NO_AUTO_UPDATE=1 brew install --quiet $2 >&2
    else
        return 1
    fi
}
