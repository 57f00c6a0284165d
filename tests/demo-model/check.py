"""Asks the model every question through plain transformers, greedily, and prints how many answers are right.

    python check.py [--model model] [--list]

An answer is right if it equals the written answer, character for character.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterable
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from text import OffTopic, entries
from wording import vary

Case = tuple[str, str]


def cases() -> dict[str, list[Case]]:
    """Every set of questions that the README gives a figure for."""
    qa, off_topic = entries(), OffTopic()
    trained = [(q, e.answer) for e in qa for q in e.ask]
    held = [(e.held, e.answer) for e in qa]
    rng = random.Random("check")
    return {
        "trained questions": trained,
        "held-out paraphrases": held,
        "trained questions, varied and misspelt": [(vary(q, rng), a) for q, a in trained],
        "off-topic, trained": [(q, off_topic.answer) for q in off_topic.ask],
        "off-topic, held out": [(q, off_topic.answer) for q in off_topic.held],
    }


class Model:
    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()

    @torch.inference_mode()
    def answers(self, chats: list[list[dict[str, str]]], batch: int = 64) -> Iterable[str]:
        for start in range(0, len(chats), batch):
            texts = [
                self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
                for chat in chats[start : start + batch]
            ]
            inputs = self.tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
            inputs.pop("token_type_ids", None)
            output = self.model.generate(**inputs, max_new_tokens=96, do_sample=False)
            tail = output[:, inputs["input_ids"].shape[1] :]
            yield from (self.tokenizer.decode(row, skip_special_tokens=True) for row in tail)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def later_turns(qa: list[Case], rng: random.Random) -> tuple[list[list[dict[str, str]]], list[str]]:
    """Each question as the third of a conversation, after two others with their answers."""
    chats = []
    for question, _ in qa:
        chat = []
        for before, answer in rng.sample(qa, 2):
            chat += [user(before), {"role": "assistant", "content": answer}]
        chats.append([*chat, user(question)])
    return chats, [answer for _, answer in qa]


def report(name: str, found: list[str], wanted: list[str], asked: list[str], show: bool) -> None:
    right = sum(f == w for f, w in zip(found, wanted, strict=True))
    print(f"{name:40} {right:4} of {len(wanted):4}  {100 * right / len(wanted):5.1f}%", flush=True)
    for f, w, q in zip(found, wanted, asked, strict=True):
        if show and f != w:
            print(f"  asked    {q}\n  wanted   {w}\n  answered {f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path(__file__).parent / "model")
    parser.add_argument("--bf16", action="store_true", help="compute in bf16, too; default is f32")
    parser.add_argument("--list", action="store_true", help="show every wrong answer")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = Model(options.model, torch.bfloat16 if options.bf16 else torch.float32)
    sets = cases()
    for name, pairs in sets.items():
        asked, wanted = [q for q, _ in pairs], [a for _, a in pairs]
        report(name, list(model.answers([[user(q)] for q in asked])), wanted, asked, options.list)
    chats, wanted = later_turns(sets["trained questions"], random.Random("turns"))
    asked = [chat[-1]["content"] for chat in chats]
    report("trained questions as third turn", list(model.answers(chats)), wanted, asked, options.list)


if __name__ == "__main__":
    main()
