#!/usr/bin/env python3
"""initrd.py: writes the initrd, a newc archive that depends on nothing but its content.

usage: initrd.py --init FILE --modules LIST --kernel DIR --output FILE

Reproducibility: times, owners and devices are zero, inode numbers count from 1.
The kernel makes /dev/console.
"""

import argparse
import os
import sys
from pathlib import Path


def entry(number, name, mode, data=b""):
    """One member: magic, 13 fields of 8 hex digits, the name, the data; each padded to 4 bytes."""
    path = name.encode() + b"\0"
    #         inode  mode  uid gid links mtime size    device   rdevice  name size  check
    fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + path
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)


def main():
    parser = argparse.ArgumentParser()
    for name in ("init", "modules", "kernel", "output"):
        parser.add_argument("--" + name, required=True)
    args = parser.parse_args()
    lines = (line.split("#")[0].strip() for line in Path(args.modules).read_text().splitlines())
    modules = [line for line in lines if line]
    members = [("init", 0o100755, Path(args.init).read_bytes())]
    folders = ("dev", "proc", "sys", "run", "newroot", "modules")
    members += [(name, 0o040755, b"") for name in folders]
    # Of a module that only some machines can use, the name keeps its mark.
    marks = [("?" if module.startswith("?") else "", module.removeprefix("?")) for module in modules]
    order = "".join(mark + os.path.basename(module) + "\n" for mark, module in marks)
    members.append(("modules/order", 0o100644, order.encode()))
    for _, module in marks:
        file = Path(args.kernel, module)
        if not file.is_file():
            print(f"cloister: the kernel package has no module {module}", file=sys.stderr)
            sys.exit("          correct image/initrd.modules")
        members.append(("modules/" + file.name, 0o100644, file.read_bytes()))
    with open(args.output, "wb") as out:
        for number, (name, mode, data) in enumerate(members, 1):
            out.write(entry(number, name, mode, data))
        out.write(entry(0, "TRAILER!!!", 0))


main()
