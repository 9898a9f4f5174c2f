# Makes files of several owners and modes.
set -e
cd / && rm -rf /t && mkdir -p /t /tmp /etc && chmod 1777 /tmp && cd /t
if ! grep -q ^app: /etc/passwd; then
    printf 'root:x:0:0::/:/bin/sh\napp:x:1000:1000::/:/bin/sh\n' >/etc/passwd
    printf 'root:x:0:\napp:x:1000:\nteam:x:960:app\n' >/etc/group
fi
for mode in 600 640 604 060 664 666; do echo $mode >$mode; chmod $mode $mode; done
echo own >own; chmod 600 own; echo own >own444; chmod 444 own444; chown 1000:1000 own own444; chown 0:960 640 060 664
mkdir -m 755 empty; mkdir -m 1777 sticky; echo >sticky/roots; chmod 666 sticky/roots; echo >sticky/others; chown 1001 sticky/others
mkdir 777; chmod 777 777; echo >777/roots; echo >777/other; mkdir 777/empty 777/dir
ln -s target 777/dangling; ln -s /t/700/new 777/dangling-in-700
mkdir g sg; chown 0:960 g sg; chmod 775 g; chmod 2775 sg
mkdir -m 555 own555; chown 1000:1000 own555
mkdir -m 711 711; echo known >711/known; mkdir -m 700 700; echo in >700/in; cp /bin/busybox 700/x; ln -s in 700/l
mkdir -m 750 750; echo >750/f; chown 0:960 750
ln -s /t/700/in to700; ln -s 604 to604; ln -s loop loop
printf '#!/bin/sh\necho ran\n' >ok; cp ok x644; cp ok s700; cp ok s711
for x in x700 x711 x710; do cp /program $x; done
chmod 755 ok; chmod 644 x644; chmod 700 s700 x700; chmod 711 s711 x711; chown 0:960 x710; chmod 710 x710
cp /program suid; chmod 4755 suid; cp /program sgid; chgrp 960 sgid; chmod 2755 sgid
cp /program /bin/program; chmod 755 /program
