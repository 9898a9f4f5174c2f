#!/usr/bin/env python3
"""What each way of holding RUN steps costs, in one run, on the same base and the same work.

    rungs.py --rbuild target/.../release/rbuild [--runs N] [--work DIR] [--rungs ranged,one-id,trace,proot] [--only NAME,...]

Rungs: `ranged` (namespaces, a range of ids), `one-id` (namespaces, one id), `trace` (a supervisor, no namespace), `proot` (Debian's,
on an unpacked copy of the same base; `proot -0`). Workloads: an installation by apt-get from packages that lie in the base, tar x of
20,000 files, a C compile of 50 files, compileall, and 50 steps that do nothing. Runs are interleaved: every rung once, then again.
The time is what the command itself took, by clocks read inside the step, but for `true`, which is the time of the whole build.
Printed are medians in seconds and their ratio to the first rung. Needs root for making the base (mmdebstrap), and an
unprivileged user with a range of ids (--user), who runs everything that is measured.
"""
import argparse, os, pathlib, shutil, statistics, subprocess, sys, tarfile, time, io

PACKAGES = "git openssh-client sqlite3 perl"
# name: the commands of one step. Each leaves nothing behind that the next run would find done: steps start from the base.
WORKLOADS = {
    "apt-get": f"apt-get install -y --no-download --no-install-recommends {PACKAGES}",
    "tar": "mkdir /x && tar -x -f /bench/files.tar -C /x",
    "compile": "mkdir /o && cd /bench/c && for f in *.c; do gcc -O1 -c $f -o /o/$f.o || exit 1; done",
    "compileall": "cp -r /usr/lib/python3.11 /p && python3 -m compileall -q -f /p",
    "true": None,
}
MARK = "took-milliseconds="


def base(work):
    """The root file system as a tar: Debian with a compiler and python, packages in apt's cache, files to work on."""
    tar = work / "base.tar"
    if tar.exists():
        return tar
    hooks = [f'chroot "$1" apt-get install -y --download-only --no-install-recommends {PACKAGES}',
             'mkdir -p "$1/bench/c"', f'copy-in {work}/c /bench', f'copy-in {work}/files.tar /bench']
    (work / "c").mkdir(exist_ok=True)
    for i in range(50):
        body = "\n".join(f"int f{i}_{j}(int x) {{ char b[64]; snprintf(b, sizeof b, \"%d\", x + {j}); return atoi(b) * {i}; }}" for j in range(40))
        (work / "c" / f"f{i}.c").write_text(f"#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n#include <unistd.h>\n{body}\n")
    with tarfile.open(work / "files.tar", "w") as files:
        for d in range(200):
            for f in range(100):
                info = tarfile.TarInfo(f"d{d}/f{f}")
                info.size, info.mtime, info.uid, info.gid = 300, 1600000000, d % 3 * 33, d % 2 * 8
                files.addfile(info, io.BytesIO(b"x" * 300))
    subprocess.run(["mmdebstrap", "--variant=apt", "--include=gcc,libc6-dev,python3,ca-certificates",
                    '--skip=cleanup/apt,cleanup/reproducible', *[f"--customize-hook={h}" for h in hooks], "bookworm", str(tar)], check=True)
    return tar


class Bench:
    def __init__(self, args):
        self.args, self.work = args, pathlib.Path(args.work).resolve()
        self.uid, self.gid = map(int, args.user.split(":"))
        # A PATH without newuidmap: there one id is all that there is.
        self.bare = self.work / "bin"
        self.bare.mkdir(exist_ok=True)

    def as_user(self, command, **kw):
        env = {"HOME": str(self.work / "home"), "PATH": kw.pop("path", os.environ["PATH"]), **kw.pop("env", {})}
        prefix = [shutil.which("setpriv"), f"--reuid={self.uid}", f"--regid={self.gid}", "--clear-groups"] if os.getuid() == 0 else []
        return subprocess.run(prefix + command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **kw)

    def rbuild(self, rung, *args):
        # One-id and trace keep files under another map than a range of ids does, so each has a store of its own.
        store = self.work / f"store-{rung}"
        path = str(self.bare) if rung != "ranged" else os.environ["PATH"]
        isolation = ["--isolation", "trace"] if rung == "trace" and args[0] == "bud" else []
        done = self.as_user([str(self.work / "rbuild"), args[0], *isolation, *args[1:]], path=path, env={"RBUILD_ROOT": str(store)})
        if done.returncode:
            print(f"# {rung}: rbuild {args[0]}: exit {done.returncode}\n{done.stdout[-1500:]}")
            return None
        return done.stdout

    def step(self, name):
        return f"s=$(date +%s%N); {{ {WORKLOADS[name]}; }} >/tmp/log 2>&1 || {{ tail -20 /tmp/log; exit 1; }}; echo {MARK}$((($(date +%s%N)-s)/1000000))"

    def prepare(self, rung, tar):
        if rung == "proot":
            root = self.work / "proot-root"
            if not root.exists():
                root.mkdir()
                shutil.chown(root, self.uid, self.gid)
                self.as_user(["tar", "-x", "-f", str(tar), "-C", str(root), "--exclude=./dev/*"])
        else:
            self.rbuild(rung, "import", str(tar), "localhost/bench")
            context = self.work / "ctx"
            context.mkdir(exist_ok=True)
            self.rbuild(rung, "bud", "-q", "-f", self.dockerfile("warm", "RUN true"), str(context))

    def dockerfile(self, name, lines):
        path = self.work / f"Dockerfile.{name}"
        path.write_text(f"FROM localhost/bench\n{lines}\n")
        return str(path)

    def measure(self, rung, name):
        start = time.monotonic()
        if rung == "proot":
            # proot changes the directory it runs on: a fresh copy for what is measured, made outside of the clock.
            root = self.work / "proot-run"
            self.as_user(["cp", "-a", str(self.work / "proot-root"), str(root)])
            proot = [shutil.which("proot"), "-0", "-r", str(root), "-b", "/proc", "-b", "/dev", "-b", "/etc/resolv.conf", "-w", "/"]
            start = time.monotonic()
            if name == "true":
                done = None
                for _ in range(50):
                    done = self.as_user(proot + ["/bin/sh", "-c", "true"])
            else:
                done = self.as_user(proot + ["/bin/sh", "-c", self.step(name)], env={"DEBIAN_FRONTEND": "noninteractive"},
                                    path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:" + os.environ["PATH"])
            wall = time.monotonic() - start
            shutil.rmtree(root, ignore_errors=True)
            out = done.stdout
            if done.returncode:
                print(f"# proot: exit {done.returncode}\n{out[-1500:]}")
                return None, wall
        else:
            lines = "\n".join(f"RUN true {i}" for i in range(50)) if name == "true" else \
                f"ENV DEBIAN_FRONTEND=noninteractive\nRUN <<EOF\n{self.step(name)}\nEOF"
            if name != "true":
                lines = lines.replace("RUN <<EOF", "RUN <<'EOF'")
            out = self.rbuild(rung, "bud", "--no-cache", "-f", self.dockerfile(name, lines), str(self.work / "ctx"))
            wall = time.monotonic() - start
            if out is None:
                return None, wall
        if name == "true":
            return wall, wall
        return int(out.split(MARK)[-1].split()[0]) / 1000, wall

    def run(self):
        self.work.mkdir(parents=True, exist_ok=True)
        tar = base(self.work)
        shutil.copy(self.args.rbuild, self.work / "rbuild")
        os.chmod(self.work / "rbuild", 0o755)
        os.chmod(self.work, 0o777)
        rungs, names = self.args.rungs.split(","), (self.args.only or ",".join(WORKLOADS)).split(",")
        for rung in rungs:
            self.prepare(rung, tar)
        seen = {}
        for _ in range(self.args.runs):
            for name in names:
                for rung in rungs:
                    took, wall = self.measure(rung, name)
                    seen.setdefault((name, rung), []).append(took)
                    print(f"# {name} {rung}: {took if took is None else format(took, '.2f')} (all of it {wall:.2f})", flush=True)
        print(f"\n| workload | {' | '.join(rungs)} |\n|---|{'---|' * len(rungs)}")
        for name in names:
            cells, first = [], None
            for rung in rungs:
                values = [v for v in seen[name, rung] if v is not None]
                median = statistics.median(values) if values else None
                first = first or median
                cells.append("failed" if median is None else f"{median:.2f} ({median / first:.2f} x)")
            print(f"| {name} | {' | '.join(cells)} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rbuild", required=True)
    parser.add_argument("--work", default="/tmp/rbuild-rungs", help="a directory on a file system of the kind to be measured")
    parser.add_argument("--user", default="1001:1001")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--rungs", default="ranged,one-id,trace,proot")
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    pathlib.Path(args.work).mkdir(parents=True, exist_ok=True)
    Bench(args).run()


if __name__ == "__main__":
    main()
