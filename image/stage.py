#!/usr/bin/env python3
"""stage.py: lays out the root file system from locked packages and the literal tree; checks it.

usage: stage.py --list root.list --lock deb.lock --packages DIR --rootfs DIR --agent FILE
                --root DIR --manifest FILE

The folder of --packages holds each package unpacked under its name. The manifest names every path,
its mode, its content and where it came from, so that two images can be compared file by file.
"""

import argparse
import glob
import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

LIBRARIES = ("usr/lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu/systemd", "usr/lib64")
# Programs that give a foothold. None can get in but by root.list; this is the second look.
UNWANTED = re.compile(
    r"/(ba|da|z|k|c)?sh$|/(busybox|perl.*|python.*|apt.*|dpkg.*|login|agetty|getty|su|sudo|sshd?|"
    r"gcc.*|cc|ld|strace|gdb|curl|wget|nc|socat|modprobe|insmod|mount|systemctl|systemd-run|"
    r"journalctl)$"
)


def fail(cause, hint):
    print(f"cloister: {cause}\n          {hint}", file=sys.stderr)
    sys.exit(1)


class Root:
    """The tree under construction, and the origin of each path in it."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.origin = {}
        self.folder.mkdir(mode=0o755)

    def add_folder(self, path, origin):
        for parent in [*reversed(Path(path).parents), Path(path)]:
            name = str(parent)
            if name != "." and name not in self.origin:
                (self.folder / name).mkdir(mode=0o755)
                self.origin[name] = origin

    def add(self, source, path, origin):
        """Takes one file or link. Owner, time and finer mode bits of the source play no part."""
        source = Path(source)
        if path in self.origin:
            fail(f"/{path} comes from {origin} and from {self.origin[path]}", "let one bring it")
        if Path(path).parent != Path("."):
            self.add_folder(Path(path).parent, origin)
        target = self.folder / path
        if source.is_symlink():
            target.symlink_to(os.readlink(source))
        elif source.is_file():
            # Reproducibility: a checkout's modes depend on the umask of whoever made it; only the x
            # bit counts.
            mode = 0o755 if source.stat().st_mode & stat.S_IXUSR else 0o644
            shutil.copyfile(source, target)
            target.chmod(mode)
        else:
            fail(f"{source} is neither a file nor a link", "name its files in image/root.list")
        self.origin[path] = origin


def add_packages(root, args):
    for number, line in enumerate(Path(args.list).read_text().splitlines(), 1):
        words = line.split("#")[0].split()
        if not words:
            continue
        if len(words) != 2:
            fail(f"image/root.list:{number} is not of the form PACKAGE PATH", "correct the line")
        package, pattern = words
        if package == ".":
            root.add_folder(pattern, "image/root.list")
            continue
        base = Path(args.packages, package)
        where = f"image/root.list:{number}"
        if not base.is_dir():
            hint = "add it to image/packages/image and run `make relock`"
            fail(f"{where}: there is no locked package {package}", hint)
        # Reproducibility: not the order of a folder.
        found = sorted(glob.glob(pattern, root_dir=base, include_hidden=True))
        if not found:
            fail(f"{where}: {package} has no {pattern}", "the package changed: correct the line")
        for path in found:
            root.add(base / path, path, package)


def add_literals(root, folder):
    for source in sorted(Path(folder).rglob("*")):
        path = str(source.relative_to(folder))
        if source.is_symlink() or not source.is_dir():
            root.add(source, path, "image/rootfs")


def check_links(root):
    """Every link leads to something inside."""
    for path in root.origin:
        file = root.folder / path
        if not file.is_symlink():
            continue
        target, seen = path, 0
        while (root.folder / target).is_symlink() and seen < 8:
            link = os.readlink(root.folder / target)
            if link == "/dev/null":
                break
            target = os.path.normpath(os.path.join("/", os.path.dirname(target), link)).lstrip("/")
            seen += 1
        else:
            if not (root.folder / target).exists():
                fail(f"the link /{path} leads nowhere", "name its target in image/root.list too")


def check_libraries(root):
    """Every library that a program or library asks for is there."""
    programs = []
    for path in root.origin:
        file = root.folder / path
        if file.is_file() and not file.is_symlink():
            with file.open("rb") as data:
                if data.read(4) == b"\x7fELF":
                    programs.append(path)
    text = subprocess.run(
        ["readelf", "--wide", "--file-header", "--dynamic", "--program-headers", *programs],
        cwd=root.folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True,
    ).stdout
    current = programs[0]
    for line in text.splitlines():
        if match := re.match(r"File: (.*)", line):
            current = match[1]
        if match := re.search(r"\(NEEDED\).*\[(.*)\]", line):
            if not any((root.folder / folder / match[1]).exists() for folder in LIBRARIES):
                fail(f"/{current} needs {match[1]}, which is not there", "see image/root.list")
        if match := re.search(r"program interpreter: (.*)\]", line):
            if not (root.folder / match[1].lstrip("/")).exists():
                fail(f"/{current} needs {match[1]}, which is not there", "see image/root.list")


def check_rights(root):
    for path in root.origin:
        mode = (root.folder / path).lstat().st_mode
        if mode & (stat.S_ISUID | stat.S_ISGID):
            fail(f"/{path} is setuid or setgid", "nothing in the image may be")
        if UNWANTED.search("/" + path):
            fail(f"/{path} has no place in the image", "take it out of image/root.list")


def manifest(root, args):
    taken = set(root.origin.values())
    packages = []
    for line in Path(args.lock).read_text().splitlines():
        row = line.split()
        if not line.startswith("#") and row[0] in taken:
            packages.append({"name": row[0], "version": row[1], "sha256": row[3]})
    files = []
    for path in sorted(root.origin):
        file = root.folder / path
        mode = file.lstat().st_mode
        entry = {"path": "/" + path, "from": root.origin[path]}
        if stat.S_ISLNK(mode):
            entry["link"] = os.readlink(file)
        else:
            entry["mode"] = f"{stat.S_IMODE(mode):04o}"
            if stat.S_ISREG(mode):
                entry["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
        files.append(entry)
    text = json.dumps({"packages": packages, "files": files}, indent=1)
    Path(args.manifest).write_text(text + "\n")


def main():
    parser = argparse.ArgumentParser()
    for name in ("list", "lock", "packages", "rootfs", "agent", "root", "manifest"):
        parser.add_argument("--" + name, required=True)
    args = parser.parse_args()
    os.umask(0o022)
    root = Root(args.root)
    add_packages(root, args)
    add_literals(root, args.rootfs)
    root.add(args.agent, "usr/bin/cloister-agent", "cloister-agent")
    check_links(root)
    check_libraries(root)
    check_rights(root)
    manifest(root, args)


main()
