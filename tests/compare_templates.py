"""Compares how chat templates are rendered with transformers, on thirty conversations each.

    python tests/compare_templates.py RENDER_BINARY [FOLDER…]

RENDER_BINARY is `inference/examples/render.rs`. Without folders it takes the templates of tests/fixtures/templates; a
folder may hold any published `*.jinja`. Exits 0 if all agree, 1 if not, 77 without transformers.
"""

import json
import pathlib
import subprocess
import sys


def main():
    beside = pathlib.Path(__file__).parent / "fixtures"
    sys.path.insert(0, str(beside))
    try:
        import jinja2  # noqa: F401
        import make_templates
        from transformers.utils import chat_template_utils  # noqa: F401
    except ImportError as error:
        print(f"skipped: {error}")
        return 77
    binary, *folders = sys.argv[1:]
    failures = compared = 0
    for folder in folders or [beside / "templates"]:
        for path in sorted(pathlib.Path(folder).glob("*.jinja")):
            template = path.read_text()
            try:
                cases = make_templates.cases(template)
            except Exception as error:  # transformers cannot compile it either
                print(f"left out: {path.name}: {error}")
                continue
            lines = "".join(json.dumps({**case, "text": None, "template": template}) + "\n" for case in cases)
            answer = subprocess.run([binary], input=lines, capture_output=True, text=True)
            found = [json.loads(line) for line in answer.stdout.split("\n") if line]
            good = len(found) == len(cases)
            wrong = [at for at, (case, mine) in enumerate(zip(cases, found)) if case["text"] != mine["text"]]
            compared += 1
            failures += bool(wrong) or not good
            refused = sum(case["text"] is None for case in cases)
            verdict = "agrees" if good and not wrong else "DIFFERS"
            print(f"{verdict}: {path.name}, {len(cases)} conversations, {refused} refused by both" + (f", wrong: {wrong}" if wrong else ""))
            for at in wrong[:1]:
                print("   ", json.dumps(cases[at]["text"]), "\n   ", json.dumps(found[at]))
            if not good:
                print("   ", answer.stderr.strip())
    print(f"{compared - failures} of {compared} templates agree")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
