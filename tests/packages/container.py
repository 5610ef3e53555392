#!/usr/bin/env python3
"""Checks the Dockerfile without an engine: carries out its steps in temporary folders, and runs the result in a root of
its own.

    tests/packages/container.py [--binary BINARY]

Each stage becomes a folder. `COPY` copies what the build context has after `Dockerfile.dockerignore`, `RUN` runs in the
stage's working folder, and the last stage runs by chroot as the image's user, with only the libraries that its base image
has. Needs root. With --binary the build command itself is left out, and BINARY takes the place of its result.

Where an engine runs, `docker build --file deploy/docker/Dockerfile .` checks more.
"""

import argparse
import fnmatch
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "deploy/docker/Dockerfile"
# The libraries of distroless/cc: glibc and libgcc.
BASE_LIBRARIES = re.compile(r"^(linux-vdso|ld-linux-[\w-]+|lib(c|m|dl|pthread|rt|gcc_s|resolv))\.so")


def instructions(text):
    """Pairs of an instruction and its arguments; lines that end with a backslash are joined."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines()) if word]


def is_in_context(path):
    """Whether the path, relative to the context, is left by the ignore file: the last rule that matches decides."""
    kept = True
    for rule in (DOCKERFILE.parent / "Dockerfile.dockerignore").read_text().splitlines():
        if not rule or rule.startswith("#"):
            continue
        pattern = rule.lstrip("!")
        if pattern == "*" or path == pattern or path.startswith(pattern + "/") or fnmatch.fnmatch(path, pattern):
            kept = rule.startswith("!")
    return kept


class Stage:
    def __init__(self, base, folder):
        self.base, self.folder, self.directory = base, folder, "/"
        self.settings = {}
        folder.mkdir()

    def path(self, inside):
        return self.folder / str(Path(self.directory, inside)).lstrip("/")

    def copy(self, arguments, stages):
        words = shlex.split(arguments)
        flags = dict(word.lstrip("-").split("=", 1) for word in words if word.startswith("--"))
        *sources, target = [word for word in words if not word.startswith("--")]
        for source in sources:
            if "from" in flags:
                found = stages[flags["from"]].folder / source.lstrip("/")
            else:
                assert is_in_context(source), f"COPY {source}: excluded by Dockerfile.dockerignore"
                found = ROOT / source
            assert found.exists(), f"COPY {source}: not there"
            to = self.path(target)
            if found.is_dir():
                shutil.copytree(found, to, dirs_exist_ok=True, symlinks=True)
                # copytree keeps modes, and COPY keeps owners between stages, too.
                for item in [found, *found.rglob("*")] if "from" in flags else []:
                    status, copied = item.stat(), to / item.relative_to(found)
                    os.chown(copied, status.st_uid, status.st_gid)
            else:
                if len(sources) > 1 or target.endswith("/"):
                    to = to / found.name
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(found, to)

    def run(self, command, binary):
        # Absolute paths of the stage lie in its folder.
        command = re.sub(r"(?<=\s)/(?=\w)", f"{self.folder}/", command)
        where = self.path(".")
        where.mkdir(parents=True, exist_ok=True)
        if binary and command.startswith("cargo build"):
            result = where / "target/dist/tickgate"
            result.parent.mkdir(parents=True)
            shutil.copy2(binary, result)
            # What the build would read must be there all the same.
            command = "cargo metadata --offline --locked --no-deps --format-version 1 > /dev/null"
        subprocess.run(["bash", "-euc", command], cwd=where, check=True)


def stages_of(text, work, binary):
    stages, stage, arguments = {}, None, {}
    for word, rest in instructions(text):
        rest = re.sub(r"\$\{(\w+)\}", lambda found: arguments[found[1]], rest)
        if word == "ARG":
            name, _, value = rest.partition("=")
            arguments[name] = value
        elif word == "FROM":
            base, _, name = rest.partition(" AS ")
            stage = stages[name or "final"] = Stage(base, work / (name or "final"))
        elif word == "WORKDIR":
            stage.directory = rest
        elif word == "COPY":
            stage.copy(rest, stages)
        elif word == "RUN":
            stage.run(rest, binary)
        elif word == "ENV":
            name, _, value = rest.partition("=")
            stage.settings.setdefault("ENV", {})[name] = value
        elif word == "HEALTHCHECK":
            stage.settings[word] = json.loads(rest[rest.index("CMD") + 3 :])
        elif word in ("ENTRYPOINT", "CMD"):
            stage.settings[word] = json.loads(rest)
        elif word in ("USER", "EXPOSE", "STOPSIGNAL"):
            stage.settings[word] = rest
        else:
            raise AssertionError(f"{word}: unknown instruction")
    return stages


def add_libraries(folder, program):
    """Copies the libraries that the base image has. A program that needs another one could not start there."""
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    for line in listed.splitlines():
        name = Path(line.split()[0]).name
        assert BASE_LIBRARIES.match(name), f"the base image has no {name}"
        path = next((word for word in line.split() if word.startswith("/")), None)
        if path:
            target = folder / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--binary")
    binary = options.parse_args().binary
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        os.chmod(work, 0o755)
        stages = stages_of(DOCKERFILE.read_text(), work, binary)
        image = stages["final"]
        program = image.settings["ENTRYPOINT"][0]
        add_libraries(image.folder, image.path(program))
        user = image.settings["USER"].split(":")
        assert all(int(number) > 0 for number in user), "the image runs as root"
        environment = {
            **image.settings["ENV"],
            "TICKGATE_JWT_SECRET": "0123456789abcdef" * 4,
            "TICKGATE_ADMIN_KEY": "an-admin-key-of-this-check",
            # The image's ports may be taken on this machine.
            "TICKGATE_SERVER__LISTEN": '["127.0.0.1:0"]',
            "TICKGATE_SERVER__ADMIN_LISTEN": f"127.0.0.1:{free_port()}",
            "TICKGATE_STATE__SNAPSHOT": "/var/lib/tickgate/state",
        }
        enter = [shutil.which("chroot"), f"--userspec={':'.join(user)}", str(image.folder)]
        effective = subprocess.run(
            [*enter, program, "check"],
            env={key: value for key, value in environment.items() if "LISTEN" not in key},
            capture_output=True,
            text=True,
        )
        assert effective.returncode == 0, effective.stderr
        for port in image.settings["EXPOSE"].split():
            assert f'"0.0.0.0:{port}"' in effective.stdout, f"nothing listens on the exposed port {port}"
        log = work / "log"
        with open(log, "w") as errors:
            gateway = subprocess.Popen([*enter, program, *image.settings["CMD"]], env=environment, stderr=errors)
        try:
            asked = None
            for _ in range(200):
                asked = subprocess.run([*enter, *image.settings["HEALTHCHECK"]], env=environment, capture_output=True)
                if asked.returncode == 0 or gateway.poll() is not None:
                    break
                time.sleep(0.1)
            assert asked.returncode == 0, f"{asked.stderr.decode()}{log.read_text()}"
            gateway.send_signal(getattr(signal, image.settings["STOPSIGNAL"]))
            assert gateway.wait(timeout=60) == 0, log.read_text()
        finally:
            gateway.kill()
        assert image.path("/var/lib/tickgate/state").exists(), "no snapshot was written"
        size = image.path(program).stat().st_size // 1024 // 1024
        print(f"container: the image's steps were carried out; it served, was healthy and drained ({size} MiB)")


if __name__ == "__main__":
    sys.exit(main())
