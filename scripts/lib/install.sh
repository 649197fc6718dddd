# shellcheck shell=bash
# Finds the programs that building and testing need, and installs what is missing: Debian and Ubuntu packages with
# apt, Rust with rustup. Sourced by the other scripts. It says what it installs and asks nothing; without apt it says
# what is missing and ends the script.

ROOT=${ROOT:-$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)}
MILLRACE_CACHE=${MILLRACE_CACHE:-$HOME/.cache/millrace}
export MILLRACE_CACHE

JAVA_MIN=17

say() { printf '%s\n' "$*" >&2; }

fail() {
  say "error: $*"
  exit 1
}

# Runs a command as root: directly, or through sudo.
as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    fail "this needs root and there is no sudo: $*"
  fi
}

# version_at_least HAVE WANT: compares dotted numbers.
version_at_least() {
  [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]
}

# Prints the folder of PostgreSQL's server programs, the newest of those found, or fails. Distributions keep them off
# the PATH.
find_postgres_bin() {
  local found='' dir
  while IFS= read -r dir; do
    if [ -x "$dir/initdb" ] && [ -x "$dir/postgres" ] && [ -x "$dir/psql" ]; then
      found=$dir
    fi
  done < <(
    dir=$(command -v initdb || true)
    if [ -n "$dir" ]; then dirname "$(readlink -f "$dir")"; fi
    for dir in /usr/pgsql-*/bin /usr/lib/postgresql/*/bin; do
      if [ -d "$dir" ]; then printf '%s\n' "$dir"; fi
    done | sort -V
  )
  [ -n "$found" ] && printf '%s\n' "$found"
}

# java_major PROGRAM: prints 17 for 17.0.15, nothing for what is not Java.
java_major() {
  "$1" -version 2>&1 | sed -n 's/^.* version "\([0-9]*\).*/\1/p' | head -n 1
}

# Prints the path of a java that is new enough for Kafka and the registry, or fails.
find_java() {
  local java major
  for java in "${JAVA_HOME:+$JAVA_HOME/bin/java}" "$(command -v java || true)" /usr/lib/jvm/*/bin/java; do
    if [ ! -x "$java" ]; then continue; fi
    major=$(java_major "$java")
    if [ -n "$major" ] && [ "$major" -ge "$JAVA_MIN" ]; then
      printf '%s\n' "$java"
      return 0
    fi
  done
  return 1
}

# Prints the Debian package of a Java that is new enough: its version depends on the release.
java_package() {
  local package
  for package in openjdk-17-jre-headless openjdk-21-jre-headless openjdk-25-jre-headless default-jre-headless; do
    if [ -n "$(apt-cache policy "$package" 2>/dev/null | sed -n 's/^ *Candidate: \([0-9].*\)/\1/p')" ]; then
      printf '%s\n' "$package"
      return 0
    fi
  done
  printf 'default-jre-headless\n'
}

# The Debian names of what is missing for a purpose, one a line. Purposes: build, kafka, registry, postgres.
missing_packages() {
  local purpose
  for purpose in "$@"; do
    case $purpose in
      build)
        # librdkafka is built from C and C++ sources with make; zlib comes with it. Without a linker no Rust links.
        command -v gcc >/dev/null || echo gcc
        command -v g++ >/dev/null || echo g++
        command -v make >/dev/null || echo make
        command -v perl >/dev/null || echo perl
        ;;
      kafka | registry)
        find_java >/dev/null || echo java
        cached_runtime "$purpose" || command -v mvn >/dev/null || echo maven
        [ "$purpose" = kafka ] || command -v curl >/dev/null || echo curl
        ;;
      kcat)
        # A client that is not ours, for the scenarios of the development broker.
        command -v kcat >/dev/null || echo kcat
        ;;
      postgres)
        find_postgres_bin >/dev/null || echo postgresql
        ;;
      *) fail "nothing is known about installing for '$purpose'" ;;
    esac
  done | sort -u
}

# cached_runtime kafka|registry: true when its jars are in the cache, so that Maven is not needed.
cached_runtime() {
  [ -d "$(runtime_folder "$1")" ]
}

# runtime_folder kafka|registry: where its jars belong in the cache. The name holds the checksum of the checksum list,
# so a changed list is a new folder.
runtime_folder() {
  local list
  case $1 in
    kafka) list=$ROOT/deploy/kafka/jars.sha256 ;;
    registry) list=$ROOT/deploy/registry/archive.sha256 ;;
  esac
  printf '%s/%s-%s\n' "$MILLRACE_CACHE" "$1" "$(sha256sum <"$list" | cut -c 1-16)"
}

# install_for PURPOSE...: installs the packages that these purposes lack.
install_for() {
  local missing
  mapfile -t missing < <(missing_packages "$@")
  if [ "${#missing[@]}" -eq 0 ]; then return 0; fi
  if ! command -v apt-get >/dev/null; then
    say "error: missing on this machine: ${missing[*]}"
    say "This script installs packages on Debian and Ubuntu only. Please install these by hand, then run it again"
    say "(java: version $JAVA_MIN or newer; postgresql: the server's programs initdb, postgres and psql)."
    exit 1
  fi
  apt_install "${missing[@]}"
}

# apt_install PACKAGE...: `java` stands for whichever package of this release has a Java new enough.
apt_install() {
  local packages=() package
  say "updating the package lists (apt-get update)"
  apt_quietly update
  for package in "$@"; do
    if [ "$package" = java ]; then package=$(java_package); fi
    packages+=("$package" ca-certificates)
  done
  mapfile -t packages < <(printf '%s\n' "${packages[@]}" | sort -u)
  say "installing with apt: ${packages[*]}"
  case " ${packages[*]} " in
    *' postgresql '*) without_main_cluster apt_quietly install --no-install-recommends "${packages[@]}" ;;
    *) apt_quietly install --no-install-recommends "${packages[@]}" ;;
  esac
}

# Runs apt-get; its output is shown only when it fails.
apt_quietly() {
  local log status=0
  log=$(mktemp)
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -y -o DPkg::Lock::Timeout=300 "$@" >"$log" 2>&1 </dev/null || status=$?
  if [ "$status" -ne 0 ]; then
    tail -n 40 "$log" >&2
    rm -f "$log"
    fail "apt-get $1 failed"
  fi
  rm -f "$log"
}

# Runs a command while Debian's PostgreSQL package is told not to create and start a server of its own: only the
# programs are wanted. The note is taken back afterwards, so a later installation by hand behaves as usual.
without_main_cluster() {
  local note=/etc/postgresql-common/createcluster.d/millrace.conf
  as_root mkdir -p "$(dirname "$note")"
  printf 'create_main_cluster = false\n' | as_root tee "$note" >/dev/null
  "$@"
  as_root rm -f "$note"
}

# The oldest Rust that Cargo.toml allows.
rust_version() {
  sed -n 's/^rust-version *= *"\(.*\)".*/\1/p' "$ROOT/Cargo.toml"
}

cargo_is_new_enough() {
  local have
  command -v cargo >/dev/null || return 1
  have=$(cd "$ROOT" && cargo --version 2>/dev/null | sed -n 's/^cargo \([0-9.]*\).*/\1/p')
  [ -n "$have" ] && version_at_least "$have" "$(rust_version)"
}

# Makes `cargo` new enough, with rustfmt and clippy; a toolchain that the user has is left as it is.
install_rust() {
  # Where rustup puts it; a shell that was open before does not know.
  if ! command -v cargo >/dev/null && [ -d "$HOME/.cargo/bin" ]; then PATH=$HOME/.cargo/bin:$PATH; fi
  if ! cargo_is_new_enough; then
    if ! command -v rustup >/dev/null; then install_rustup; fi
    say "installing the stable Rust toolchain with rustup (at least $(rust_version) is needed)"
    rustup toolchain install stable --profile minimal --component clippy --component rustfmt --no-self-update >&2 ||
      fail "rustup could not install Rust $(rust_version) or newer"
    export RUSTUP_TOOLCHAIN=stable
    cargo_is_new_enough || fail "cargo is still older than $(rust_version); see https://rustup.rs"
  fi
  for component in clippy rustfmt; do
    if ! cargo "${component/rustfmt/fmt}" --version >/dev/null 2>&1; then
      say "installing the Rust component $component"
      rustup component add "$component" >&2 || fail "rustup could not install $component"
    fi
  done
}

install_rustup() {
  local installer
  if ! command -v curl >/dev/null; then
    command -v apt-get >/dev/null || fail "neither rustup nor curl is here: install Rust from https://rustup.rs, then run this again"
    apt_install curl
  fi
  say "installing rustup into ~/.cargo (see https://rustup.rs)"
  installer=$(mktemp)
  curl --proto '=https' --tlsv1.2 -sSf --retry 3 https://sh.rustup.rs -o "$installer" ||
    fail "rustup could not be downloaded: install Rust $(rust_version) or newer from https://rustup.rs, then run this again"
  sh "$installer" -y --no-modify-path --profile minimal --component clippy --component rustfmt --default-toolchain stable >&2
  rm -f "$installer"
  PATH=$HOME/.cargo/bin:$PATH
}
