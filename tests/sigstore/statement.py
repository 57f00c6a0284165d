#!/usr/bin/env python3
"""statement.py FOLDER: writes an artifact, and the statement of a release of it, in the spelling
that releases have."""

import hashlib
import json
import sys
from pathlib import Path

folder = Path(sys.argv[1])
(folder / "artifact").write_bytes(b"a release's artifact\n")
digest = hashlib.sha256((folder / "artifact").read_bytes()).hexdigest()


def registers(length):
    return {number: "0" * length for number in ("4", "9", "11", "12", "13")}


statement = {
    "_type": "https://in-toto.io/Statement/v1",
    "subject": [{"name": "artifact", "digest": {"sha256": digest}}],
    "predicateType": "https://cloister.dev/release/v3",
    "predicate": {
        "name": "cloister",
        "version": 1,
        "profile": "demo",
        "issued": 1790000000,
        "builder": "https://ci.example.org/cloister/release.yml@refs/tags/v1",
        "minimum_client": "0.1.0",
        "source_revision": "0" * 40,
        "lock_digest": "0" * 64,
        "configuration_digest": "0" * 64,
        "revocations": [],
        "reference_values": {"tpm": {"sha256": registers(64), "sha384": registers(96)}},
    },
}
(folder / "statement.json").write_text(json.dumps(statement, separators=(",", ":")))
