"""Compares the engine with transformers on fresh random models: logits and greedy tokens.

    python tests/compare_transformers.py GREEDY_BINARY [--family NAME]… [--seed N] [--models N]

GREEDY_BINARY is `inference/examples/greedy.rs`. Without `--family` every family is compared; `--models` counts for
each; `--quantised` compares every way to store quantised weights, too. Exits 0 if all agree, 1 if not. Without torch and transformers it says so and exits 77, which test runners
take for "skipped".
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
NEW_TOKENS = 64


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("greedy", type=pathlib.Path)
    parser.add_argument("--family", action="append")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--models", type=int, default=2)
    parser.add_argument("--quantised", action="store_true")
    arguments = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    try:
        sys.path.insert(0, str(pathlib.Path(__file__).parent / "fixtures"))
        import make_families
        import make_quantised
    except ImportError as error:
        print(f"skipped: {error}")
        return 77
    families = make_families.FAMILIES if arguments.family is None else [f for f in arguments.family if f]
    failures = 0
    for family in families:
        for seed in range(arguments.seed, arguments.seed + arguments.models):
            with tempfile.TemporaryDirectory() as folder:
                make_families.random_model(folder, family, seed)
                prompts = make_families.random_prompts(seed)
                cases = make_families.expected(folder, seed, prompts, NEW_TOKENS)
                failures += not compare(arguments.greedy, folder, cases, f"{family}, seed {seed}")
    methods = make_quantised.METHODS if arguments.quantised else []
    for method in methods:
        for seed in range(arguments.seed, arguments.seed + arguments.models):
            with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as reference:
                family = make_quantised.random_model(folder, reference, method, seed)
                prompts = make_families.random_prompts(seed)
                cases = make_families.expected(reference, seed, prompts, NEW_TOKENS)
                failures += not compare(arguments.greedy, folder, cases, f"{family} in {method}, seed {seed}")
    count = (len(families) + len(methods)) * arguments.models
    print(f"{count - failures} of {count} random models agree")
    return 1 if failures else 0


def compare(greedy, folder, cases, name):
    worst, same = 0.0, True
    for case in cases:
        prompt = ",".join(map(str, case["prompt"]))
        command = [greedy, folder, str(NEW_TOKENS), prompt, "--logits"]
        answer = subprocess.run(command, capture_output=True)
        if answer.returncode != 0:
            print(f"FAILS: {name}: {answer.stderr.decode().strip()}", flush=True)
            return False
        found = json.loads(answer.stdout)
        # Relative to the largest logit of the position.
        rows = case["logits"].double().tolist()
        width = len(rows[0])
        for position, expected in enumerate(rows):
            size = max(map(abs, expected))
            row = found["logits"][position * width : (position + 1) * width]
            worst = max(worst, *(abs(a - b) / size for a, b in zip(expected, row, strict=True)))
        same &= found["tokens"] == case["greedy"]
    good = same and worst < TOLERANCE
    config = json.loads((pathlib.Path(folder) / "config.json").read_text())
    shape = "{num_hidden_layers} layers, {num_attention_heads}/{num_key_value_heads} heads, hidden {hidden_size}"
    print(
        f"{'agrees' if good else 'DIFFERS'}: {name}, {config['dtype']},",
        shape.format(**config) + f", logits within {worst:.1e}, tokens {'equal' if same else 'differ'}",
        flush=True,
    )
    return good


if __name__ == "__main__":
    sys.exit(main())
