#!/usr/bin/env python3
"""dump-acpi.py OUT QEMU ARGUMENTS...: the ACPI tables that this very QEMU hands to its firmware.

Starts the machine without any TEE (under TCG where there is no KVM), lets its firmware run, and saves
the blobs etc/table-loader, etc/acpi/rsdp and etc/acpi/tables from QEMU's own memory as OUT/table-loader,
OUT/rsdp and OUT/tables, for `cloister-release measure --platform tdx --acpi OUT`.

QEMU builds the tables anew when the firmware first reads them, after it has found the PCI devices:
what stands there before is not what is measured. Give the vCPUs, memory and devices of the machine that
is to run; its disks may be empty.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time

BLOBS = {
    "/rom@etc/table-loader": "table-loader",
    "/rom@etc/acpi/rsdp": "rsdp",
    "/rom@etc/acpi/tables": "tables",
}
TIMEOUT_S = 120
STABLE_S = 3


class Monitor:
    """QEMU's monitor (QMP)."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        for _ in range(100):
            try:
                self.socket.connect(path)
                break
            except OSError:
                time.sleep(0.1)
        else:
            sys.exit("error: QEMU does not answer\n hint: run its command line by hand, and see what it says")
        self.lines = self.socket.makefile("r")
        self.lines.readline()
        self.run("qmp_capabilities")

    def run(self, command, **arguments):
        request = {"execute": command, "arguments": arguments}
        self.socket.sendall(json.dumps(request).encode() + b"\n")
        while True:
            answer = json.loads(self.lines.readline())
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                sys.exit(f"error: {command}: {answer['error']['desc']}")


def read_blobs(pid, monitor):
    """The blobs by their names, from QEMU's memory."""
    found = {}
    listing = monitor.run("human-monitor-command", **{"command-line": "info ramblock"})
    with open(f"/proc/{pid}/mem", "rb") as memory:
        for line in listing.splitlines():
            words = line.split()
            if not words or words[0] not in BLOBS:
                continue
            numbers = [int(word, 16) for word in words if word.startswith("0x")]
            used, address = numbers[1], numbers[3]
            memory.seek(address)
            found[BLOBS[words[0]]] = memory.read(used)
    if "rsdp" in found:
        # Memory has whole pages; the file has the table alone: 20 bytes, or as many as it says.
        rsdp = found["rsdp"]
        found["rsdp"] = rsdp[:20] if rsdp[15] < 2 else rsdp[: int.from_bytes(rsdp[20:24], "little")]
    return found


def dump(pid, monitor):
    """The blobs once the firmware has read them: when they have changed, and change no more."""
    first = read_blobs(pid, monitor)
    if len(first) != len(BLOBS):
        sys.exit("error: this QEMU has no ACPI tables\n hint: give -machine q35 and a firmware")
    monitor.run("cont")
    last, since, end = first, time.monotonic(), time.monotonic() + TIMEOUT_S
    while time.monotonic() < end:
        time.sleep(0.5)
        now = read_blobs(pid, monitor)
        if now != last:
            last, since = now, time.monotonic()
        if last != first and time.monotonic() - since > STABLE_S:
            return last
    sys.exit(
        f"error: the firmware has not read the tables in {TIMEOUT_S} s\n"
        " hint: give a firmware that boots without a TEE, such as OVMF.fd by -bios"
    )


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    out, command = sys.argv[1], sys.argv[2:]
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "qmp")
        command += ["-S", "-display", "none", "-qmp", f"unix:{path},server=on,wait=off"]
        qemu = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        try:
            blobs = dump(qemu.pid, Monitor(path))
        finally:
            qemu.kill()
            qemu.wait()
    os.makedirs(out, exist_ok=True)
    for name, blob in blobs.items():
        with open(os.path.join(out, name), "wb") as file:
            file.write(blob)
        print(f"{name:<14} {len(blob)} bytes")


main()
