"""Free sentences for the speech corpus: grammatical, varied, about nothing in particular."""

from __future__ import annotations

from duologue.synthesis.draw import Draw
from duologue.synthesis.grammar import expand
from duologue.synthesis.names import invent
from duologue.synthesis.numbers import WEEKDAYS, say_clock, say_integer
from duologue.synthesis.splits import Split, name_split
from duologue.synthesis.writer import words

_TEMPLATES = (
    "The {a} {n} {v} the {a2} {n2} in the {p}.",
    "{f} {v} a {a} {n} and {v2} it {d}.",
    "My {r} {v} {num} {a} {ns} (last|on) {day}.",
    "Have you seen the {a} {n} that {f} {v}?",
    "Why would anybody keep a {an} in the {p}?",
    "I think the {an} near the {p} is rather {a}.",
    "There were {num} {ns} and {num2} {ns2} on the table.",
    "Please put the {n} next to the {c} {n2}.",
    "When {f} arrived at {t}, the {p} was {a} and {a2}.",
    "{N} is a {a} place with a {a2} {p}.",
    "We had {fo} with {fo2} and a little {fo3} for dinner.",
    "The {r} from {N} {v} {d} and said nothing.",
    "If it rains on {day}, we will stay in the {p}.",
    "Could the {r} please bring the {c} {n} to the {p}?",
    "Nobody {v} the {an}, because it was too {a}.",
    "She asked about {s}, but he only talked about {s2}.",
    "It is {t}, and the {p} is still {a}.",
    "{f} and {f2} have never been to the {p} of {N}.",
    "He {v} the {n}, {v2} the {n2}, and went home {d}.",
    "What a {a} {n} that is!",
    "Do not forget the {fo} and the {fo2}.",
    "Is the {c} {n} yours, or does it belong to {f}?",
    "In the end the {r} {v} the {c} {n} {d}.",
    "Thank you, {f}, that was very {a} of you.",
    "Number {num} is {a}, number {num2} is not.",
    "The {an} and the {an2} slept behind the {a} {p}.",
    "I would rather have {fo} than {fo2}.",
    "{N}, {N2} and {N3} are words that nobody knows.",
    "Let me show you the {p} where {f} {v} the {n}.",
    "After {s} comes {s2}, and after that a {a} {n}.",
    "They say the {r} in the {p} was once a {r2}.",
    "Yes, [I know,] the {n} is in the {p}.",
    "No, the {an} was not {c}, it was {c2}.",
    "Each {r} needs a {n} made of {m}.",
    "How {a} is the {n} on the {c} {n2}?",
    "Those {a} {ns} were sold to a {r} from {N}.",
)


def free_sentence(draw: Draw, split: Split) -> str:
    """One sentence; invented names in it belong to the split."""

    def name() -> str:
        return invent(draw, "place", lambda text: name_split(text) == split)

    def two(items: tuple[str, ...]) -> list[str]:
        return draw.sample(items, 2)

    nouns, animals = two(words.OBJECTS), two(words.ANIMALS)
    adjectives, verbs = two(words.ADJECTIVES), two(words.VERBS_PAST)
    foods = draw.sample(words.FOODS, 3)
    firsts, colours = two(words.FIRST_NAMES), two(words.COLOURS)
    roles, subjects = two(words.PEOPLE), two(words.THINGS_SAID)
    return expand(
        draw.choice(_TEMPLATES),
        draw,
        a=adjectives[0],
        a2=adjectives[1],
        n=nouns[0],
        n2=nouns[1],
        ns=plural(nouns[0]),
        ns2=plural(nouns[1]),
        an=animals[0],
        an2=animals[1],
        v=verbs[0],
        v2=verbs[1],
        p=draw.choice(words.PLACES),
        f=firsts[0],
        f2=firsts[1],
        d=draw.choice(words.ADVERBS),
        r=roles[0],
        r2=roles[1],
        fo=foods[0],
        fo2=foods[1],
        fo3=foods[2],
        c=colours[0],
        c2=colours[1],
        s=subjects[0],
        s2=subjects[1],
        m=draw.choice(words.MATERIALS),
        num=say_integer(draw.integer(2, 99)),
        num2=say_integer(draw.integer(2, 999)),
        day=draw.choice(WEEKDAYS),
        t=say_clock(draw.integer(0, 23), draw.integer(0, 11) * 5),
        N=name(),
        N2=name(),
        N3=name(),
    )


def plural(noun: str) -> str:
    """The plural of a regular noun."""
    if noun.endswith(("s", "sh", "ch", "x", "z")):
        return f"{noun}es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{noun[:-1]}ies"
    if noun == "shelf":
        return "shelves"
    return "scarves" if noun == "scarf" else f"{noun}s"
