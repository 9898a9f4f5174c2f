# Prints what a user may do: one line a thing, with the error where there is one.
p() { name=$1; shift; if out=$("$@" 2>&1); then echo "$name yes" $out; else echo "$name no ${out##*: }"; fi; }
s() { name=$1; shift; if out=$(eval "$*" 2>&1); then echo "$name yes" $out; else echo "$name no ${out##*: }"; fi; }
p read-600 cat /t/600
p read-640-of-group cat /t/640
p read-604 cat /t/604
p read-own cat /t/own
p read-shadow-group cat /t/060
s write-644 'echo >>/t/604'
s write-own 'echo >>/t/own'
s write-664-of-group 'echo >>/t/664'
s write-own-444 'echo >>/t/own444'
s truncate-644 ': >/t/604'
s create-in-755 ': >/t/new'
s create-excl-over 'set -C; : >/t/sticky/roots'
s create-in-group-dir ': >/t/g/new && stat -c %u:%g:%a /t/g/new'
s create-in-setgid-dir ': >/t/sg/new && mkdir /t/sg/d && stat -c %u:%g:%a /t/sg/new /t/sg/d'
s create-in-sticky ': >/t/sticky/mine && stat -c %u:%g:%a /t/sticky/mine'
s create-in-own-555 ': >/t/own555/new'
p mkdir-in-755 mkdir /t/newdir
p mkdir-over mkdir /t/sticky
p symlink-in-755 ln -s x /t/newlink
p mkfifo-in-755 mkfifo /t/newpipe
p mknod mknod /t/sticky/null c 1 3
p remove-in-755 rm -f /t/604
p remove-in-sticky rm -f /t/sticky/roots
p remove-others-in-sticky rm -f /t/sticky/others
p remove-mine-in-sticky rm -f /t/sticky/mine
p remove-roots-in-777 rm -f /t/777/roots
p rmdir-in-755 rmdir /t/empty
p rmdir-in-777 rmdir /t/777/empty
p rename-in-755 mv -f /t/604 /t/605
p rename-roots-in-777 mv -f /t/777/other /t/777/moved
# A directory of a layer below is not renamed by an overlay.
test "$1" != made-here || p rename-roots-dir-in-777 mv -f /t/777/dir /t/777/moved-dir
test "$1" != made-here || p rename-roots-dir-across mv -f /t/777/moved-dir /t/g/
p rename-over-in-sticky sh -c ': >/t/sticky/m2; mv -f /t/sticky/m2 /t/sticky/roots'
p rename-missing mv -f /t/none /t/777/x
p list-711 ls /t/711
p read-known-in-711 cat /t/711/known
p list-700 ls /t/700
p read-in-700 cat /t/700/in
p stat-in-700 stat -c %a /t/700/in
p test-in-700 test -e /t/700/in
p through-700 cat /t/700/../604
p link-to-700 cat /t/to700
p list-750-group ls /t/750
p stat-600 stat -c %u:%g:%a:%s /t/600
p cd-700 sh -c 'cd /t/700'
p cd-711 sh -c 'cd /t/711 && cat known'
p cd-750-group sh -c 'cd /t/750 && ls'
p chmod-roots chmod 666 /t/604
p chmod-own chmod 640 /t/own
p chmod-own-setgid-foreign sh -c 'chmod 2755 /t/own && stat -c %a /t/own'
p chown-roots chown 1000 /t/604
p chown-own-away chown 0 /t/own
p chgrp-own-to-own-group sh -c 'chgrp 960 /t/own && stat -c %u:%g /t/own'
p chgrp-own-to-foreign chgrp 5 /t/own
p touch-roots touch -d @1000 /t/604
p touch-roots-666 touch /t/666
p touch-roots-666-date touch -d @1000 /t/666
p touch-own touch -d @1000 /t/own
p exec-755 /t/ok
p exec-700 /t/x700
p exec-711 /t/x711
p exec-644 /t/x644
p exec-710-group /t/x710
p exec-script-700 /t/s700
p exec-script-unreadable /t/s711
p exec-in-700 /t/700/x
p access-r-600 test -r /t/600
p access-w-604 test -w /t/604
p access-x-711 test -x /t/x711
p access-w-own test -w /t/own
p access-x-700 test -x /t/x700
p link-own ln /t/own /t/777/own-link
p link-into-755 ln /t/777/own-link /t/own-link
p readlink readlink /t/to700
p readlink-in-700 readlink /t/700/l
p read-by-link cat /t/to604
p create-through-link sh -c ': >/t/777/dangling && stat -c %u /t/777/target'
p create-through-link-denied sh -c ': >/t/777/dangling-in-700'
p loop cat /t/loop
p notdir cat /t/604/x
p slash cat /t/604/
p dotdot cat /../../t/./711/../604
p fd-again sh -c 'exec 3</t/604; cat /proc/self/fd/3 >/dev/null && exec 4>>/proc/self/fd/3'
p dev sh -c 'echo x >/dev/null && head -c1 /dev/zero | wc -c'
p create-in-dev touch /dev/new
p shm sh -c 'echo x >/dev/shm/mine && rm /dev/shm/mine'
p proc-self sh -c 'cat /proc/self/status >/dev/null && test "$(readlink /proc/self/exe)" = /bin/busybox && ls /proc/self/fd >/dev/null && cat /proc/self/environ >/dev/null'
p umask sh -c 'umask 027; : >/t/777/u; mkdir /t/777/ud; stat -c %a /t/777/u /t/777/ud'
p pipe sh -c 'cd /t/777; mkfifo p; (echo through >p &); cat p'
p copy sh -c 'cp -a /bin/busybox /t/777/bb && /t/777/bb true && rm /t/777/bb'
p tree sh -c 'cd /t/777; mkdir -p a/b/c; echo x >a/b/c/f; cp -r a z; rm -r a; find z | sort; rm -r z'
p whoami sh -c 'id -u; id -g; id -G'
p setuid-root /t/suid
p setuid-script sh -c 'cp /t/ok /t/777/script && chmod 4755 /t/777/script && /t/777/script'
p calls-of-32-bits /program compat
p swapped-path-in-memory /program memory
p swapped-link /program link
p swapped-program /program program
p local-socket /program socket
p peer /program peer
p attributes /program attributes
p unnamed /program unnamed
# What a race leaves is chance.
rm -f /t/777/next /t/777/swapped
