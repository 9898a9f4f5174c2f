//! The network of steps, and `--network=none`, where there are namespaces and where a supervisor makes connections.

use crate::fallback::{Denied, without};
use crate::harness::{Done, Lab, busybox_is_missing, require};
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

/// What servers and clients of one program do to each other, alone and beside a thread with the same descriptors.
const TALK: &str = r#"
import errno, os, select, signal, socket, threading, time

def tcp(): return socket.socket(socket.AF_INET, socket.SOCK_STREAM)
def udp(): return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

def server(port=0):
    s = tcp()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("127.0.0.1", port))
    s.listen(8)
    return s, s.getsockname()[1]

def echo():
    s, port = server()
    c = tcp()
    c.connect(("127.0.0.1", port))
    peer, _ = s.accept()
    c.sendall(b"through")
    got = peer.recv(99)
    c.close()
    peer.settimeout(5)
    return got, peer.recv(99)

def again():
    s, port = server()
    s.close()
    c = tcp()
    first = c.connect_ex(("127.0.0.1", port))
    s, _ = server(port)
    return errno.errorcode[first], c.connect_ex(("127.0.0.1", port))

def closed():
    s, port = server()
    s.close()
    return errno.errorcode[tcp().connect_ex(("127.0.0.1", port))]

def free_port():
    s = tcp()
    s.bind(("127.0.0.1", 0))
    port = s.getsockname()[1]
    s.close()
    tcp().bind(("127.0.0.1", port))
    d = udp()
    d.bind(("127.0.0.1", 0))
    port = d.getsockname()[1]
    d.close()
    udp().bind(("127.0.0.1", port))
    return "twice"

def datagrams():
    a, b, c = udp(), udp(), udp()
    a.bind(("127.0.0.1", 0)); b.bind(("127.0.0.1", 0))
    c.connect(a.getsockname()); c.send(b"1")
    c.connect(b.getsockname()); c.send(b"2")
    c.sendto(b"3", a.getsockname())
    return a.recv(9), b.recv(9), a.recv(9)

def patiently():
    s, port = server()
    c = tcp()
    c.setblocking(False)
    c.connect_ex(("127.0.0.1", port))
    select.select([], [c], [], 5)
    return c.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), errno.errorcode.get(c.connect_ex(("127.0.0.1", port)), 0) in ("EISCONN", 0)

def many():
    kept = [tcp() for _ in range(150)] + [udp() for _ in range(150)]
    s, port = server()
    for _ in range(600):
        udp().close()
    kept[0].connect(("127.0.0.1", port))
    return kept[-1].connect_ex(("127.0.0.1", port))

class Late(Exception): pass
def late(*_): raise Late
def interrupted():
    s = tcp()
    s.bind(("127.0.0.1", 0))
    s.listen(0)
    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, 1)
    began = time.monotonic()
    held = []
    try:
        for _ in range(8):
            held.append(tcp())
            held[-1].connect(s.getsockname())
    except Late:
        return time.monotonic() - began < 5
    return "never waited"

def child():
    s, port = server()
    c = tcp()
    if os.fork() == 0:
        os._exit(0 if c.connect_ex(("127.0.0.1", port)) == 0 else 1)
    return os.wait()[1], errno.errorcode.get(c.connect_ex(("127.0.0.1", port)))

def interfaces():
    return "lo" in [name for _, name in socket.if_nameindex()]

def talk():
    for what in (echo, again, closed, free_port, datagrams, patiently, many, interrupted, child, interfaces):
        try:
            print(what.__name__, what(), flush=True)
        except OSError as e:
            print(what.__name__, errno.errorcode.get(e.errno, e.errno), flush=True)

talk()
print("--- beside a thread")
threading.Thread(target=lambda: time.sleep(600), daemon=True).start()
talk()
"#;

/// A lab with a base image on which this machine's programs can be run.
fn lab() -> Lab {
    let lab = Lab::new();
    lab.import_busybox();
    let base = "FROM localhost/busybox\nRUN mkdir -p /usr && ln -s usr/lib /lib && ln -s usr/lib64 /lib64\n";
    let base = lab.context("base", &[("Dockerfile", base)]);
    lab.rbuild(["bud", "-t", "localhost/base"]).arg(base).ok();
    lab
}

/// What a step that runs this prints, on one rung.
fn said(lab: &Lab, isolation: &str, denied: Denied<'_>, network: &str, run: &str) -> (Vec<String>, Done) {
    // The programs are this machine's.
    let dockerfile = format!("FROM localhost/base\nCOPY ask.py talk.py programs /\nRUN echo BEGIN; {run}; echo END\n");
    let files = [("Dockerfile", dockerfile.as_str()), ("ask.py", ASK), ("talk.py", TALK), ("programs", PROGRAMS)];
    let context = lab.context("context", &files);
    let program = lab.path("bin/rbuild");
    let isolation = format!("--isolation={isolation}");
    let network = format!("--network={network}");
    let mut command = vec![program.to_str().expect("text"), "bud", &isolation, &network];
    command.extend(["--volume=/usr:/usr:ro", "--no-cache"]);
    command.push(context.to_str().expect("text"));
    let done = without(lab, denied, false, &command).output();
    assert_eq!(done.code, 0, "{done}");
    let lines = done.stdout.lines().skip_while(|l| !l.ends_with("BEGIN")).take_while(|l| !l.ends_with("END"));
    (lines.map(str::to_owned).collect(), done)
}

/// What a kernel or a pod may lack of what the supervisor uses.
const BARE: Denied<'static> = &[("pidfd_getfd", libc::EPERM), ("landlock_create_ruleset", libc::ENOSYS)];

#[test]
fn programs_talk_alike_with_and_without_a_supervisor() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    require!("setpriv");
    require!(if !std::path::Path::new("/usr/bin/python3").exists(), "`/usr/bin/python3` is not installed");
    let lab = lab();
    let run = "/usr/bin/python3 -I /talk.py 2>&1";
    let (expected, done) = said(&lab, "namespaces", &[], "host", run);
    assert!(expected.contains(&"echo (b'through', b'')".to_owned()) && expected.len() == 22, "{done}");
    assert!(!done.stdout.contains("never waited"), "{done}");
    for denied in [&[][..], BARE] {
        let (said, done) = said(&lab, "trace", denied, "host", run);
        assert_eq!(said, expected, "{denied:?}: {done}");
    }
}

fn asked(lab: &Lab, isolation: &str, denied: Denied<'_>) -> Vec<String> {
    let here = TcpListener::bind("0.0.0.0:0").expect("a server");
    let port = here.local_addr().expect("its address").port();
    here.set_nonblocking(true).expect("a server that can be asked");
    let datagrams = UdpSocket::bind(("0.0.0.0", port)).expect("another server");
    datagrams.set_nonblocking(true).expect("a server that can be asked");
    let run = format!("/usr/bin/python3 -I /ask.py {port} 2>&1; sh /programs {port} 2>&1");
    let (lines, done) = said(lab, isolation, denied, "none", &run);
    assert!(here.accept().is_err() && datagrams.recv(&mut [0; 9]).is_err(), "somebody came: {done}");
    let lines: Vec<String> = lines.iter().map(|l| l.replace(&port.to_string(), "PORT")).collect();
    assert!(lines.len() > 50, "{done}");
    lines
}

#[test]
fn programs_are_answered_alike_with_and_without_a_namespace() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    require!("setpriv", "curl", "wget");
    require!(if !std::path::Path::new("/usr/bin/python3").exists(), "`/usr/bin/python3` is not installed");
    let lab = lab();
    let expected = asked(&lab, "namespaces", &[]);
    assert!(expected.iter().any(|l| l.contains("AF_INET stream outside ENETUNREACH")), "{expected:#?}");
    for denied in [&[][..], BARE] {
        assert_eq!(asked(&lab, "trace", denied), expected, "{denied:?}");
    }
}
