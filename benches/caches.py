#!/usr/bin/env python3
"""What a build in a pod with an empty disk costs when a shared cache has all of it, against a copy of the finished image.

    caches.py --rbuild target/.../release/rbuild --base TAR [--work DIR] [--user UID:GID]

`TAR` is a tar of a Debian root file system. Three stages copy its /usr, and a fourth one takes what they made: some 500 MB of layers. For
`type=registry`, `type=redis` and `type=local` one store fills the cache, and a fresh one builds from it and pushes (`-t docker://…`). Printed: steps that
were executed, what the fresh store holds in the end, seconds (the best of three fresh stores, each pushing to a repository that is new), and those of
`skopeo copy` of the same image to another repository of that registry: the first time, and again, when the repository has the layers.
Debian's docker-registry, redis-server and skopeo, on the loopback interface only; ended by their ids.
"""
import argparse, os, shutil, subprocess, sys, time
from registry import Bench, port

STAGES = """FROM {base} AS a
RUN mkdir /out && cp -a /usr /out/usr
FROM {base} AS b
RUN mkdir -p /out && tar -C /usr -cf - . | tar -C /out -xf -
FROM {base} AS c
RUN mkdir /out && cp -a /usr/share /usr/lib /out/ && find /out -type f -print0 | sort -z | xargs -0 sha256sum > /out/sums
FROM {base}
COPY --from=a /out /a
COPY --from=b /out /b
COPY --from=c /out /c
RUN echo done > /done
"""


class Caches(Bench):
    def skopeo(self, source, to):
        begun = time.monotonic()
        subprocess.run(["skopeo", "copy", "-q", "--insecure-policy", "--src-tls-verify=false", "--dest-tls-verify=false", source, to],
                       check=True)
        return time.monotonic() - begun

    def executed(self):
        """Steps of the last command that were not in a cache, as `--explain-cache` says."""
        log = (self.work / "log").read_text()
        if not log.count(": hit in "):
            sys.exit(f"no step was found in the cache: {log[-2000:]}")
        return log.count(": miss: ")

    def held(self, store):
        return sum(f.lstat().st_size for f in (self.work / store).rglob("*") if f.is_file())

    def measure(self, kind, to, source, host):
        name = f"docker://{host}/{kind}/image"
        seconds, _, _ = self.run(["bud", "--cache-to", to, "-t", f"{name}-filled", "context"], f"fills-{kind}")
        shutil.rmtree(self.work / f"fills-{kind}")
        times = []
        for n in range(3):
            store = f"fresh-{kind}-{n}"
            command = ["bud", "--explain-cache", "--cache-from", source, "-t", f"{name}-{n}", "context"]
            times.append(self.run(command, store)[0])
            executed, held = self.executed(), self.held(store)
        copies = [self.skopeo(f"{name}-0", f"docker://{host}/{kind}/copy:{n}") for n in range(3)]
        print(f"{kind}: filled in {seconds:.1f} s; fresh store: {executed} steps executed, {held} bytes held, {min(times):.3f} s "
              f"({', '.join(f'{t:.3f}' for t in times)}); skopeo copy {copies[0]:.3f} s, again {min(copies[1:]):.3f} s", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rbuild", required=True)
    parser.add_argument("--base", required=True)
    parser.add_argument("--work", default="/var/tmp/rbuild-bench")
    parser.add_argument("--user", default="1001:1001")
    bench = Caches(parser.parse_args())
    servers = []
    try:
        child, of_registry = bench.registry()
        servers.append(child)
        of_redis = port()
        servers.append(subprocess.Popen(["redis-server", "--port", str(of_redis), "--bind", "127.0.0.1", "--save", "", "--dir", str(bench.work)],
                                        stdout=subprocess.DEVNULL))
        host = f"127.0.0.1:{of_registry}"
        bench.run(["import", os.path.abspath(bench.args.base), "localhost/base"])
        bench.run(["push", "localhost/base", f"docker://{host}/base:1"])
        (bench.work / "context").mkdir()
        (bench.work / "context" / "Dockerfile").write_text(STAGES.format(base=f"{host}/base:1"))
        (bench.work / "cache").mkdir()
        os.chown(bench.work / "cache", bench.uid, bench.gid)
        bench.measure("registry", *[f"type=registry,ref={host}/registry/cache"] * 2, host)
        bench.measure("redis", *[f"type=redis,url=redis://127.0.0.1:{of_redis},ref={host}/redis/cache"] * 2, host)
        bench.measure("local", f"type=local,dest={bench.work}/cache", f"type=local,src={bench.work}/cache", host)
    finally:
        for child in servers:
            child.terminate()
            child.wait()
        shutil.rmtree(bench.work, ignore_errors=True)


if __name__ == "__main__":
    main()
