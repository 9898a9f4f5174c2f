#!/usr/bin/env bash
# Installs what is missing, builds rbuild, builds the image in examples/hello with it as a non-root user, and runs it.
# Needs Debian, git, a Rust toolchain, and (only where packages are missing) sudo or root. No registry, no daemon.
set -euo pipefail
cd "$(dirname "$0")/.."
. examples/setup.sh

install_missing gcc libc6-dev busybox-static uidmap
find_builder

echo "building rbuild (a few minutes the first time)"
cargo build --release --locked --quiet
program=target/x86_64-unknown-linux-gnu/release/rbuild

# The builder may not be allowed to look into this directory, so what it needs goes to one of its own.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp "$program" "$work/rbuild"
cp -r examples/hello "$work/hello"
busybox_base "$work/busybox.tar"
chmod -R a+rX "$work"
cd "$work"

echo "as the user \`$builder\`: rbuild import, rbuild bud, rbuild run"
as_builder ./rbuild import busybox.tar localhost/busybox:latest
as_builder ./rbuild bud -t localhost/hello hello
echo
as_builder ./rbuild run localhost/hello
