#!/bin/sh
# Makes links to rbuild under the names that it answers to. See README.md.
set -eu

usage() {
    echo "usage: install.sh [--rbuild FILE] [--only NAME] [--force] DIR" >&2
    exit 2
}

names="docker buildah" rbuild="" force=""
while [ $# -gt 0 ]; do
    case $1 in
    --rbuild) [ $# -gt 1 ] || usage; rbuild=$2; shift 2 ;;
    --only) [ $# -gt 1 ] || usage; names=$2; shift 2 ;;
    --force) force=yes; shift ;;
    -*) usage ;;
    *) break ;;
    esac
done
[ $# -eq 1 ] || usage
dir=$1

[ -n "$rbuild" ] || rbuild=$(command -v rbuild) || {
    echo "install.sh: rbuild is not in PATH: pass --rbuild FILE" >&2
    exit 1
}
rbuild=$(readlink -f -- "$rbuild")
[ -x "$rbuild" ] || {
    echo "install.sh: $rbuild is not a program" >&2
    exit 1
}

mkdir -p -- "$dir"
for name in $names; do
    case $name in
    docker | buildah) ;;
    *) echo "install.sh: rbuild does not answer to the name $name" >&2; exit 1 ;;
    esac
    link=$dir/$name
    if [ -e "$link" ] || [ -L "$link" ]; then
        if [ "$(readlink -f -- "$link" || true)" != "$rbuild" ] && [ -z "$force" ]; then
            echo "install.sh: $link exists and is something else: pass --force to replace it" >&2
            exit 1
        fi
    fi
    ln -sfn -- "$rbuild" "$link"
    echo "$link -> $rbuild"
done
