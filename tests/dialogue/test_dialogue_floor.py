"""The floor policy: who may speak, frame by frame, and what holds whatever happens."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duologue.dialogue import (
    CancelReason,
    Conversation,
    ConversationConfig,
    Ending,
    FloorOrder,
    FloorRules,
    FrameInput,
    InjectionKind,
    InjectReference,
    LookupAnswered,
    ModelFrame,
    Move,
    Output,
    RetrievalCancelled,
    Role,
    StartLookup,
    UserFrame,
    VoicingRules,
    ending_of,
)
from duologue.dialogue.checks import ConfigError
from duologue.dialogue.endings import asks_at_the_end, is_small_talk
from duologue.dialogue.floor import Floor, FloorSight

RULES = FloorRules()
VOICE, MURMUR, ROOM = -25.0, -43.0, -70.0
MODEL_DB = -23.0
LISTENS = FloorSight(hears=True)
MAY_SPEAK = (Move.FREE, Move.NUDGE)


@dataclass
class Talk:
    """A floor, and one frame after another of what goes on."""

    rules: FloorRules = RULES
    begins: bool = False
    ahead: str | None = None
    """What a look ahead finds."""

    def __post_init__(self) -> None:
        self.floor = Floor(self.rules, self.begins)
        self.looked = 0

    def frame(self, level_db: float, sight: FloorSight = LISTENS) -> FloorOrder:
        foretold = self.floor.order(level_db)
        order = self.floor.listen(level_db)
        assert order == foretold, "what is foretold is what comes"
        if order.looks_ahead:
            self.looked += 1
            sight = replace(sight, ahead=self.ahead)
        self.floor.note(sight)
        return order

    def user(self, frames: int, level_db: float = VOICE) -> list[Move]:
        return [self.frame(level_db).move for _ in range(frames)]

    def silence(self, frames: int) -> list[Move]:
        return self.user(frames, ROOM)

    def model(self, frames: int, user_db: float = ROOM) -> list[Move]:
        """The model speaks, if it may, over what the user's microphone hears."""
        moves = []
        for _ in range(frames):
            order = self.floor.order(user_db)
            may = order.move in MAY_SPEAK
            level_db = MODEL_DB if may else None
            self.frame(user_db, FloorSight(hears=True, speaks=may, level_db=level_db))
            moves.append(order.move)
        return moves


def asked(ahead: str = " What is the capital of France?", voiced: int = 25) -> Talk:
    """Somebody has just fallen silent."""
    talk = Talk(ahead=ahead)
    talk.silence(5)
    assert set(talk.user(voiced)) == {Move.HOLD}
    return talk


def waited(talk: Talk) -> int:
    """Frames of silence until the model may speak; at most 100."""
    return next((n for n in range(100) if talk.silence(1)[0] in MAY_SPEAK), 100) + 1


def test_nobody_is_spoken_to_in_silence_and_in_noise() -> None:
    assert set(Talk().silence(200)) == {Move.HOLD}
    knocks = Talk(ahead="")
    for _ in range(20):
        assert set(knocks.user(4) + knocks.silence(20)) == {Move.HOLD}
    assert knocks.looked == 20
    assert set(Talk(ahead=" What is it?").user(2) + Talk().silence(60)) == {Move.HOLD}


@pytest.mark.parametrize(
    ("heard", "voiced", "frames"),
    [
        (" What is the capital of France?", 25, RULES.question_frames),
        (" What is the capital of France.", RULES.least_question_frames, RULES.question_frames),
        (" What is the capital of France.", 15, RULES.short_question_frames),
        (" What is the capital?", RULES.fluent_frames, RULES.question_frames),
        (" What is the capital?", RULES.fluent_frames - 1, RULES.short_question_frames),
        (" I live in a small town.", 25, RULES.statement_frames),
        (" I live in a small town?", 39, RULES.question_frames),
        (" I live in a small town?", RULES.story_frames, RULES.statement_frames),
        (" Is it a small town?", RULES.story_frames, RULES.question_frames),
        (" What is the capital of", 25, RULES.unfinished_frames),
        (" And what do um,", 25, RULES.unfinished_frames),
    ],
)
def test_a_pause_is_waited_through_as_its_words_say(heard: str, voiced: int, frames: int) -> None:
    talk = asked(heard, voiced)
    assert waited(talk) == frames
    assert talk.looked == 1


def test_a_user_who_goes_on_is_heard_out() -> None:
    talk = asked(" What is the capital of")
    assert set(talk.silence(RULES.unfinished_frames - 1) + talk.user(10)) == {Move.HOLD}
    talk.ahead = " What is the capital of France."
    assert waited(talk) == RULES.question_frames


def test_without_recognition_a_wait_in_between_is_kept() -> None:
    talk = Talk()
    moves = [talk.frame(VOICE, FloorSight()).move for _ in range(20)]
    moves += [talk.frame(ROOM, FloorSight()).move for _ in range(RULES.unknown_frames)]
    assert moves == [Move.HOLD] * (len(moves) - 1) + [Move.FREE]


def test_recognition_that_never_catches_up_keeps_nobody_silent() -> None:
    talk = asked()
    talk.ahead = None
    assert waited(talk) <= RULES.longest_wait


def test_an_answer_is_not_given_for_ever() -> None:
    talk = asked()
    moves = talk.silence(RULES.question_frames + RULES.answer_frames + 50)
    assert sum(move in MAY_SPEAK for move in moves) == RULES.answer_frames
    assert moves[-1] is Move.HOLD


@pytest.mark.parametrize(
    ("heard", "voiced", "frames", "asks"),
    [
        (" What is the capital of France?", 25, RULES.answer_question_frames, True),
        (" What is the capital of", 25, RULES.unfinished_frames, True),
        (" I live in a small town.", 25, RULES.answer_rest_frames, True),
        (" Thank you very much.", 12, RULES.answer_rest_frames, False),
        (" Name the neighbours of Chad.", 20, RULES.answer_question_frames, True),
        (" What a day. I was late. That was my day.", 80, RULES.answer_rest_frames, False),
        (" I was late. Which day is today?", 80, RULES.answer_question_frames, True),
        (" I was late. That was my", 80, RULES.unfinished_frames, True),
    ],
)
def test_who_is_spoken_to_and_says_nothing_is_urged_to_answer(
    heard: str, voiced: int, frames: int, asks: bool
) -> None:
    talk = asked(heard, voiced)
    orders = [talk.frame(ROOM) for _ in range(200)]
    urged = [number for number, order in enumerate(orders, 1) if order.move is Move.NUDGE]
    assert urged == list(range(frames + 1, frames + 1 + RULES.urge_frames))
    answers = [order for order in orders if order.move in MAY_SPEAK]
    assert {order.asks for order in answers} == {asks}, "thanks and stories need no lookup"


def in_its_turn(heard: str, voiced: int) -> set[bool]:
    """Whether a model that answers may ask, in the frames of its own turn."""
    talk = asked(heard, voiced)
    waited(talk)
    talk.model(2)
    return {talk.frame(ROOM).asks for _ in range(RULES.turn_frames)}


def test_what_may_be_looked_up_holds_while_it_answers() -> None:
    assert in_its_turn(" What is the capital of France?", 25) == {True}
    assert in_its_turn(" Thank you very much.", 12) == {False}
    assert in_its_turn(" Hi, who are you?", 25) == {False}


def test_words_that_come_out_are_not_counted_twice() -> None:
    talk = Talk(ahead=" is all.")
    talk.silence(5)
    talk.user(89)
    talk.frame(VOICE, FloorSight(words=" I was late. And that", hears=True))
    talk.silence(RULES.pause_frames + 1)
    assert talk.looked == 1
    assert talk.floor.ending is Ending.STATEMENT, "as far ahead as it was asked to look"
    out = FloorSight(words=" is all.", caught_up=True, hears=True)
    talk.frame(ROOM, out)
    assert talk.floor.ending is Ending.STATEMENT, "and not: is all."
    caught_up = FloorSight(caught_up=True, hears=True)
    assert {talk.frame(ROOM, caught_up).asks for _ in range(60)} >= {False}


def with_a_gap(heard: str, first: int, last: int) -> Talk:
    """Somebody who has just fallen silent for the second time."""
    talk = asked(" What is the", first)
    talk.silence(3)
    talk.ahead = heard
    talk.user(last)
    return talk


@pytest.mark.parametrize(
    ("heard", "first", "last", "frames"),
    [
        (" What is the capital.", 25, 6, RULES.unfinished_frames),
        (" What is the capital.", 25, 7, RULES.question_frames),
        (" What is the capital?", 25, 10, RULES.short_question_frames),
        (" What is the capital?", 27, 10, RULES.question_frames),
        (" What is the capital?", 10, 20, RULES.question_frames),
    ],
)
def test_gaps_tell_of_hesitation(heard: str, first: int, last: int, frames: int) -> None:
    assert waited(with_a_gap(heard, first, last)) == frames


def test_a_turn_goes_on_through_pauses_and_then_is_over() -> None:
    talk = asked()
    talk.silence(RULES.question_frames)
    assert set(talk.model(10) + talk.silence(RULES.turn_frames - 2) + talk.model(5)) == {Move.FREE}
    assert talk.silence(60)[-1] is Move.HOLD


def test_a_lookup_belongs_to_the_turn_however_long_it_takes() -> None:
    talk = asked()
    talk.silence(RULES.question_frames)
    talk.model(3)
    busy = [talk.frame(ROOM, FloorSight(hears=True, busy=True)).move for _ in range(90)]
    assert set(busy + talk.silence(RULES.reply_frames - 1)) == {Move.FREE}
    assert talk.silence(5)[-1] is Move.HOLD


def speaking() -> Talk:
    """The model is in the middle of an answer."""
    talk = asked()
    talk.silence(RULES.question_frames)
    assert set(talk.model(30)) == {Move.FREE}
    return talk


def test_who_is_talked_over_falls_silent_within_a_quarter_of_a_second() -> None:
    talk = speaking()
    moves = talk.model(8, VOICE)
    assert moves.index(Move.YIELD) <= 2
    assert set(moves[2:]) == {Move.YIELD}
    talk.ahead = " Okay, stop it now."
    after = talk.silence(60)
    assert set(after[:2]) <= {Move.YIELD, Move.HOLD}
    assert Move.FREE in after


def test_a_short_murmur_stops_nobody() -> None:
    talk = speaking()
    assert set(talk.model(4, MURMUR) + talk.model(10)) == {Move.FREE}
    assert set(talk.model(2, VOICE) + talk.model(10)) == {Move.FREE}
    talk.ahead = " Uh-huh."
    assert talk.silence(40)[-1] is Move.HOLD, "and asks for nothing"


def test_an_echo_of_its_own_voice_stops_nobody() -> None:
    assert set(speaking().model(60, MODEL_DB - 21)) == {Move.FREE}


def test_a_yield_ends_though_the_noise_does_not() -> None:
    talk = speaking()
    moves = talk.model(100, VOICE)
    assert moves.count(Move.YIELD) == RULES.yield_frames
    assert moves[-1] is Move.HOLD


def test_who_is_to_begin_is_urged_more_and_more_until_it_does() -> None:
    talk = Talk(begins=True)
    orders = [talk.frame(ROOM) for _ in range(15)]
    assert [order.move for order in orders] == [Move.FREE] * 4 + [Move.NUDGE] * 11
    urges = [order.urge for order in orders[4:]]
    assert all(a < b for a, b in pairwise(urges))
    assert not any(order.asks for order in orders[4:]), "nobody has asked it anything"
    talk.model(1)
    assert talk.silence(3) == [Move.FREE] * 3
    assert talk.silence(40)[-1] is Move.HOLD, "it has begun, and nobody has answered"


def test_a_user_who_speaks_first_has_the_floor() -> None:
    talk = Talk(begins=True, ahead=" What is the capital of France?")
    talk.silence(6)
    assert talk.user(25)[1:] == [Move.HOLD] * 24
    assert waited(talk) == RULES.question_frames
    assert [talk.frame(ROOM).asks for _ in range(60)] == [True] * 60, "and may be asked"


def test_a_knock_does_not_keep_it_from_beginning() -> None:
    talk = Talk(begins=True, ahead="")
    talk.silence(6)
    talk.user(4)
    assert talk.silence(10)[-1] is Move.NUDGE
    talk.user(3, MURMUR)
    assert talk.silence(10)[-1] is Move.NUDGE
    assert talk.looked == 2, "recognition is asked, however soft it was"


def test_urging_ends() -> None:
    talk = Talk(begins=True)
    moves = talk.silence(300)
    assert moves.count(Move.NUDGE) == RULES.urge_frames
    assert moves[-1] is Move.FREE


# What holds whatever happens.

levels = st.one_of(
    st.floats(-160, 10), st.sampled_from([VOICE, MURMUR, ROOM, float("-inf"), float("nan")])
)
sights = st.builds(
    FloorSight,
    words=st.sampled_from(["", "", " what", " is", " it?"]),
    words_late=st.sampled_from([0, 12]),
    caught_up=st.booleans(),
    ahead=st.sampled_from([None, None, "", " of the", " What is it called?"]),
    hears=st.booleans(),
    speaks=st.booleans(),
    busy=st.booleans(),
    level_db=st.sampled_from([None, MODEL_DB, -80.0]),
)
frames = st.lists(st.tuples(levels, sights), max_size=60)
rules = st.builds(
    FloorRules,
    voicing=st.builds(VoicingRules, evidence=st.integers(1, 8), echo_db=st.floats(0, 40)),
    pause_frames=st.integers(1, 4),
    question_frames=st.integers(1, 20),
    unfinished_frames=st.integers(1, 40),
    turn_frames=st.integers(1, 20),
    yield_frames=st.integers(1, 30),
    urge_frames=st.integers(1, 40),
)


@given(rules, st.booleans(), frames)
def test_who_has_asked_is_free_to_be_answered(
    given_rules: FloorRules, begins: bool, before: list[tuple[float, FloorSight]]
) -> None:
    talk = Talk(given_rules, begins, ahead=" What is the capital of France?")
    for level_db, sight in before:
        talk.frame(level_db, sight)
    talk.silence(200)
    talk.user(40, 0.0)
    within = given_rules.longest_wait + given_rules.pause_frames + 1
    assert not {*MAY_SPEAK}.isdisjoint(talk.silence(within))


@given(rules, st.booleans(), frames)
def test_a_yield_is_never_longer_than_its_limit(
    given_rules: FloorRules, begins: bool, before: list[tuple[float, FloorSight]]
) -> None:
    talk = Talk(given_rules, begins)
    for level_db, sight in before:
        talk.frame(level_db, sight)
    run = 0
    for _ in range(100):
        run = run + 1 if talk.frame(0.0).move is Move.YIELD else 0
        assert run <= given_rules.yield_frames


@given(rules, frames)
def test_a_user_alone_in_a_silent_room_hears_nothing_unasked(
    given_rules: FloorRules, before: list[tuple[float, FloorSight]]
) -> None:
    talk = Talk(given_rules)
    for _, sight in before:
        assert talk.frame(ROOM, replace(sight, speaks=False, busy=False)).move is Move.HOLD


@given(levels)
def test_levels_of_any_kind_are_survived(level_db: float) -> None:
    talk = Talk()
    talk.user(5, level_db)
    state = talk.floor.state.voicing
    assert state.room_db is not None
    assert -75 <= state.room_db <= 20
    assert -75 <= state.peak_db <= 20


# In a conversation.

CONFIG = replace(ConversationConfig.improved(initial_speaker=Role.USER), floor=RULES)


def advance(
    brain: Conversation, user_db: float, *, speaks: bool = False, asks: bool = False
) -> list[Output]:
    """One frame of a user and of a model that speaks, or asks for knowledge."""
    frame = brain.frame + 1
    order = brain.order(user_db)
    ahead = " What is the capital of France?" if order and order.looks_ahead else None
    user = UserFrame(transcribed_frame=frame, level_db=user_db, ahead=ahead)
    made = ModelFrame(" word", level_db=MODEL_DB) if speaks else ModelFrame(level_db=-80.0)
    return brain.advance(FrameInput(frame, user, made, sampled_trigger=asks))


def interrupted(brain: Conversation) -> list[Output]:
    """A question, the beginning of a reply with a lookup, and somebody who talks into it."""
    out: list[Output] = []
    for _ in range(25):
        out += advance(brain, VOICE)
    for _ in range(6):
        out += advance(brain, ROOM)
    out += advance(brain, ROOM, asks=True)
    for _ in range(10):
        out += advance(brain, ROOM, speaks=True)
    for _ in range(6):
        out += advance(brain, VOICE, speaks=True)
    return out


def test_an_interruption_costs_the_lookup_under_way() -> None:
    brain = Conversation(replace(CONFIG, retrieval=replace(CONFIG.retrieval, needs_words=False)))
    out = interrupted(brain)
    [started] = [one for one in out if isinstance(one, StartLookup) and one.sequence]
    [cancelled] = [one for one in out if isinstance(one, RetrievalCancelled)]
    assert cancelled.reason is CancelReason.BARGE_IN
    late = brain.receive(LookupAnswered(started.lookup, "Paris.", rows=3))
    assert not any(isinstance(one, InjectReference) for one in late)


def test_rows_that_wait_are_dropped_with_what_they_would_have_said() -> None:
    brain = Conversation(replace(CONFIG, retrieval=replace(CONFIG.retrieval, needs_words=False)))
    for _ in range(25):
        advance(brain, VOICE)
    for _ in range(6):
        advance(brain, ROOM)
    [started] = [one for one in advance(brain, ROOM, asks=True) if isinstance(one, StartLookup)]
    brain.receive(LookupAnswered(started.lookup, "Paris.", rows=30))
    out: list[Output] = []
    for level_db in [ROOM] * 4 + [VOICE] * 4:
        out += advance(brain, level_db, speaks=True)
    [dropped] = [one for one in out if isinstance(one, InjectReference)]
    assert (dropped.kind, dropped.rows, dropped.append) == (InjectionKind.ZERO, 1, False)
    advance(brain, VOICE)
    assert brain.rows_left == 0


def test_who_has_drawn_a_piece_is_urged_no_more_though_delays_keep_it_back() -> None:
    brain = Conversation(replace(CONFIG, initial_speaker=Role.MODEL))
    while (order := brain.order(ROOM)) is None or order.move is not Move.NUDGE:
        advance(brain, ROOM)
        assert brain.frame < 20
    frame = brain.frame + 1
    brain.advance(FrameInput(frame, UserFrame(transcribed_frame=frame), sampled_speech=True))
    order = brain.order(ROOM)
    assert order is not None
    assert order.move is Move.FREE


def test_without_rules_nobody_is_ordered_about() -> None:
    brain = Conversation(replace(CONFIG, floor=None))
    out = interrupted(brain)
    assert brain.order(VOICE) is None
    assert not any(isinstance(one, RetrievalCancelled) for one in out)


moments = st.lists(st.tuples(levels, st.booleans(), st.booleans()), min_size=1, max_size=50)


@settings(deadline=None)
@given(moments, st.integers(0, 50), st.sampled_from(list(Role)))
def test_a_snapshot_goes_on_as_if_nothing_had_been(
    schedule: list[tuple[float, bool, bool]], at: int, begins: Role
) -> None:
    brain = Conversation(replace(CONFIG, initial_speaker=begins))
    copy: Conversation | None = None
    for number, (level_db, speaks, asks) in enumerate(schedule):
        if number == min(at, len(schedule) - 1):
            copy = Conversation.restore(json.loads(json.dumps(brain.snapshot())))
        outputs = [
            (one.order(level_db), advance(one, level_db, speaks=speaks, asks=asks))
            for one in ([brain] if copy is None else [brain, copy])
        ]
        assert all(other == outputs[0] for other in outputs)
    assert copy is not None
    assert copy.snapshot() == brain.snapshot()


# Settings and words.


def test_rules_are_read_strictly() -> None:
    assert FloorRules.from_dict({}) == RULES
    own = FloorRules.from_dict({"turn_frames": 9, "voicing": {"echo_db": 30.0}})
    assert (own.turn_frames, own.voicing.echo_db, own.pause_frames) == (9, 30.0, 2)
    for wrong, told in (
        ({"turn_frame": 9}, "turn_frame"),
        ({"turn_frames": 0}, "turn_frames"),
        ({"voicing": {"loud": 1}}, "loud"),
        ({"voicing": 3}, "floor.voicing"),
        ({"begin_step": float("nan")}, "begin_step"),
        ([], "floor"),
    ):
        with pytest.raises(ConfigError, match=told):
            FloorRules.from_dict(wrong)


@pytest.mark.parametrize(
    ("text", "ending"),
    [
        ("", Ending.NOTHING),
        (" ...", Ending.NOTHING),
        (" What is the capital of France.", Ending.QUESTION),
        (" What is the capital of France?", Ending.RISING),
        (" I would like to know the time.", Ending.QUESTION),
        (" Tell me about Paris.", Ending.QUESTION),
        (" Let me tell you about Paris.", Ending.STATEMENT),
        (" Hello there. My name is Ann.", Ending.STATEMENT),
        (" What's that? I was thinking of Ann.", Ending.QUESTION),
        (" I was thinking of Ann. She is well.", Ending.STATEMENT),
        (" What is the capital of.", Ending.UNFINISHED),
        (" What is the capital", Ending.UNFINISHED),
        (" Which town is um,", Ending.UNFINISHED),
        (" Well, yes.", Ending.STATEMENT),
        (" Well, name the rivers of Spain.", Ending.QUESTION),
        (" If I leave iron here, is it a gas.", Ending.QUESTION),
        (" " + "word " * 500 + "what?", Ending.UNFINISHED),
        (" What is that? " + "word " * 500 + "and more.", Ending.STATEMENT),
    ],
)
def test_how_a_transcript_ends(text: str, ending: Ending) -> None:
    assert ending_of(text) is ending


@pytest.mark.parametrize(
    ("text", "asks"),
    [
        ("What a day it was. I lost my keys. That is the whole story.", False),
        ("I lost my keys. That is the whole story. Where are they?", True),
        ("Where are they? I mean my keys.", True),
        ("So, here is what happened. I lost my keys.", False),
        ("That's how it was. What an empty house!", False),
        ("Okay, what is that? I mean the tower.", True),
        ("I was late. Hey wren, is Chad in Asia or on another continent.", True),
        ("Do not forget the cherry. Any", False),
        ("I saw the thick cable. The ivory tray was early?", False),
        ("I saw the thick cable. Was the ivory tray early?", True),
        ("My notes should have the recipe for soup, what do they say?", True),
        ("My notes should have the recipe for soup, and what he knows.", False),
        ("Do not forget the cherry. Anyway.", False),
        ("In what part of the world is Chad.", True),
        ("I lost my keys and", True),
        ("", True),
    ],
)
def test_who_asks_asks_in_the_end(text: str, asks: bool) -> None:
    assert asks_at_the_end(text) is asks


@pytest.mark.parametrize(
    ("text", "about_the_listener"),
    [
        ("Hi, can you hear me?", True),
        ("You are clever. What can you do? Are you a robot?", True),
        ("Thanks. How is it going?", True),
        ("Are you there? What is the capital of France?", False),
        ("Can you tell me the capital of France?", False),
        ("Do you know how many people live in Chad?", False),
        ("How do you write iron in chemistry?", False),
        ("When I ask what you do in Paris, is that called a hobby in French?", False),
        ("Hey, tell me a joke.", True),
        ("One question, let us play a game.", True),
        ("Please call my uncle. What is iron?", False),
        ("Can you please drive a car?", True),
        ("Wren, could you draw a purple backpack?", True),
        ("Can you please look up iron?", False),
        ("Would you name a river?", False),
        ("Can you", False),
        ("Can you drive a car? Which country has the most cars?", False),
        ("I am tired.", False),
        ("Great, thanks a lot.", True),
        ("Good morning, wren.", True),
        ("Hello, what is the capital of Chad?", False),
        ("Hi, I wonder which mountain in the whole of Chad is highest.", False),
        ("", False),
    ],
)
def test_what_is_asked_about_the_listener_is_small_talk(
    text: str, about_the_listener: bool
) -> None:
    assert is_small_talk(text) is about_the_listener


@given(st.text(max_size=2_000))
def test_any_text_ends_somehow(text: str) -> None:
    assert ending_of(text) in Ending
    assert is_small_talk(text) in (True, False)
