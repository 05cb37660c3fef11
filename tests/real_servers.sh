#!/usr/bin/env bash
# Runs the checkout example against a real Pyroscope and a real Tempo, and reads everything back as Grafana does.
#
#   tests/real_servers.sh PYROSCOPE_BIN TEMPO_BIN [PROFILECLI_BIN]
#
# Pyroscope 2.2 or later and Tempo 3. Starts and stops both itself, on free ports of loopback, with the files of
# examples/grafana. Takes some four minutes, and fails if anything is not as docs/grafana.md says.
set -euo pipefail
[ $# -ge 2 ] && [ $# -le 3 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2; }
for binary in "$@"; do
  [ -x "$binary" ] || { echo "$binary is no program" >&2; exit 2; }
done
POLLSCOPE_TEST_PYROSCOPE=$(realpath "$1")
POLLSCOPE_TEST_TEMPO=$(realpath "$2")
export POLLSCOPE_TEST_PYROSCOPE POLLSCOPE_TEST_TEMPO
if [ $# = 3 ]; then
  POLLSCOPE_TEST_PROFILECLI=$(realpath "$3")
  export POLLSCOPE_TEST_PROFILECLI
fi
cd "$(dirname "$0")/.."
cargo build --locked --release --features otlp --example checkout
POLLSCOPE_TEST_CHECKOUT=$(realpath "${CARGO_TARGET_DIR:-target}/release/examples/checkout")
export POLLSCOPE_TEST_CHECKOUT
cargo test --locked --test real_servers -- --nocapture
