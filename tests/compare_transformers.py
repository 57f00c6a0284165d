"""Compares the engine with transformers on fresh random models: logits and greedy tokens.

    python tests/compare_transformers.py GREEDY_BINARY [--seed N] [--models N]

GREEDY_BINARY is `inference/examples/greedy.rs`, built in release. Exits 0 if all agree, 1 if not. Without
torch and transformers it says so and exits 77, which test runners take for "skipped".
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

TOLERANCE = 2e-4
NEW_TOKENS = 32


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("greedy", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--models", type=int, default=5)
    arguments = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        sys.path.insert(0, str(pathlib.Path(__file__).parent / "fixtures"))
        import make_llama
    except ImportError as error:
        print(f"skipped: {error}")
        return 77
    failures = 0
    for seed in range(arguments.seed, arguments.seed + arguments.models):
        with tempfile.TemporaryDirectory() as folder:
            make_llama.random_model(folder, seed)
            failures += not compare(arguments.greedy, folder, make_llama.expected(folder, seed), seed)
    print(f"{arguments.models - failures} of {arguments.models} random models agree")
    return 1 if failures else 0


def compare(greedy, folder, cases, seed):
    worst, same = 0.0, True
    for case in cases:
        prompt = ",".join(map(str, case["prompt"]))
        command = [greedy, folder, str(NEW_TOKENS), prompt, "--logits"]
        found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        expected = case["logits"].double().flatten().tolist()
        size = max(map(abs, expected))
        errors = (abs(a - b) / size for a, b in zip(expected, found["logits"], strict=True))
        worst = max(worst, *errors)
        same &= found["tokens"] == case["greedy"]
    good = same and worst < TOLERANCE
    config = json.loads((pathlib.Path(folder) / "config.json").read_text())
    shape = "{num_hidden_layers} layers, {num_attention_heads}/{num_key_value_heads} heads of {head_dim}"
    print(
        f"{'agrees' if good else 'DIFFERS'}: seed {seed}, {config['dtype']},",
        shape.format(**config) + f", logits within {worst:.1e}, tokens {'equal' if same else 'differ'}",
    )
    return good


if __name__ == "__main__":
    sys.exit(main())
