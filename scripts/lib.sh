# Shared by the scripts here; sourced, never run. The scripts are bash, strict, and may be started from any directory.
# shellcheck shell=bash disable=SC2034  # what is set here is used by those who source it

set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
target=${CARGO_TARGET_DIR:-target}
[[ $target == /* ]] || target=$root/$target # cargo is always started in the root

if [[ -t 2 ]]; then bold=$'\e[1m' dim=$'\e[2m' red=$'\e[31m' plain=$'\e[0m'; else bold='' dim='' red='' plain=''; fi

# All of these write to stderr: stdout belongs to what a script is for.
headline() { printf '%s%s%s\n' "$bold" "$*" "$plain" >&2; }
note() { printf '  %s%s%s\n' "$dim" "$*" "$plain" >&2; }
die() {
    printf '%s%s:%s %s\n' "$red" "${0##*/}" "$plain" "$*" >&2
    exit 1
}

need() { # COMMAND HOW-TO-GET-IT
    command -v "$1" >/dev/null || die "$1 is missing: $2"
}

# What was started here ends here, however the script ends.
started=()
stop_started() {
    local pid tries
    for pid in ${started[@]+"${started[@]}"}; do
        kill -TERM "$pid" 2>/dev/null || continue
        for ((tries = 0; tries < 50; tries++)); do
            kill -0 "$pid" 2>/dev/null || continue 2
            sleep 0.1
        done
        kill -KILL "$pid" 2>/dev/null || true
    done
    started=()
}
trap stop_started EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# Plays SCENARIO of tests/scripted_api on loopback. Lays the scenario's seed files out in WORK; logs go to DIR.
# Sets `api_url`.
start_scripted_api() { # PYTHON SCENARIO WORK DIR
    local python=$1 scenario=$2 work=$3 dir=$4 tries
    rm -f -- "$dir/api.port"
    "$python" "$root/tests/scripted_api/messages_api.py" --scenario "$scenario" --port 0 --port-file "$dir/api.port" \
        --cwd "$work" --log "$dir/api.log" >"$dir/api.out" 2>&1 &
    started+=("$!")
    for ((tries = 0; tries < 100; tries++)); do
        if [[ -s $dir/api.port ]]; then
            api_url="http://127.0.0.1:$(<"$dir/api.port")"
            return
        fi
        sleep 0.1
    done
    die "the scripted API did not start: $(tail -n 3 "$dir/api.out")"
}

# The environment in which the CLI talks to the scripted API, and to nothing and nobody else: a HOME of its own, no
# settings or credentials of whoever runs this, no way out through a proxy.
use_scripted_api() { # HOME
    local name
    for name in "${!ANTHROPIC_@}" "${!CLAUDE_@}"; do unset "$name"; done
    export HOME=$1 ANTHROPIC_BASE_URL=$api_url ANTHROPIC_API_KEY=fake-key
    export CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1 DISABLE_AUTOUPDATER=1 DISABLE_TELEMETRY=1 DISABLE_ERROR_REPORTING=1
    export NO_PROXY=127.0.0.1,localhost no_proxy=127.0.0.1,localhost
}

# How the tour's agent is run by the demo and the checks. The model is one whose price is known.
tour_prompt='What do the orders in orders.csv add up to? Have the refund audited.'
tour_flags=(--model claude-sonnet-5 --tools 'Bash,Read,Agent')
