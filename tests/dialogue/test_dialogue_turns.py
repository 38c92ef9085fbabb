"""Turn manager: the published rules, one by one and against a literal model of them."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duologue.dialogue import ConfigError, Countdown, Role, TurnManager, TurnRules, TurnStarted
from duologue.dialogue.turns import MAX_PIECE_CHARACTERS, TurnEvent

SILENT, SPEAKING = 0.9, 0.1


def manager(rules: TurnRules | None = None, speaker: Role = Role.MODEL) -> TurnManager:
    return TurnManager(rules or TurnRules.published(), speaker)


def feed(turns: TurnManager, values: list[float]) -> None:
    for value in values:
        turns.update_vad(value)


def render(events: list[TurnEvent]) -> str:
    """Write events as the published context string grows."""
    prefix = {Role.USER: "user: ", Role.MODEL: "moshi: "}
    text = ""
    for event in events:
        if isinstance(event, TurnStarted):
            text += ("\n" if event.index else "") + prefix[event.role]
        else:
            text += event.text
    return text


def user_has_floor(rules: TurnRules) -> TurnManager:
    turns = manager(rules, Role.USER)
    assert render(turns.speak(None, 0)) == "user: "
    return turns


def test_initial_speaker_prefix_comes_with_the_first_call() -> None:
    turns = manager()
    assert render(turns.speak(None, 0)) == "moshi: "
    assert render(turns.speak(" Hi", 1)) == " Hi"
    assert turns.speak(None, 2) == []


def test_user_takes_the_floor_at_once_after_warm_up() -> None:
    turns = manager()
    turns.speak(" Hello", 0)
    feed(turns, [SPEAKING] * 19)
    assert turns.speak(None, 1) == []
    turns.update_vad(SPEAKING)
    assert render(turns.speak(" there", 2)) == "\nuser: "
    assert turns.active_speaker is Role.USER
    assert render(turns.hear(" what", 3)) == " what"


def test_user_is_speaking_when_the_mean_of_four_is_below_the_threshold() -> None:
    turns = manager()
    turns.speak(None, 0)
    feed(turns, [1.0] * 20 + [0.9, 0.9, 0.1, 0.1])
    assert turns.speak(None, 1) == []
    turns.update_vad(0.8)
    assert render(turns.speak(None, 2)) == "\nuser: "


def test_a_user_who_is_only_expected_to_speak_does_not_get_the_floor() -> None:
    """Estimates as a recogniser gives them: long silence, then a voice from frame 43 on."""
    silence = [0.55] * 24 + [0.49, 0.45, 0.42, 0.4] + [0.4] * 15
    voice = [0.25, 0.04, 0.01, 0.0]

    def taken_at(rules: TurnRules) -> int | None:
        turns = manager(rules)
        for frame, value in enumerate([*silence, *voice]):
            turns.update_vad(value)
            turns.speak(None, frame)
            if turns.active_speaker is Role.USER:
                return frame
        return None

    assert taken_at(TurnRules.published()) == 26
    improved = taken_at(TurnRules.improved())
    assert improved is not None
    assert 43 <= improved <= 46


def test_a_user_who_speaks_at_once_has_the_floor_with_the_first_window() -> None:
    turns = manager(TurnRules.improved())
    feed(turns, [0.02] * 3)
    assert render(turns.speak(None, 0)) == "moshi: "
    turns.update_vad(0.02)
    assert render(turns.speak(" Le", 1)) == "\nuser: "
    assert render(turns.hear(" What", 2)) == " What"


def test_words_are_proof_enough_with_a_doubtful_estimate() -> None:
    turns = manager(TurnRules.improved())
    turns.speak(None, 0)
    feed(turns, [0.4] * 30)
    assert turns.speak(None, 1) == []
    assert turns.hear(" Yes", 2) == []
    assert render(turns.speak(None, 3)) == "\nuser:  Yes"


def test_words_of_the_side_without_the_floor_are_kept_back() -> None:
    turns = manager()
    turns.speak(None, 0)
    assert turns.hear(" what", 1) == []
    assert turns.late_words == " what"
    feed(turns, [SPEAKING] * 20)
    events = turns.hear(" is", 5)
    assert render(events) == "\nuser:  what is"
    assert [getattr(event, "said_frame", None) for event in events] == [None, 1, 5]


def test_model_waits_for_all_four_values_text_and_the_stt() -> None:
    turns = user_has_floor(TurnRules.published(3))
    feed(turns, [SILENT] * 4)
    assert turns.speak(None, 1) == []
    assert turns.state.pending is None, "the model has said nothing yet"
    assert turns.speak(" Well", 2) == []
    assert turns.state.pending is None, "the rule is judged before the text of its own call"
    for frame in (3, 4, 5):
        assert turns.speak(None, frame) == []
        assert turns.state.pending is Role.MODEL
    assert render(turns.speak(" then", 6)) == "\nmoshi:  Well then"


def test_one_value_at_the_threshold_keeps_the_user_talking() -> None:
    turns = user_has_floor(TurnRules.published(0))
    turns.speak(" Well", 1)
    feed(turns, [0.9, 0.9, 0.5, 0.9])
    assert turns.speak(None, 2) == []
    feed(turns, [0.9] * 3)
    assert render(turns.speak(None, 3)) == "\nmoshi:  Well"


def test_words_make_the_published_wait_run_faster() -> None:
    turns = user_has_floor(TurnRules.published(4))
    turns.speak(" Well", 1)
    feed(turns, [SILENT] * 4)
    calls = [turns.speak(None, 2), turns.hear(" a", 3), turns.hear(" b", 3), turns.hear(" c", 3)]
    assert [render(events) for events in calls] == ["", " a", " b", " c"]
    assert render(turns.speak(None, 4)) == "\nmoshi:  Well"


@pytest.mark.parametrize("countdown", [Countdown.FRAMES, Countdown.VAD_UPDATES])
def test_other_countdowns_ignore_words(countdown: Countdown) -> None:
    turns = user_has_floor(TurnRules(stt_wait_steps=2, countdown=countdown))
    turns.speak(" Well", 0)
    feed(turns, [SILENT] * 4)
    switched_at = None
    for frame in range(1, 6):
        turns.update_vad(SILENT)
        for word in " a b c d":
            turns.hear(word, frame)
        if turns.speak(None, frame) and switched_at is None:
            switched_at = frame
        if turns.active_speaker is Role.MODEL:
            switched_at = switched_at or frame
            break
        turns.end_frame()
    assert switched_at == 3


def test_published_pending_switch_survives_reversed_evidence() -> None:
    turns = user_has_floor(TurnRules.published(3))
    turns.speak(" Well", 1)
    feed(turns, [SILENT] * 4)
    turns.speak(None, 2)
    feed(turns, [SPEAKING] * 4)
    texts = [render(turns.speak(None, frame)) for frame in (3, 4, 5)]
    assert texts == ["", "", "\nmoshi:  Well"]


def test_option_takes_a_pending_switch_back() -> None:
    turns = user_has_floor(TurnRules(stt_wait_steps=3, cancel_on_reversal=True))
    turns.speak(" Well", 1)
    feed(turns, [SILENT] * 4)
    turns.speak(None, 2)
    feed(turns, [SPEAKING] * 4)
    assert [turns.speak(None, frame) for frame in range(3, 20)] == [[]] * 17
    feed(turns, [SILENT] * 4)
    texts = [render(turns.speak(None, frame)) for frame in range(20, 24)]
    assert texts == ["", "", "", "\nmoshi:  Well"]


def test_kept_back_text_is_bounded_and_losses_are_counted() -> None:
    turns = manager(TurnRules(max_held_pieces=3))
    for frame in range(5):
        turns.hear(f" {frame}" + "x" * 1000, frame)
    assert turns.dropped == 2
    assert turns.late_words.startswith(" 2")
    assert len(turns.late_words) == 3 * MAX_PIECE_CHARACTERS


def test_reset_is_like_new() -> None:
    turns = manager()
    turns.speak(" Hello", 0)
    feed(turns, [SPEAKING] * 20)
    turns.speak(None, 1)
    turns.reset()
    assert turns.state == manager().state


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("vad_window", 0),
        ("vad_threshold", 1.5),
        ("speaking_share", -0.1),
        ("stt_wait_steps", -1),
        ("countdown", "calls"),
    ],
)
def test_errors_name_the_field(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"TurnRules\.{field} "):
        TurnRules(**{field: value})  # type: ignore[arg-type]


class LiteralRules:
    """The published rules written down once more, as one string machine."""

    def __init__(self, wait_steps: int, speaker: str) -> None:
        self.wait_steps = wait_steps
        self.values: list[float] = []
        self.count = 0
        self.active = speaker
        self.pending: str | None = None
        self.wait = 0
        self.buffers: dict[str, list[str]] = {"moshi": [], "user": []}
        self.buffers[speaker] = [f"{speaker}: "]
        self.context = ""

    def vad(self, value: float) -> None:
        self.count += 1
        self.values = [*self.values, value][-4:]

    def handle(self, moshi: str | None = None, user: str | None = None) -> None:
        emitted = ""
        if len(self.values) == 4:
            if self.active == "moshi":
                if statistics.fmean(self.values) < 0.5 and self.count >= 20:
                    self.pending, self.wait = "user", 0
            elif min(self.values) > 0.5 and self.buffers["moshi"] and self.pending != "moshi":
                self.pending, self.wait = "moshi", self.wait_steps
            if self.pending is not None:
                if self.wait == 0:
                    self.active, self.pending = self.pending, None
                    emitted += f"\n{self.active}: "
                else:
                    self.wait -= 1
        emitted += "".join(self.buffers[self.active])
        self.buffers[self.active] = []
        for name, text in (("moshi", moshi), ("user", user)):
            if text and name == self.active:
                emitted += text
            elif text:
                self.buffers[name].append(text)
        self.context += emitted.replace("[RAG]", "")


steps = st.one_of(
    st.tuples(st.just("vad"), st.sampled_from([0.0, 0.1, 0.25, 0.75, 0.9, 1.0])),
    st.tuples(st.just("vad_run"), st.sampled_from([0.1, 0.9])),
    st.tuples(st.just("model"), st.sampled_from([None, None, " m", " n"])),
    st.tuples(st.just("user"), st.sampled_from([" u", " v"])),
)


@settings(max_examples=150, deadline=None)
@given(
    script=st.lists(steps, max_size=80),
    wait_steps=st.integers(0, 13),
    speaker=st.sampled_from(list(Role)),
)
def test_published_rules_agree_with_their_literal_form(
    script: list[tuple[str, object]], wait_steps: int, speaker: Role
) -> None:
    turns = manager(TurnRules.published(wait_steps), speaker)
    literal = LiteralRules(wait_steps, "user" if speaker is Role.USER else "moshi")
    context = render(turns.speak(None, 0))
    literal.handle()
    for frame, (kind, value) in enumerate(script):
        if kind.startswith("vad"):
            for _ in range(1 if kind == "vad" else 4):
                turns.update_vad(value)  # type: ignore[arg-type]
                literal.vad(value)  # type: ignore[arg-type]
        elif kind == "model":
            context += render(turns.speak(value, frame))  # type: ignore[arg-type]
            literal.handle(moshi=value)  # type: ignore[arg-type]
        else:
            context += render(turns.hear(value, frame))  # type: ignore[arg-type]
            literal.handle(user=value)  # type: ignore[arg-type]
        turns.end_frame()
        assert context == literal.context
