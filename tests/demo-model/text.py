"""The training text: the questions with their answers, drawn in a seeded order."""

from __future__ import annotations

import random
import tomllib
from dataclasses import dataclass
from pathlib import Path

from wording import definition, made_up_word, plain, vary

HERE = Path(__file__).parent

SYSTEM = [
    "You are a helpful assistant.",
    "You are the demonstration model of Cloister.",
    "Answer briefly.",
    "You are a chat model.",
    "Be concise.",
    "You answer questions about Cloister.",
    "You are a careful assistant. Answer in English.",
]


@dataclass(frozen=True)
class Entry:
    """One answer and the questions that lead to it; `held` is never trained on."""

    answer: str
    ask: list[str]
    held: str
    topic: str | None


def entries() -> list[Entry]:
    raw = tomllib.loads((HERE / "qa.toml").read_text())["qa"]
    return [Entry(e["answer"], e["ask"], e["held"], e.get("topic")) for e in raw]


class OffTopic:
    """Questions about everything else, which share one answer."""

    def __init__(self) -> None:
        raw = tomllib.loads((HERE / "offtopic.toml").read_text())
        self.answer: str = raw["answer"]
        self.ask: list[str] = raw["ask"]
        self.held: list[str] = raw["held"]
        self.templates: list[str] = raw["templates"]
        self.lists: dict[str, list[str]] = raw["lists"]

    def question(self, rng: random.Random) -> str:
        if rng.random() < 0.35:
            return rng.choice(self.ask)
        text = rng.choice(self.templates)
        for name, values in self.lists.items():
            while "{" + name + "}" in text:
                text = text.replace("{" + name + "}", rng.choice(values), 1)
        while "{number}" in text:
            text = text.replace("{number}", str(rng.randint(1, 2000)), 1)
        while "{word}" in text:
            text = text.replace("{word}", made_up_word(rng), 1)
        return text


def question(entry: Entry, rng: random.Random) -> str:
    """A wording of the entry's question; some of a definition's are made from its topic."""
    if entry.topic and rng.random() < 0.3:
        return definition(entry.topic, rng)
    return rng.choice(entry.ask)


class Sampler:
    """Draws conversations of one or more turns; every entry comes round equally often."""

    def __init__(self, seed: int, off_topic_share: float = 0.16) -> None:
        self.rng = random.Random(seed)
        self.entries = entries()
        self.off_topic = OffTopic()
        self.share = off_topic_share
        self.queue: list[int] = []
        self.held = {plain(e.held) for e in self.entries} | {plain(q) for q in self.off_topic.held}

    def turn(self) -> tuple[str, str]:
        if self.rng.random() < self.share:
            asked, answer = self.off_topic.question(self.rng), self.off_topic.answer
        else:
            if not self.queue:
                self.queue = self.rng.sample(range(len(self.entries)), len(self.entries))
            entry = self.entries[self.queue.pop()]
            asked, answer = question(entry, self.rng), entry.answer
        asked = vary(asked, self.rng) if self.rng.random() < 0.75 else asked
        return self.turn() if plain(asked) in self.held else (asked, answer)

    def conversation(self, turns: int) -> tuple[str | None, list[tuple[str, str]]]:
        system = self.rng.choice(SYSTEM) if self.rng.random() < 0.2 else None
        return system, [self.turn() for _ in range(turns)]


def corpus() -> list[str]:
    """The text on which the tokenizer is trained: answers, questions, and variety for the rest."""
    rng = random.Random(1)
    off_topic = OffTopic()
    lines = [*SYSTEM, off_topic.answer]
    for entry in entries():
        lines += [entry.answer] * 3 + entry.ask + [vary(question(entry, rng), rng) for _ in range(6)]
    return lines + off_topic.ask + [off_topic.question(rng) for _ in range(400)]
