# What the scripts beside this file share: packages that are missing, and a user that is not root. To be sourced by bash.

# Installs those of the named Debian packages that are not installed yet; asks for rights by sudo where it must.
install_missing() {
    local package missing=()
    for package in "$@"; do
        [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    echo "installing: ${missing[*]}"
    local as_root=()
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || { echo "error: \`sudo\` is missing; as root: apt-get install ${missing[*]}" >&2; return 1; }
        as_root=(sudo)
    fi
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# As root: makes sure that there is an unprivileged user with a range of ids, and sets `builder` to its name. As anybody
# else, `builder` is the caller.
find_builder() {
    builder=$(id -un)
    [ "$(id -u)" = 0 ] || return 0
    local name
    # Somebody may have such a user already.
    while IFS=: read -r name _; do
        if id -u "$name" >/dev/null 2>&1 && [ "$(id -u "$name")" != 0 ] && grep -q "^$name:" /etc/subgid; then
            builder=$name
            return 0
        fi
    done </etc/subuid
    builder=rbuild
    echo "creating the user \`$builder\`, since rbuild is to be run by somebody who is not root"
    id -u "$builder" >/dev/null 2>&1 || useradd --create-home --shell /bin/sh "$builder"
    # useradd gives ranges where /etc/login.defs says so, which is Debian's default.
    grep -q "^$builder:" /etc/subuid || usermod --add-subuids 100000-165535 "$builder"
    grep -q "^$builder:" /etc/subgid || usermod --add-subgids 100000-165535 "$builder"
}

# Runs a command as `builder`, in an environment of its own when that is not the caller.
as_builder() {
    if [ "$(id -un)" = "$builder" ]; then
        "$@"
    else
        setpriv --reuid="$(id -u "$builder")" --regid="$(id -g "$builder")" --clear-groups \
            env -i HOME="$(getent passwd "$builder" | cut -d: -f6)" PATH="$PATH" LC_ALL=C.UTF-8 "$@"
    fi
}

# Writes a root file system of nothing but static busybox to the tar file $1.
busybox_base() {
    local dir applet
    dir=$(mktemp -d)
    mkdir -p "$dir"/{bin,etc,root,tmp,usr,var}
    chmod 755 "$dir" && chmod 700 "$dir/root" && chmod 1777 "$dir/tmp"
    cp /bin/busybox "$dir/bin/busybox"
    for applet in $(/bin/busybox --list); do
        [ "$applet" = busybox ] || ln -s busybox "$dir/bin/$applet"
    done
    printf 'root:x:0:0:root:/root:/bin/sh\nwww:x:33:33:www:/var:/bin/sh\n' >"$dir/etc/passwd"
    printf 'root:x:0:\nwww:x:33:\n' >"$dir/etc/group"
    tar --create --file="$1" --directory="$dir" --sort=name --mtime=@1600000000 --owner=0 --group=0 --numeric-owner .
    rm -rf "$dir"
}
