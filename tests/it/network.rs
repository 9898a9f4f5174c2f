//! `--network=none`, where there is a network namespace and where there is none.

use crate::fallback::{Denied, without};
use crate::harness::{Lab, busybox_is_missing, require};
use std::net::{TcpListener, UdpSocket};

/// What a program is answered, by kinds of sockets and addresses.
const ASK: &str = r#"
import errno, os, socket, sys, threading
port = int(sys.argv[1])

def ask(name, what):
    try:
        said = what()
        print(name, "ok" if said is None else said)
    except socket.gaierror as e:
        print(name, "gaierror", e.errno)
    except OSError as e:
        print(name, errno.errorcode.get(e.errno, e.errno))

def attempts():
    for family, outside, own in ((socket.AF_INET, "192.0.2.1", "127.0.0.1"), (socket.AF_INET6, "2001:db8::1", "::1")):
        s = lambda kind: socket.socket(family, kind)
        ask(f"{family.name} stream outside", lambda: s(socket.SOCK_STREAM).connect((outside, 80)))
        ask(f"{family.name} stream own", lambda: s(socket.SOCK_STREAM).connect((own, port)))
        ask(f"{family.name} datagram outside", lambda: s(socket.SOCK_DGRAM).connect((outside, 53)))
        ask(f"{family.name} sendto", lambda: s(socket.SOCK_DGRAM).sendto(b"x", (outside, 53)))
        ask(f"{family.name} sendmsg", lambda: s(socket.SOCK_DGRAM).sendmsg([b"x"], [], 0, (outside, 53)))
        ask(f"{family.name} bind outside", lambda: s(socket.SOCK_STREAM).bind((outside, 80)))
        ask(f"{family.name} options", lambda: s(socket.SOCK_STREAM).setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1))
        ask(f"{family.name} name", lambda: s(socket.SOCK_STREAM).getsockname()[:2])
        waiting = s(socket.SOCK_STREAM)
        waiting.setblocking(False)
        ask(f"{family.name} without waiting", lambda: waiting.connect((outside, 80)))
    ask("resolve", lambda: socket.getaddrinfo("example.com", 80) and None)
    ask("number", lambda: socket.getaddrinfo("192.0.2.1", 80, type=socket.SOCK_STREAM)[0][4][0])
    ask("host", lambda: socket.gethostbyname("localhost"))

def local(address):
    server = socket.socket(socket.AF_UNIX)
    server.bind(address)
    server.listen(1)
    client = socket.socket(socket.AF_UNIX)
    client.connect(address)
    peer, _ = server.accept()
    client.sendmsg([b"through"])
    return peer.recv(99)

attempts()
ask("local path", lambda: local("/tmp/socket"))
ask("local name", lambda: local("\0name"))
ask("local pair", lambda: [a.send(b"x") and b.recv(9) for a, b in [socket.socketpair()]])
ask("local datagrams", lambda: [a.send(b"x") and b.recv(9) for a, b in [socket.socketpair(type=socket.SOCK_DGRAM)]])
print("--- in a thread")
thread = threading.Thread(target=attempts)
thread.start()
thread.join()
"#;

/// Programs and what they end with.
const PROGRAMS: &str = r#"
for url in http://192.0.2.1/ http://127.0.0.1:$1/ http://example.com/; do
    curl -s --max-time 20 $url; echo "curl $url $?"
    /usr/bin/wget -q -t 1 -T 20 -O /dev/null $url; echo "wget $url $?"
done
"#;

fn asked(lab: &Lab, isolation: &str, denied: Denied<'_>) -> Vec<String> {
    let here = TcpListener::bind("0.0.0.0:0").expect("a server");
    let port = here.local_addr().expect("its address").port();
    here.set_nonblocking(true).expect("a server that can be asked");
    let datagrams = UdpSocket::bind(("0.0.0.0", port)).expect("another server");
    datagrams.set_nonblocking(true).expect("a server that can be asked");
    // The programs are this machine's.
    let flags = ["--volume=/usr:/usr:ro", "--network=none", "--no-cache"];
    let dockerfile = format!(
        "FROM localhost/base\nCOPY ask.py programs /\n\
         RUN echo BEGIN; /usr/bin/python3 -I /ask.py {port} 2>&1; sh /programs {port} 2>&1; echo END\n"
    );
    let context = lab.context("context", &[("Dockerfile", &dockerfile), ("ask.py", ASK), ("programs", PROGRAMS)]);
    let program = lab.path("bin/rbuild");
    let isolation = format!("--isolation={isolation}");
    let mut command = vec![program.to_str().expect("text"), "bud", &isolation];
    command.extend(flags);
    command.push(context.to_str().expect("text"));
    let done = without(lab, denied, false, &command).output();
    assert_eq!(done.code, 0, "{done}");
    assert!(here.accept().is_err() && datagrams.recv(&mut [0; 9]).is_err(), "somebody came: {done}");
    let lines = done.stdout.lines().map(|l| l.replace(&port.to_string(), "PORT"));
    let lines: Vec<String> = lines.skip_while(|l| !l.ends_with("BEGIN")).take_while(|l| !l.ends_with("END")).collect();
    assert!(lines.len() > 50, "{done}");
    lines
}

#[test]
fn programs_are_answered_alike_with_and_without_a_namespace() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    require!("setpriv", "curl", "wget");
    require!(if !std::path::Path::new("/usr/bin/python3").exists(), "`/usr/bin/python3` is not installed");
    let lab = Lab::new();
    lab.import_busybox();
    let base = "FROM localhost/busybox\nRUN mkdir -p /usr && ln -s usr/lib /lib && ln -s usr/lib64 /lib64\n";
    let base = lab.context("base", &[("Dockerfile", base)]);
    lab.rbuild(["bud", "-t", "localhost/base"]).arg(base).ok();
    let expected = asked(&lab, "namespaces", &[]);
    assert!(expected.iter().any(|l| l.contains("AF_INET stream outside ENETUNREACH")), "{expected:#?}");
    for denied in [&[][..], &[("pidfd_getfd", libc::EPERM), ("landlock_create_ruleset", libc::ENOSYS)]] {
        assert_eq!(asked(&lab, "trace", denied), expected, "{denied:?}");
    }
}
