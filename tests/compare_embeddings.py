"""Compares vectors of texts with transformers, of fresh random embedding models.

    python tests/compare_embeddings.py EMBED_BINARY [--seed N] [--models N]

EMBED_BINARY is `inference/examples/embed.rs`. Exits 0 if all agree, 1 if not, 77 without torch and transformers.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

TOLERANCE = 1e-5


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("embed", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--models", type=int, default=4)
    arguments = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    try:
        sys.path.insert(0, str(pathlib.Path(__file__).parent / "fixtures"))
        import make_embedding
    except ImportError as error:
        print(f"skipped: {error}")
        return 77
    failures = 0
    for seed in range(arguments.seed, arguments.seed + arguments.models):
        with tempfile.TemporaryDirectory() as folder:
            make_embedding.random_model(folder, seed)
            cases = make_embedding.expected(folder)
            answer = subprocess.run([arguments.embed, folder], capture_output=True, text=True,
                                    input=json.dumps([case["text"] for case in cases]))
            found = json.loads(answer.stdout) if answer.returncode == 0 else []
            worst = max((abs(a - b) for case, mine in zip(cases, found)
                         for a, b in zip(case["vector"], mine["vector"], strict=True)), default=1)
            same = [case["ids"] for case in cases] == [mine["ids"] for mine in found]
            good = worst < TOLERANCE and same
            failures += not good
            print(f"{'agrees' if good else 'DIFFERS'}: seed {seed}, vectors within {worst:.1e}, {answer.stderr.strip()}")
    print(f"{arguments.models - failures} of {arguments.models} embedding models agree")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
