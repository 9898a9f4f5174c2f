#!/usr/bin/env python3
"""Large layers on their way to and from a registry: what is moved again after a kill, and what memory and processors it takes.

    registry.py --rbuild target/.../release/rbuild [--work DIR] [--resume MIB] [--large MIB] [--user UID:GID]

`resume`: `kill -9` in mid-pull (Debian's docker-registry, behind a counting proxy) and in mid-push (a registry of this file, which keeps
what it got of an upload whose connection broke; docker-registry 2.8 throws such an upload away). Printed: bytes that were there when it
was killed, bytes that the next try moved, and their sum against the layer.
`large`: build, push and pull of one layer. Printed: seconds, highest sum of anonymous memory (`RssAnon`) of all processes of the command,
seconds of processor a second.
Half of a layer does not compress. The servers listen on the loopback interface only, and are ended by their ids.
"""
import argparse, hashlib, http.server, os, pathlib, re, secrets, shutil, signal, socket, socketserver, subprocess, sys, threading, time

MIB = 1 << 20


class Uploads(http.server.BaseHTTPRequestHandler):
    """The least of a registry that takes images: uploads are kept as they are when a connection breaks, and gone on with."""
    protocol_version = "HTTP/1.1"
    root, received = None, 0

    def log_message(self, *_):
        pass

    def answer(self, status, **headers):
        self.send_response(status)
        for name, value in {"Content-Length": 0, **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def file(self):
        return self.root / self.path.split("?")[0].rstrip("/").rsplit("/", 1)[-1].replace(":", "-")

    def upload(self, status, file):
        self.answer(status, Location=f"/v2/x/blobs/uploads/{file.name}", Range=f"0-{max(0, file.stat().st_size - 1)}")

    def take(self, file):
        """Appends the body to a file as it comes."""
        def copy(length):
            while length:
                data = self.rfile.read1(min(length, 1 << 16))
                if not data:
                    raise ConnectionError
                out.write(data)
                Uploads.received += len(data)
                length -= len(data)
        with open(file, "ab", buffering=0) as out:
            if "Content-Length" in self.headers:
                return copy(int(self.headers["Content-Length"]))
            while size := int(self.rfile.readline() or b"broken", 16):
                copy(size)
                self.rfile.readline()
            self.rfile.readline()

    def do_POST(self):
        file = self.root / secrets.token_hex(8)
        file.touch()
        self.upload(202, file)

    def do_PATCH(self):
        try:
            self.take(self.file())
        except (ConnectionError, ValueError):
            self.close_connection = True
            return
        self.upload(202, self.file())

    def do_PUT(self):
        file = self.file()
        self.take(file)
        if found := re.search(r"digest=(sha256%3A|sha256:)([0-9a-f]{64})", self.path):
            whole = hashlib.sha256()
            with open(file, "rb") as data:
                while block := data.read(MIB):
                    whole.update(block)
            if whole.hexdigest() != found[2]:
                return self.answer(400)
            file.rename(self.root / f"sha256-{found[2]}")
        self.answer(201, Location=self.path)

    def do_GET(self):
        file = self.file()
        if self.path.rstrip("/") == "/v2":
            return self.answer(200)
        if not file.exists():
            return self.answer(404)
        if "/uploads/" in self.path:
            return self.upload(204, file)
        self.answer(200, Content_Length=file.stat().st_size)
        if self.command == "GET":
            with open(file, "rb") as data:
                shutil.copyfileobj(data, self.wfile)

    do_HEAD = do_GET


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        pass  # connections break: that is what is measured


class Proxy(socketserver.BaseRequestHandler):
    """Passes bytes between a client and the registry, and counts those to the client."""
    upstream, sent = None, 0

    def handle(self):
        with socket.create_connection(self.upstream) as up:
            threading.Thread(target=self.there, args=(up,), daemon=True).start()
            try:
                while data := up.recv(1 << 18):
                    self.request.sendall(data)
                    Proxy.sent += len(data)
            except OSError:
                pass

    def there(self, up):
        try:
            while data := self.request.recv(1 << 16):
                up.sendall(data)
            up.shutdown(socket.SHUT_WR)
        except OSError:
            pass


class Threads(socketserver.ThreadingTCPServer):
    daemon_threads = allow_reuse_address = True


def family(pid):
    """A process and all that it started."""
    found = [pid]
    for p in found:
        try:
            for task in os.listdir(f"/proc/{p}/task"):
                found += map(int, pathlib.Path(f"/proc/{p}/task/{task}/children").read_text().split())
        except OSError:
            pass
    return found


def anonymous(pids):
    total = 0
    for pid in pids:
        try:
            found = re.search(r"RssAnon:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text())
            total += int(found[1]) << 10 if found else 0
        except OSError:
            pass
    return total


def port():
    """One that nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Bench:
    def __init__(self, args):
        self.args, self.work = args, pathlib.Path(args.work).resolve()
        self.uid, self.gid = map(int, args.user.split(":"))
        for name in ["home", "tmp", "registry", "keeps"]:
            (self.work / name).mkdir(parents=True, exist_ok=True)
        for name in [".", "home", "tmp"]:
            os.chown(self.work / name, self.uid, self.gid)
        shutil.copy(args.rbuild, self.work / "rbuild")
        Uploads.root = self.work / "keeps"

    def start(self, args, store="store"):
        env = {"HOME": str(self.work / "home"), "PATH": os.environ["PATH"], "TMPDIR": str(self.work / "tmp"),
               "RBUILD_ROOT": str(self.work / store)}
        prefix = ["setpriv", f"--reuid={self.uid}", f"--regid={self.gid}", "--clear-groups"] if os.getuid() == 0 else []
        return subprocess.Popen(prefix + [str(self.work / "rbuild"), *args], env=env, cwd=self.work, stdout=subprocess.DEVNULL,
                                stderr=open(self.work / "log", "wb"))

    def finish(self, child):
        """Waits for a command; its seconds, highest anonymous memory, and seconds of processor."""
        begun, highest, done = time.monotonic(), 0, 0
        while not done:
            highest = max(highest, anonymous(family(child.pid)))
            done, status, usage = os.wait4(child.pid, os.WNOHANG)
            time.sleep(0.01)
        if status:
            sys.exit(f"{' '.join(child.args)}: {(self.work / 'log').read_text()[-2000:]}")
        return time.monotonic() - begun, highest, usage.ru_utime + usage.ru_stime

    def run(self, args, store="store"):
        return self.finish(self.start(args, store))

    def image(self, name, mib):
        context = self.work / "context"
        context.mkdir(exist_ok=True)
        (context / "Dockerfile").write_text("FROM scratch\nCOPY file /\n")
        with open(context / "file", "wb") as file:
            for n in range(mib):
                file.write(os.urandom(MIB // 2) + f"line {n} of a text that repeats\n".encode() * (MIB // 2 // 32))
        size = (context / "file").stat().st_size
        took = self.run(["bud", "-t", name, "context"])
        shutil.rmtree(context)
        return size, took

    def registry(self):
        number = port()
        config = self.work / "registry.yml"
        config.write_text(f"version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nstorage: {{filesystem: {{rootdirectory: "
                          f"{self.work}/registry}}}}\nhttp: {{addr: '127.0.0.1:{number}'}}\n")
        child = subprocess.Popen(["docker-registry", "serve", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while True:
            try:
                socket.create_connection(("127.0.0.1", number)).close()
                return child, number
            except OSError:
                time.sleep(0.05)

    def killed(self, command, store, counted, at):
        """Kills a command once `counted` says that so many bytes were moved, and runs it to its end; bytes before and after."""
        before, child = counted(), self.start(command, store)
        while counted() - before < at:
            if child.poll() is not None:
                sys.exit(f"it ended before it was killed: {(self.work / 'log').read_text()[-2000:]}")
            time.sleep(0.002)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        time.sleep(1)  # for what the kernel still passes on
        first = counted() - before
        self.run(command, store)
        return first, counted() - before - first

    def resume(self, mib):
        self.image("localhost/big", mib)
        child, port = self.registry()
        try:
            self.run(["push", "localhost/big", f"docker://127.0.0.1:{port}/big"])
            size = max(f.stat().st_size for f in (self.work / "registry").rglob("data"))
            Proxy.upstream = ("127.0.0.1", port)
            with Threads(("127.0.0.1", 0), Proxy) as proxy:
                threading.Thread(target=proxy.serve_forever, daemon=True).start()
                name = f"127.0.0.1:{proxy.server_address[1]}/big"
                moved = self.killed(["pull", name], "fresh", lambda: Proxy.sent, size * 2 // 3)
                self.report("pull", size, *moved)
                proxy.shutdown()
        finally:
            child.terminate()
            child.wait()
        with Server(("127.0.0.1", 0), Uploads) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            to = f"docker://127.0.0.1:{server.server_port}/x:1"
            # As after a restart of the pod: what the layer became is not remembered, since it was not finished.
            self.image("localhost/other", mib)
            moved = self.killed(["push", "localhost/other", to], "store", lambda: Uploads.received, size * 2 // 3)
            self.report("push", size, *moved)
            server.shutdown()

    def report(self, what, size, first, again):
        print(f"{what}: layer {size} bytes; {first} moved when killed, {again} by the next try: {(first + again) / size:.3f} of the layer")

    def large(self, mib):
        size, (seconds, memory, cpu) = self.image("localhost/large", mib)
        print(f"build: {size} bytes in {seconds:.1f} s, {memory / MIB:.0f} MiB anonymous, {cpu / seconds:.2f} processors")
        child, port = self.registry()
        try:
            for what, command, store in [("push", ["push", "localhost/large", f"docker://127.0.0.1:{port}/large"], "store"),
                                         ("push zstd", ["push", "--compression-format=zstd", "localhost/large",
                                                        f"docker://127.0.0.1:{port}/large:zstd"], "store"),
                                         ("pull", ["pull", f"127.0.0.1:{port}/large"], "fresh")]:
                seconds, memory, cpu = self.run(command, store)
                print(f"{what}: {seconds:.1f} s, {memory / MIB:.0f} MiB anonymous, {cpu / seconds:.2f} processors")
        finally:
            child.terminate()
            child.wait()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rbuild", required=True)
    parser.add_argument("--work", default="/var/tmp/rbuild-bench")
    parser.add_argument("--user", default="1001:1001")
    parser.add_argument("--resume", type=int, metavar="MIB")
    parser.add_argument("--large", type=int, metavar="MIB")
    args = parser.parse_args()
    bench = Bench(args)
    try:
        if args.resume:
            bench.resume(args.resume)
        if args.large:
            bench.large(args.large)
    finally:
        shutil.rmtree(bench.work, ignore_errors=True)


if __name__ == "__main__":
    main()
