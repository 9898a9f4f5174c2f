#!/usr/bin/env bash
# Installs what the tests use, where it is missing, and runs all of them. Arguments go to `cargo test`.
# As root, the tests run rbuild as an unprivileged user, which is created if there is none with a range of ids.
set -euo pipefail
cd "$(dirname "$0")/.."
. examples/setup.sh

install_missing gcc libc6-dev busybox-static uidmap libcap2-bin attr jq podman skopeo umoci runc docker-registry redis-server git \
    bzip2 xz-utils zstd cpp openssh-client openssl apache2-utils qemu-user-static python3 apparmor
# Where every test must run: Debian's dockerd, which starts as a service where services are started.
[ -z "${CI:-}" ] || install_missing docker.io containerd
find_builder
exec cargo test --locked "$@"
