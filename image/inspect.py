#!/usr/bin/env python3
"""inspect.py --manifest FILE --root DIR: checks that the packed root is what was laid out.

DIR is what was read back out of the packed file system. Nothing was added on the way, nothing lost
and nothing changed: paths, modes, owners, links and contents are those of the manifest. Extended
attributes, which could give a program rights, are on no file.
"""

import argparse
import hashlib
import json
import os
import stat
import sys
from pathlib import Path


def describe(file):
    """What the manifest says of a path, read from the file itself."""
    info = file.lstat()
    entry = {"owner": (info.st_uid, info.st_gid)}
    if attributes := os.listxattr(file, follow_symlinks=False):
        entry["attributes"] = attributes
    if stat.S_ISLNK(info.st_mode):
        entry["link"] = os.readlink(file)
        return entry
    entry["mode"] = f"{stat.S_IMODE(info.st_mode):04o}"
    if stat.S_ISREG(info.st_mode):
        entry["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    elif not stat.S_ISDIR(info.st_mode):
        entry["kind"] = "neither a file, a folder nor a link"
    return entry


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--root", required=True)
    args = parser.parse_args()
    root = Path(args.root)
    listed = {}
    for entry in json.loads(Path(args.manifest).read_text())["files"]:
        path = entry.pop("path")
        del entry["from"]
        listed[path] = {**entry, "owner": (0, 0)}
    listed["/"] = {"mode": "0755", "owner": (0, 0)}
    packed = {"/": describe(root)}
    packed |= {"/" + str(file.relative_to(root)): describe(file) for file in root.rglob("*")}
    for path in sorted(listed.keys() | packed.keys()):
        if listed.get(path) != packed.get(path):
            print(f"cloister: {path} was not packed as it was laid out", file=sys.stderr)
            print(f"          listed {listed.get(path)}, packed {packed.get(path)}", file=sys.stderr)
            sys.exit(1)


main()
