# shellcheck shell=bash
# What the scripts share: where the build is, and private servers that live as long as the script does.
# Sourced after install.sh.

# The folder of the private servers while there are any, and the process that starts them.
SERVERS_DIR=''
STARTER=''
# Process groups that must not outlive the script.
BACKGROUND=()
# What must be free in memory before temporary files go there.
MEMORY_KIB_MIN=3000000

# in_background COMMAND...: runs it beside the script, in a process group of its own, so that it can be ended with all
# that it started.
in_background() {
  set -m
  "$@" </dev/null &
  BACKGROUND+=($!)
  set +m
}

# Prints the folder where cargo puts this build's programs.
program_folder() {
  case ${MILLRACE_PROFILE:-dev} in
    dev) printf '%s/debug\n' "${CARGO_TARGET_DIR:-$ROOT/target}" ;;
    *) printf '%s/%s\n' "${CARGO_TARGET_DIR:-$ROOT/target}" "$MILLRACE_PROFILE" ;;
  esac
}

# Prints a folder in memory where there is room for the scenarios' databases and projects, else the folder for temporary
# files. Databases and clusters of scenarios are tens of thousands of small files, made and removed within a minute.
memory_folder() {
  local room available
  room=$(df --output=avail -k /dev/shm 2>/dev/null | tail -n 1) || room=0
  available=$(sed -n 's/^MemAvailable: *\([0-9]*\) kB/\1/p' /proc/meminfo 2>/dev/null) || available=0
  if [ -w /dev/shm ] && [ "${room:-0}" -ge "$MEMORY_KIB_MIN" ] && [ "${available:-0}" -ge $((2 * MEMORY_KIB_MIN)) ]; then
    echo /dev/shm
  else
    echo "${TMPDIR:-/tmp}"
  fi
}

# start_servers NAME SERVICE...: begins to start private servers in a new folder and returns at once.
start_servers() {
  local name=$1 list
  shift
  [ $# -gt 0 ] || return 0
  list=$(IFS=, && printf '%s' "$*")
  SERVERS_DIR=$(mktemp -d "${TMPDIR:-/tmp}/millrace-$name.XXXXXX")
  # PostgreSQL may have to run as another user, who must be able to enter.
  chmod 711 "$SERVERS_DIR"
  say "private servers (${list//,/, }) in $SERVERS_DIR"
  in_background "$ROOT/scripts/services" start --dir "$SERVERS_DIR" --only "$list"
  STARTER=${BACKGROUND[-1]}
}

# Waits until the servers answer and exports their addresses. Without private servers there is nothing to do.
await_servers() {
  local status=0
  [ -n "$SERVERS_DIR" ] || return 0
  if [ -n "$STARTER" ]; then
    wait "$STARTER" || status=$?
    STARTER=''
    [ "$status" -eq 0 ] || return 1
  fi
  eval "$("$ROOT/scripts/services" env --dir "$SERVERS_DIR")"
}

# Stops what runs in the background, then the private servers, and removes their folder.
stop_servers() {
  local group
  for group in "${BACKGROUND[@]}"; do
    kill -TERM -- "-$group" 2>/dev/null || true
  done
  for group in "${BACKGROUND[@]}"; do
    wait "$group" 2>/dev/null || true
  done
  BACKGROUND=()
  if [ -n "$SERVERS_DIR" ]; then
    "$ROOT/scripts/services" stop --dir "$SERVERS_DIR" --purge
    rm -rf "$SERVERS_DIR"
    SERVERS_DIR=''
  fi
}

# end_with STATUS: the one way out of a script that may have started servers; for traps.
end_with() {
  trap - EXIT
  trap '' INT TERM HUP
  stop_servers
  exit "$1"
}

# From here on, whatever ends the script, its servers end too.
stop_servers_at_exit() {
  trap 'end_with $?' EXIT
  trap 'end_with 130' INT
  trap 'end_with 143' TERM
  trap 'end_with 129' HUP
}
