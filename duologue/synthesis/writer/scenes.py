"""Short exchanges that dialogues are put together from: one function for each kind of behaviour."""

from __future__ import annotations

from dataclasses import replace

from duologue.synthesis.draw import Draw
from duologue.synthesis.grammar import pick
from duologue.synthesis.script import (
    Backchannel,
    BargeIn,
    Outcome,
    Pause,
    Speaker,
    Turn,
)
from duologue.synthesis.splits import Split
from duologue.synthesis.wordlist import listed
from duologue.synthesis.writer import facts, talk
from duologue.synthesis.writer.questions import (
    any_question,
    as_asked,
    book_question,
    lean,
    personal_question,
    question,
    related_subject,
    reply,
    tool_question,
    user,
    wren,
)

_REACTION_S = (0.22, 0.42)

_FOLLOW_UPS = (
    "And its {r}?",
    "And the {r}?",
    "What about its {r}?",
    "What about the {r}?",
    "And what is its {r}?",
    "What is its {r}?",
    "[Okay,|Good,] and its {r}?",
    "Can you also tell me the {r}?",
    "And how about its {r}?",
    "Fine, now its {r}?",
    "Then tell me the {r} as well.",
)
_SAME_FOR = (
    "And {e}?",
    "What about {e}?",
    "And for {e}?",
    "And how about {e}?",
    "[Okay,] and the same for {e}?",
    "The same question for {e}[, please].",
)
_CORRECTIONS = (
    "No, I meant {e}.",
    "[Sorry,] I meant {e}.",
    "No, not {o}, {e}.",
    "I said {e}, not {o}.",
    "No no, {e}.",
    "I was asking about {e}[, not {o}].",
    "That's wrong, I meant {e}.",
    "Not {o}, I want {e}.",
    "Wait, that was wrong, I was asking about {e}.",
    "Sorry, wrong one, I wanted {e}.",
    "Let me put that differently, {e} is what I want.",
)
_INCOMPLETE_ENDS = frozenset(
    listed(
        """
    of in the is a an to for does do at on from and which what how tell me could can you are
    called country capital between with by about whether my
    """
    )
)


def fact_scene(draw: Draw, split: Split) -> list[Turn]:
    """A question from the fact book and its answer."""
    asked = book_question(draw, split)
    return [question(draw, asked), reply(draw, asked)]


def personal_scene(draw: Draw, split: Split) -> list[Turn]:
    """A question about a fact of the user's own."""
    asked = personal_question(draw, split)
    return [question(draw, asked), reply(draw, asked)]


def tool_scene(draw: Draw, split: Split) -> list[Turn]:
    """A question for a live tool."""
    asked = tool_question(draw, split)
    return [question(draw, asked), reply(draw, asked)]


def unknown_scene(draw: Draw, split: Split) -> list[Turn]:
    """A lookup that fails, finds nothing, or never ends."""
    asked = any_question(draw, split)
    outcome = draw.choice((Outcome.EMPTY, Outcome.EMPTY, Outcome.FAILED, Outcome.LOST))
    return [question(draw, asked), reply(draw, asked, outcome)]


def followup_scene(draw: Draw, split: Split) -> list[Turn]:
    """A question, then shorter ones that lean on it."""
    novelty = facts.draw_novelty(draw, split)
    subject = facts.draw_subject(draw, split, novelty)
    relations = facts.possible_relations(subject, split, novelty)
    first, *rest = draw.sample(relations, draw.integer(2, 3))
    asked = as_asked(facts.ask(draw, split, subject, first, novelty))
    turns = [question(draw, asked), reply(draw, asked)]
    for relation in rest:
        noun = draw.choice(facts.nouns_of(subject.kind)[relation])
        phrase = pick(_FOLLOW_UPS, draw, split, r=noun)
        asked = lean(draw, split, phrase, subject, relation, novelty)
        turns += [user(draw, "followup", asked.text, asked.phrasing), reply(draw, asked)]
    if not rest or draw.chance(0.35):
        other = related_subject(draw, split, subject, first, novelty)
        phrase = pick(_SAME_FOR, draw, split, e=other.spoken)
        asked = lean(draw, split, phrase, other, rest[-1] if rest else first, novelty)
        if asked.fact.relation in facts.possible_relations(other, split, novelty):
            turns += [user(draw, "followup", asked.text, asked.phrasing), reply(draw, asked)]
    return turns


def correction_scene(draw: Draw, split: Split) -> list[Turn]:
    """The user meant another entity: said after the answer, or right into it."""
    novelty = facts.draw_novelty(draw, split)
    subject = facts.draw_subject(draw, split, novelty)
    relation = draw.choice(facts.possible_relations(subject, split, novelty))
    other = related_subject(draw, split, subject, relation, novelty)
    asked = as_asked(facts.ask(draw, split, subject, relation, novelty))
    phrase = pick(_CORRECTIONS, draw, split, e=other.spoken, o=subject.spoken)
    meant = lean(draw, split, phrase, other, relation, novelty)
    correction = user(draw, "correction", meant.text, meant.phrasing)
    if draw.chance(0.5):
        correction = replace(correction, barge_in=_barge_in(draw))
    return [
        question(draw, asked),
        reply(draw, asked, Outcome.FOUND),
        correction,
        reply(draw, meant),
    ]


def barge_in_scene(draw: Draw, split: Split) -> list[Turn]:
    """The user talks into an answer: wren falls silent and listens."""
    asked = any_question(draw, split)
    turns = [question(draw, asked), reply(draw, asked, Outcome.FOUND)]
    barge_in = _barge_in(draw)
    if draw.chance(0.4):
        stop = user(draw, "stop", pick(talk.STOPS, draw, split).text)
        return [
            *turns,
            replace(stop, barge_in=barge_in),
            wren(draw, "stopped", draw.choice(talk.AFTER_STOP)),
        ]
    if draw.chance(0.2):
        remark = user(draw, "off_topic", talk.off_topic(draw))
        return [
            *turns,
            replace(remark, barge_in=barge_in),
            wren(draw, "decline", draw.choice(talk.DECLINES)),
        ]
    new = any_question(draw, split)
    text = f"{draw.choice(talk.INTERRUPTIONS)} {talk.lower_first(new.text)}"
    interruption = user(draw, "question", text if draw.chance(0.7) else new.text, new.phrasing)
    return [*turns, replace(interruption, barge_in=barge_in), reply(draw, new)]


def pause_scene(draw: Draw, split: Split) -> list[Turn]:
    """A question with a silence inside, through which wren waits."""
    asked = book_question(draw, split) if draw.chance(0.6) else any_question(draw, split)
    turn = question(draw, asked)
    said = turn.text.split()
    places = [
        place
        for place in range(1, len(said))
        if said[place - 1].lower().strip(",") in _INCOMPLETE_ENDS
    ]
    if not places:
        return [turn, reply(draw, asked)]
    chosen = draw.sample(places, 2 if draw.chance(0.25) else 1)
    hesitating: list[str] = []
    pauses: list[Pause] = []
    for place, word in enumerate(said):
        if place in chosen:
            if draw.chance(0.5):
                hesitating.append(f"{draw.choice(talk.HESITATIONS)},")
            pauses.append(Pause(len(hesitating), draw.between(0.5, 1.8)))
        hesitating.append(word)
    return [replace(turn, text=" ".join(hesitating), pauses=tuple(pauses)), reply(draw, asked)]


def backchannel_scene(draw: Draw, split: Split) -> list[Turn]:
    """The user tells something at length; wren shows that it listens; at the end it answers."""
    told, ending = talk.story(draw, split, draw.integer(2, 4))
    asked = any_question(draw, split) if draw.chance(0.6) else None
    last = asked.text if asked else ending
    lengths = [len(sentence.split()) for sentence in told]
    ends = [sum(lengths[: n + 1]) for n in range(len(lengths))]
    pauses = tuple(Pause(end, draw.between(0.45, 0.9)) for end in ends)
    signs = tuple(
        Backchannel(end, draw.between(0.1, 0.3), draw.choice(talk.BACKCHANNELS))
        for end in ends[1:]
        if draw.chance(0.6)
    )
    turn = replace(
        user(draw, "story", " ".join([*told, last]), asked.phrasing if asked else ""),
        pauses=pauses,
        backchannels=signs,
    )
    return [turn, reply(draw, asked) if asked else wren(draw, "remark", draw.choice(talk.HEARD))]


def small_talk_scene(draw: Draw, split: Split) -> list[Turn]:
    """One to three friendly exchanges."""
    turns = []
    for _ in range(draw.integer(1, 3)):
        saying, response = talk.small_talk(draw)
        turns += [user(draw, "small_talk", saying), wren(draw, "small_talk", response)]
    return turns


def off_topic_scene(draw: Draw, split: Split) -> list[Turn]:
    """A request that wren politely declines."""
    turns = []
    for _ in range(draw.integer(1, 2)):
        turns += [
            user(draw, "off_topic", talk.with_opener(draw, talk.off_topic(draw), 0.2)),
            wren(draw, "decline", draw.choice(talk.DECLINES)),
        ]
    return turns


def silence_scene(draw: Draw, split: Split) -> list[Turn]:
    """Nobody says anything."""
    return [Turn(Speaker.NOBODY, "silence", gap_s=0.0, duration_s=draw.between(4.0, 10.0))]


def noise_scene(draw: Draw, split: Split) -> list[Turn]:
    """Noises near the user that are no speech to wren: bumps, a radio, people far away."""
    kind = draw.choice(("knocks", "hiss", "far_speech", "rumble"))
    return [
        Turn(Speaker.NOBODY, kind, gap_s=draw.between(0.2, 1.0), duration_s=draw.between(3.0, 8.0))
    ]


def greeting_scene(draw: Draw, split: Split) -> list[Turn]:
    """The user greets, wren greets back."""
    return [
        user(draw, "greeting", talk.user_greeting(draw)),
        wren(draw, "greeting", draw.choice(talk.GREETINGS)),
    ]


def thanks_scene(draw: Draw, split: Split) -> list[Turn]:
    """The user thanks wren."""
    return [
        user(draw, "thanks", pick(talk.USER_THANKS, draw, split).text),
        wren(draw, "thanked", draw.choice(talk.THANKED)),
    ]


def farewell_scene(draw: Draw, split: Split) -> list[Turn]:
    """The user leaves."""
    return [
        user(draw, "farewell", pick(talk.USER_FAREWELLS, draw, split).text),
        wren(draw, "farewell", draw.choice(talk.FAREWELLS)),
    ]


def _barge_in(draw: Draw) -> BargeIn:
    return BargeIn(draw.between(0.15, 0.85), draw.between(*_REACTION_S), in_lead=draw.chance(0.12))
