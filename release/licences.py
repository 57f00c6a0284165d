#!/usr/bin/env python3
"""licences.py: writes image/licences.lock, the size and licence of every locked input, by hash.

`make licences` runs it after a lock has changed. What it reads is checked against the locks first:
packages in the cache of the image's build (their debian/copyright), crates in cargo's own cache
(their Cargo.toml). Of Python's wheels, pip says which it would take on this kind of machine, and
their metadata alone is fetched. An input that is nowhere is named and left out. A
row follows from its input alone: another machine writes the same, and rows that are there are kept
(--all reads everything again).
"""

import glob
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import zipfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
HOME = Path(os.environ.get("HOME", "/root"))
CACHE = Path(
    os.environ.get("CLOISTER_CACHE")
    or Path(os.environ.get("XDG_CACHE_HOME") or HOME / ".cache") / "cloister"
)
CARGO = Path(os.environ.get("CARGO_HOME") or HOME / ".cargo")
REQUIREMENTS = REPOSITORY / "tests/demo-model/requirements.txt"
OUTPUT = REPOSITORY / "image/licences.lock"


def debs():
    for line in (REPOSITORY / "image/deb.lock").read_text().splitlines():
        if line and not line.startswith("#"):
            name, version, _, sha256, *_ = line.split()
            yield name, version, sha256


def crates():
    text = (REPOSITORY / "Cargo.lock").read_text()
    for block in text.split("[[package]]\n")[1:]:
        fields = dict(re.findall(r'^(\w+) = "(.*)"$', block, re.M))
        if "checksum" in fields:
            yield fields["name"], fields["version"], fields["checksum"]


def checked(path, sha256):
    data = Path(path).read_bytes()
    return data if hashlib.sha256(data).hexdigest() == sha256 else None


def copyright_of(deb, name, others, seen=()):
    """The text of a package's copyright file; a link leads into another package of the same
    source."""
    tar = subprocess.run(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE, check=True)
    folder = f"./usr/share/doc/{name}"
    with tarfile.open(fileobj=io.BytesIO(tar.stdout)) as archive:
        members = {member.name.rstrip("/"): member for member in archive}
        for path in (f"{folder}/copyright", folder):
            member = members.get(path)
            if member is None:
                continue
            if member.isfile():
                return archive.extractfile(member).read().decode("utf-8", "replace")
            if member.issym() and path == f"{folder}/copyright":
                # Within the package first.
                target = os.path.normpath(os.path.join(folder, member.linkname))
                inside = members.get("./" + target)
                if inside is not None and inside.isfile():
                    return archive.extractfile(inside).read().decode("utf-8", "replace")
            if member.issym():
                found = re.search(r"([a-z0-9][a-z0-9+.-]+)(/copyright)?$", member.linkname)
                other = found and found[1]
                if other in others and other not in seen:
                    return copyright_of(others[other], other, others, (*seen, other))
    return None


def deb_licence(text):
    """The short names of a machine-readable file, or the common licences that a free one names."""
    if text is None:
        return "unknown"
    names = set(re.findall(r"^License: *([^\s].*?)\s*$", text, re.M))
    if not names:
        common = re.findall(r"/usr/share/common-licenses/([A-Za-z0-9.+-]*[A-Za-z0-9])", text)
        names = set(common)
    return "; ".join(sorted(names)) or "unknown"


def crate_licence(data, name, version):
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        manifest = archive.extractfile(f"{name}-{version}/Cargo.toml").read().decode()
    package = manifest.split("[package]", 1)[1].split("\n[", 1)[0]
    found = re.search(r'^license *= *"(.*)"$', package, re.M)
    if found:
        return found[1]
    found = re.search(r'^license-file *= *"(.*)"$', package, re.M)
    return f"see {found[1]} in the crate" if found else "unknown"


def wheels(known):
    """One row for each Python package that has none: of the file that pip takes here."""
    packages = re.findall(r"^(\S+)==(\S+)((?: \\\n +--hash=sha256:\w+)+)",
                          REQUIREMENTS.read_text(), re.M)
    rows, wanted = [], []
    for name, version, hashes in packages:
        row = next((known[h] for h in re.findall(r"\w{64}", hashes) if h in known), None)
        if row:
            rows.append(row)
        else:
            wanted.append(f"{name}=={version}{hashes}\n")
    if not wanted:
        return rows
    with tempfile.TemporaryDirectory() as folder:
        report, listed = Path(folder, "report.json"), Path(folder, "requirements.txt")
        listed.write_text("".join(wanted))
        subprocess.run([sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed",
                        "--no-deps", "--quiet", "--report", report, "-r", listed], check=True)
        taken = json.loads(report.read_text())["install"]
    for package in taken:
        address = package["download_info"]["url"]
        sha256 = package["download_info"]["archive_info"]["hashes"]["sha256"]
        head = urllib.request.Request(address, method="HEAD")
        with urllib.request.urlopen(head, timeout=60) as answer:
            size = int(answer.headers["Content-Length"])
        metadata = package["metadata"]
        rows.append(("python", metadata["name"], metadata["version"], sha256, size,
                     wheel_licence(address, size)))
    return rows


def wheel_licence(address, size):
    """The expression of newer metadata; the older field if it is one line; or the classifiers."""
    with zipfile.ZipFile(io.BufferedReader(Remote(address, size), 1 << 16)) as wheel:
        name = next(n for n in wheel.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", n))
        head = wheel.read(name).decode("utf-8", "replace").split("\n\n", 1)[0]
    for field in ("License-Expression", "License"):
        found = re.search(rf"^{field}: *(\S.*?)\s*$(?!\n )", head, re.M)
        if found:
            return found[1]
    classes = re.findall(r"^Classifier: *License ::.*:: *(\S.*?)\s*$", head, re.M)
    return "; ".join(sorted(classes)) or "unknown"


class Remote(io.RawIOBase):
    """A file on a server, of which only what is read is fetched."""

    def __init__(self, address, size):
        self.address, self.size, self.at = address, size, 0

    def seekable(self):
        return True

    def readable(self):
        return True

    def seek(self, offset, whence=io.SEEK_SET):
        self.at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.size}[whence]
        return self.at

    def tell(self):
        return self.at

    def readinto(self, buffer):
        last = min(self.at + len(buffer), self.size) - 1
        if last < self.at:
            return 0
        wish = urllib.request.Request(self.address, headers={"Range": f"bytes={self.at}-{last}"})
        with urllib.request.urlopen(wish, timeout=60) as answer:
            if answer.status != 206:
                raise OSError(f"{self.address}: the server gives no parts of files")
            part = answer.read()
        buffer[: len(part)] = part
        self.at += len(part)
        return len(part)


def known_rows():
    """What is written already: a row follows from its input, so it is still true."""
    rows = {}
    for line in OUTPUT.read_text().splitlines() if OUTPUT.exists() else []:
        if line and not line.startswith("#"):
            sha256, size, kind, name, version, licence = line.split(" ", 5)
            rows[sha256] = (kind, name, version, sha256, int(size), licence)
    return rows


def main():
    rows, missing = [], []
    known = {} if "--all" in sys.argv else known_rows()
    files = {name: CACHE / f"debs/{sha256}.deb" for name, _, sha256 in debs()}
    for name, version, sha256 in debs():
        path = files[name]
        if sha256 in known:
            rows.append(known[sha256])
            continue
        data = checked(path, sha256) if path.is_file() else None
        if data is None:
            missing.append(name)
            continue
        licence = deb_licence(copyright_of(path, name, files))
        rows.append(("deb", name, version, sha256, len(data), licence))
    for name, version, sha256 in crates():
        if sha256 in known:
            rows.append(known[sha256])
            continue
        found = glob.glob(str(CARGO / f"registry/cache/*/{name}-{version}.crate"))
        found += glob.glob(str(CACHE / f"cargo/registry/cache/*/{name}-{version}.crate"))
        data = next((data for path in found if (data := checked(path, sha256))), None)
        if data is None:
            missing.append(name)
            continue
        licence = crate_licence(data, name, version)
        rows.append(("crate", name, version, sha256, len(data), licence))
    rows.extend(wheels(known))
    head = [
        "# Size and licence of every locked input, by its hash. Made by `make licences`.",
        "# A package's licences are the names in its debian/copyright, a crate's those of its",
        "# manifest, a wheel's those of its metadata.",
        "# sha256 bytes kind name version licence",
    ]
    lines = [f"{sha256} {size} {kind} {name} {version} {licence}"
             for kind, name, version, sha256, size, licence in sorted(rows)]
    OUTPUT.write_text("\n".join(head + lines) + "\n")
    print(f"{len(rows)} inputs written to {OUTPUT.relative_to(REPOSITORY)}", file=sys.stderr)
    if missing:
        print(f"cloister: {len(missing)} inputs are in no cache, first {missing[0]}\n"
              "          fetch them: `make tools programs`, `image/tree.sh build`",
              file=sys.stderr)
        sys.exit(1)


main()
