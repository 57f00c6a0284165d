#!/usr/bin/env python3
"""verity-ref.py HASH-PARTITION: prints a volume's reference, verity1:ROOT:SALT:BLOCKS.

The salt and the size come from the superblock that was just written; the root hash is the hash of
the tree's top block.
What comes out is checked by `veritysetup verify` in pack.sh.
"""

import hashlib
import struct
import sys

tree = sys.argv[1]
with open(tree, "rb") as file:
    superblock = file.read(512)
    file.seek(4096)
    top = file.read(4096)
# magic 8, version 4, type 4, uuid 16, algorithm 32, data block 4, hash block 4, data blocks 8, salt
# size 2, pad 6, salt 256
fields = struct.unpack_from("<8sII16s32sIIQH6x256s", superblock)
magic, version, kind, _, algorithm, data_block, hash_block, blocks, salt_size, salt = fields
form = (magic, version, kind, algorithm.rstrip(b"\0"), data_block, hash_block, salt_size)
if form != (b"verity\0\0", 1, 1, b"sha256", 4096, 4096, 32) or blocks < 2:
    print(f"cloister: {tree} is not of the one form that we boot: {form}", file=sys.stderr)
    sys.exit("          see image/repart")
salt = salt[:salt_size]
print(f"verity1:{hashlib.sha256(salt + top).hexdigest()}:{salt.hex()}:{blocks}")
