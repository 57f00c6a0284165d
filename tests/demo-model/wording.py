"""The ways in which people word the same question: frames, synonyms, haste and misspelling."""

from __future__ import annotations

import random
import re

DEFINITIONS = (
    "What is {}?|What's {}?|Explain {}|Define {}|Tell me about {}|{}|{}?|What does {} mean?|Describe {}|"
    "Can you explain {}?|What exactly is {}?|I do not understand {}|What do you mean by {}?|"
    "Please explain {}|What is the meaning of {}?|What about {}?|What is {} in Cloister?|"
    "Why does Cloister have {}?|What is the purpose of {}?|What is {} good for?|What is {} used for?|"
    "What is {} for?|Why is there {}?|How does {} work?|Tell me what {} is|Do you know what {} is?|"
    "What is the idea of {}?|What role does {} play?|What is the use of {}?|Why do you need {}?|"
    "What does {} do?"
).split("|")

# A question's shape, and other shapes of the same question. \1 and \2 are the parts that are kept.
SOMEBODY = r"(the \w+(?: provider| owner| company)?|someone|somebody|anybody|an attacker|they|other users)"
FRAMES: list[tuple[re.Pattern[str], list[str]]] = [
    (re.compile(shape), others.split("|"))
    for shape, others in [
        (r"^What does (.+) do\?$",
         r"What is \1 for?|What is the job of \1?|Tell me what \1 does|What is \1 good for?|"
         r"What is \1 used for?|What can \1 do?"),
        (r"^What (?:if|happens (?:if|when)) (.+)\?$",
         r"What if \1?|What happens if \1?|What would happen if \1?|Suppose \1, what then?|And if \1?|"
         r"\1, what now?|What will happen when \1?|Does it matter if \1?|Would you notice if \1?|"
         r"What will the client do if \1?"),
        (r"^Can I (.+)\?$",
         r"Is it possible to \1?|Could I \1?|Am I able to \1?|May I \1?|Is there a way to \1?|"
         r"I want to \1, is that possible?|How can I \1?"),
        (rf"^Can {SOMEBODY} (.+)\?$",
         r"Could \1 \2?|Is it possible for \1 to \2?|Is \1 able to \2?|Might \1 \2?|Would \1 be able to \2?|"
         r"What if \1 tries to \2?|Is there a way for \1 to \2?"),
        (r"^How do I (.+)\?$",
         r"How can I \1?|How does one \1?|What is the way to \1?|What must I do to \1?|"
         r"Which command do I use to \1?|I want to \1, how?|What do I type to \1?|How should I \1?|"
         r"Tell me how to \1|Show me how to \1|How to \1|Is there a command to \1?|What do I run to \1?|"
         r"I would like to \1"),
        (r"^Why (do|does|is|are|must|should) (.+)\?$",
         r"For what reason \1 \2?|Tell me why \1 \2|What is the reason, why \1 \2?|Why exactly \1 \2?|"
         r"How come \1 \2?"),
        (r"^Is there (.+)\?$",
         r"Does it have \1?|Do you have \1?|Does Cloister have \1?|Is \1 there?|I wonder if there is \1|"
         r"Have you got \1?|Can I get \1?"),
        (r"^Is (.+) (\w+)\?$",
         r"Would \1 be \2?|Tell me if \1 is \2|Is it true that \1 is \2?|Will \1 be \2?|\1 is \2, right?|"
         r"I wonder if \1 is \2"),
        (r"^Do you (.+)\?$",
         r"Will you \1?|Does Cloister \1?|Do they \1?|Would you \1?|Does the server \1?|"
         r"Is it true that you \1?|Could you \1?"),
        (r"^Which (.+)\?$", r"What \1?|Tell me which \1|Do you know which \1?|Which exactly \1?"),
        (r"^What are (.+)\?$", r"Which are \1?|List \1|Name \1|Tell me \1|Show me \1|Give me \1"),
        (r"^Who (.+)\?$", r"Tell me who \1|Do you know who \1?|And who \1?|Who exactly \1?|Who is it that \1?"),
        (r"^Where (is|are) (.+)\?$",
         r"In which place \1 \2?|Where do I find \2?|Tell me where \2 \1|In what place do you have \2?"),
        (r"^How does (.+) work\?$",
         r"Explain how \1 works|In what way does \1 work?|Tell me how \1 works|What is the working of \1?|"
         r"Describe how \1 works"),
        (r"^How is (.+)\?$", r"In what way is \1?|By what means is \1?|Tell me how \1 is done|How was \1?"),
        (r"^What is in (.+)\?$",
         r"What does \1 contain?|What is inside \1?|What are the contents of \1?|What goes into \1?|"
         r"What is part of \1?|What do I find in \1?|What is written in \1?|What does \1 consist of?"),
        (r"^Does (.+?) (support|use|run|need|have|hide) (.+)\?$",
         r"Will \1 \2 \3?|Could \1 \2 \3?|Can \1 \2 \3?|Is it true that \1 can \2 \3?|Does \1 \2 \3 yet?|"
         r"When will \1 \2 \3?"),
        (r"^Are (.+) (\w+)\?$",
         r"Will \1 be \2?|Is it true that \1 are \2?|Tell me if \1 are \2|Would \1 be \2?"),
    ]
]  # fmt: skip
GROUPS = [
    set(line.split(","))
    for line in """
see,read,view,observe,access,look at
prompt,message,question,input,text
prompts,messages,questions,inputs
chat,conversation,dialogue,talk
swapped,replaced,exchanged,substituted
swaps,replaces,exchanges
changed,modified,altered,edited
change,modify,alter,edit,tamper with
changes,modifies,alters,edits,tampers with
check,verify,validate
checked,verified,validated
mistakes,errors
wrong,incorrect,mistaken
start,begin
print,show,display,output
kept,stored,saved,held,retained,recorded
keep,store,save,retain,record
hidden,concealed
private,secret,confidential
fails,does not succeed,goes wrong
guess,infer,deduce,find out
machine,computer,server
fast,quick
make,create,produce
use,employ
need,require
trust,rely on,believe
old,outdated,older,previous,earlier
code,source code,source
users,customers,people,clients
attacker,hacker,adversary
send,submit,transmit
someone,somebody,anyone,anybody,some person
developers,makers,authors,programmers,creators
model,language model,AI
exist,are there,are available
commands,programs,tools
command,program,tool
secure,safe
safe,protected
prevent,stop,avoid
list,show,name
limits,limitations,weaknesses,restrictions
steps,stages,phases
hold,contain,store,have
holds,contains,stores,has
different,other,another
operator,host operator,server operator
connect,connection
big,large
disconnect,hang up,drop the connection
cancel,stop,abort
replayed,reused,repeated
forged,faked
expired,out of date,no longer valid
licence,license
reproducible,repeatable
rebuild,build again,reproduce
differences,difference
needed,required,necessary
described,explained
built,made,assembled
signed,certified
signs,certifies
""".strip().splitlines()
]
SHORTER = [
    ("What is", "What's"), ("what is", "whats"), ("do not", "don't"), ("does not", "doesn't"),
    ("Who is", "Who's"), ("I am", "I'm"), ("is not", "isn't"), ("cannot", "can't"), ("Can you", "Could you"),
    ("How do I", "How to"), ("Cloister", "this system"), ("Cloister", "it"), ("VM", "virtual machine"),
    ("certificate", "cert"), ("configuration", "config"), ("my", "our"), ("I ", "we "), ("the ", "your "),
    ("the ", "this "),
]  # fmt: skip
OPENINGS = (
    "please tell me, |hi, |hello, |quick question: |I would like to know: |tell me: |ok, |so |and |but |"
    "I wonder, |excuse me, |one more thing: |now, |please: |question: |well, |could you say |"
    "can you tell me |hey, |just asking: |what I want to know: |next: |also, |then |I have a question: "
).split("|")
ENDINGS = (
    ", please| please| in short| exactly| then| in Cloister| in this demo| really| actually| for me| here|"
    " at all| today| in your system"
).split("|")
SMALL = set(
    "the a an of is are was be does do did to in on for my me i it its this that there what how which who why "
    "where when can could would will should may must you your with by from and or if as at has have one".split()
)


def plain(text: str) -> str:
    return "".join(c for c in text.lower() if c.isalnum())


def made_up_word(rng: random.Random) -> str:
    def syllable() -> str:
        return (
            rng.choice("bcdfghjklmnprstvwz")
            + rng.choice("aeiou")
            + rng.choice(["", "", "n", "r", "s", "l", "ck"])
        )

    return "".join(syllable() for _ in range(rng.randint(1, 4)))


def definition(topic: str, rng: random.Random) -> str:
    article, _, rest = topic.partition(" ")
    if article in ("a", "an", "the") and rng.random() < 0.6:
        topic = rest
    return rng.choice(DEFINITIONS).format(topic)


def vary(text: str, rng: random.Random) -> str:
    """What a person, perhaps a hurried one, makes of a question."""
    if rng.random() < 0.4:
        text = reframe(text, rng)
    if rng.random() < 0.4:
        text = synonym(text, rng)
    if rng.random() < 0.25:
        old, new = rng.choice(SHORTER)
        text = text.replace(old, new, 1)
    kind = rng.random()
    if kind < 0.15:
        text = drop_word(text, rng)
    elif kind < 0.23:
        text = keywords(text, rng)
    elif kind < 0.30:
        text = blur_word(text, rng)
    if rng.random() < 0.15:
        text = rng.choice(OPENINGS) + text[:1].lower() + text[1:]
    if rng.random() < 0.12:
        text = text.rstrip("?.!") + rng.choice(ENDINGS) + "?"
    if rng.random() < 0.2:
        for _ in range(rng.randint(1, 2)):
            text = typo(text, rng)
    return finish(text, rng)


def reframe(text: str, rng: random.Random) -> str:
    fitting = [(shape, others) for shape, others in FRAMES if shape.match(text)]
    if not fitting:
        return text
    shape, others = rng.choice(fitting)
    return shape.sub(rng.choice(others), text)


def synonym(text: str, rng: random.Random) -> str:
    for group in rng.sample(GROUPS, len(GROUPS)):
        for word in sorted(group):
            shape = re.compile(rf"\b{re.escape(word)}\b")
            if shape.search(text):
                return shape.sub(rng.choice(sorted(group - {word})), text, count=1)
    return text


def drop_word(text: str, rng: random.Random) -> str:
    words = text.split(" ")
    small = [i for i, word in enumerate(words) if word.lower() in SMALL]
    if small and len(words) > 3:
        del words[rng.choice(small)]
    return " ".join(words)


def keywords(text: str, rng: random.Random) -> str:
    """Only the words that matter, as one types them into a search field."""
    words = [word for word in text.rstrip("?.!").split(" ") if word.lower() not in SMALL]
    if len(words) < 2:
        return text
    if rng.random() < 0.3:
        rng.shuffle(words)
    return " ".join(words)


def blur_word(text: str, rng: random.Random) -> str:
    """One word of a longer question is missing or unknown."""
    words = text.split(" ")
    if len(words) > 5:
        words[rng.randrange(len(words))] = made_up_word(rng) if rng.random() < 0.5 else ""
    return " ".join(word for word in words if word)


def typo(text: str, rng: random.Random) -> str:
    if len(text) < 6:
        return text
    at = rng.randrange(1, len(text) - 1)
    other = rng.choice("abcdefghijklmnopqrstuvwxyz")
    swapped = text[at + 1] + text[at] + text[at + 2 :]
    return text[:at] + rng.choice([text[at + 1 :], text[at] + text[at:], swapped, other + text[at + 1 :]])


def finish(text: str, rng: random.Random) -> str:
    case = rng.random()
    if case < 0.3:
        text = text.lower()
    elif case < 0.33:
        text = text.upper()
    elif case < 0.5:
        text = text[:1].upper() + text[1:]
    if rng.random() < 0.35:
        text = text.rstrip("?.!") + rng.choice(["", "", "", "?", ".", "!", "??", " ?"])
    return text.strip() or "?"
