"""Real speech from the real programs: word times, phones, cuts, pauses, voices."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from duologue.synthesis import align, samples
from duologue.synthesis.draw import Draw
from duologue.synthesis.engines import festival, flite, foreign, program
from duologue.synthesis.engines.program import MissingProgramError, SynthesizerError
from duologue.synthesis.samples import RATE
from duologue.synthesis.speaker import LEVEL, Speaker, spoken_form
from duologue.synthesis.splits import Split
from duologue.synthesis.utterance import Utterance, cut_short, insert_pause, join
from duologue.synthesis.voices import WREN, Voice, cast

TEXT = "I'd like to know the capital of Tarvonia, please. It's in Drenland."
ESPEAK = Voice("espeak-ng", "f2", "en-us+f2", rate=1.1, pitch=0.9, tract=1.05)
VOICES = [
    WREN,
    Voice("flite", "awb", "awb", rate=0.9, pitch=1.1, tract=0.9),
    Voice("flite", "kal", "kal16", tract=1.1),
    ESPEAK,
]
FESTIVAL = [
    Voice("festival", "slt", "cmu_us_slt_arctic_hts", tract=1.1),
    Voice("festival", "ked", "ked_diphone", rate=1.1),
]
FOREIGN = [Voice("festival", name, name) for name in foreign.VOICES]
KAL = Voice("festival", "kal", "kal_diphone")


def level(pcm: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(pcm, dtype=np.float64))))


def pitch_hz(pcm: np.ndarray) -> float:
    """The median of where 40 ms resemble themselves most, among the loud ones."""
    frames = pcm[: len(pcm) // 960 * 960].reshape(-1, 960)
    loud = [frame for frame in frames if level(frame) > LEVEL]
    lags = [
        int(np.correlate(frame, frame, "full")[959 + 60 : 959 + 400].argmax()) for frame in loud
    ]
    return RATE / (60 + float(np.median(lags)))


def check(utterance: Utterance, text: str) -> None:
    """Words and phones are the text's, in order, inside the sound, and where it is loud."""
    assert [word.text for word in utterance.words] == text.split()
    ends = 0.0
    for word in utterance.words:
        assert ends <= word.start_s + 1e-9 <= word.end_s + 1e-9 <= utterance.seconds + 1e-6
        ends = word.end_s
    assert [phone.word for phone in utterance.phones if phone.word >= 0] == sorted(
        phone.word for phone in utterance.phones if phone.word >= 0
    )
    assert {phone.word for phone in utterance.phones} - {-1} == set(range(len(text.split())))
    for word in utterance.words:
        loud = utterance.samples[round(word.start_s * RATE) : round(word.end_s * RATE)]
        assert level(loud) > 0.1 * LEVEL, word
    assert samples.active_level(utterance.samples) == pytest.approx(LEVEL, rel=0.35)
    assert float(np.abs(utterance.samples).max()) <= 0.96


@pytest.mark.parametrize("voice", VOICES, ids=lambda voice: voice.name)
def test_words_are_where_the_sound_is(voice: Voice, speaker: Speaker) -> None:
    utterance = speaker.say(TEXT, voice)
    check(utterance, TEXT)
    assert 3.0 < utterance.seconds < 7.0


@pytest.mark.parametrize("voice", FESTIVAL, ids=lambda voice: voice.name)
def test_words_are_where_the_sound_is_in_festival(voice: Voice, full_speaker: Speaker) -> None:
    check(full_speaker.say(TEXT, voice), TEXT)


@pytest.mark.parametrize("voice", FOREIGN, ids=lambda voice: voice.name)
def test_speakers_of_other_languages_say_what_kal_says(voice: Voice, full_speaker: Speaker) -> None:
    text = "I'd like to know the joy of Tarvonia, please."
    foreign_one, kal = full_speaker.say(text, voice), full_speaker.say(text, KAL)
    check(foreign_one, text)
    assert [(phone.name, phone.word) for phone in foreign_one.phones] == [
        (phone.name, phone.word) for phone in kal.phones
    ]
    for one, other in zip(foreign_one.words, kal.words, strict=True):
        assert one.start_s == pytest.approx(other.start_s, abs=5e-3)
        assert one.end_s == pytest.approx(other.end_s, abs=5e-3)


def test_festival_forgets_who_spoke_before(full_speaker: Speaker) -> None:
    voices = [FESTIVAL[1], KAL, FOREIGN[0]]
    festival.close()
    before = [full_speaker.say("Let me see.", voice) for voice in voices]
    for voice in FOREIGN:
        full_speaker.say("One moment.", voice)
    again = [Speaker().say("Let me see.", voice) for voice in voices]
    for one, other in zip(before, again, strict=True):
        assert np.array_equal(one.samples, other.samples)
        assert one.words == other.words


def test_joins_that_a_speaker_lacks_become_the_nearest_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    voice = foreign.ForeignVoice("somebody", "ay a:|a+j  z z|s  pau #", 100.0, "festvox-somebody")
    monkeypatch.setitem(foreign.VOICES, "english_somebody", voice)
    index = ["a:-j 0 1 1", "j-s 0 1 1", "#-a 0 1 1", "z-# 0 1 1", "#-# 0 1 1"]
    header = ["EST_File index", f"NumEntries {len(index)}", "EST_Header_End"]
    (tmp_path / "group").mkdir()
    (tmp_path / "group" / "x.group").write_text("\n".join([*header, *index, "z-z 0 1 1", ""]))
    scheme = foreign.definition("english_somebody", tmp_path)
    assert '(("ay" "a:" "j") ("z" "z") ("pau" "#"))' in scheme
    assert '("j-z" "j" "s")' in scheme
    assert '("#-a:" "#" "a")' in scheme
    assert '"z-#"' not in scheme
    assert '"z-z"' not in scheme


def test_speech_is_the_same_every_time(speaker: Speaker) -> None:
    for voice in (WREN, ESPEAK):
        one, other = speaker.say(TEXT, voice), Speaker().say(TEXT, voice)
        assert np.array_equal(one.samples, other.samples)
        assert one.words == other.words


def test_times_found_by_warping_are_close_to_the_true_ones(speaker: Speaker) -> None:
    text = "Tell me which language they speak in Brazil, would you?"
    words = [spoken_form(word) for word in text.split()]
    guide, target = flite.speak(text, words, "kal16"), flite.speak(text, words, "awb")
    assert guide.phones
    assert target.phones
    assert [p.name for p in guide.phones] == [p.name for p in target.phones]
    found = align.transfer(guide.phones, guide.samples, target.samples)
    errors = [
        abs(one.start_s - true.start_s) for one, true in zip(found, target.phones, strict=True)
    ]
    assert np.median(errors) < 0.03
    assert np.quantile(errors, 0.9) < 0.08


def test_rate_and_pitch_do_what_they_say(speaker: Speaker) -> None:
    slow = speaker.say(TEXT, Voice("flite", "awb", "awb", rate=0.8))
    fast = speaker.say(TEXT, Voice("flite", "awb", "awb", rate=1.2))
    assert 1.3 < slow.seconds / fast.seconds < 1.7
    small = speaker.say(TEXT, Voice("flite", "awb", "awb", tract=1.16))
    natural = speaker.say(TEXT, Voice("flite", "awb", "awb"))
    assert small.seconds == pytest.approx(natural.seconds, rel=0.06)


def test_the_pitch_of_speakers_of_other_languages_changes(full_speaker: Speaker) -> None:
    name = FOREIGN[0].name
    low, high = (
        full_speaker.say("How many people live there?", Voice("festival", name, name, pitch=pitch))
        for pitch in (0.9, 1.1)
    )
    assert low.words == high.words
    assert pitch_hz(high.samples) / pitch_hz(low.samples) == pytest.approx(1.22, abs=0.08)


def test_a_pause_moves_what_follows(speaker: Speaker) -> None:
    said = speaker.say("What is the capital of Peru?", WREN)
    paused = insert_pause(said, 5, 1.0)
    assert paused.seconds == pytest.approx(said.seconds + 1.0, abs=1e-3)
    before, after = paused.words[4], paused.words[5]
    assert after.start_s - before.end_s > 0.999
    quiet = paused.samples[round(before.end_s * RATE) + 400 : round(after.start_s * RATE) - 400]
    assert level(quiet) < 0.01 * LEVEL
    with pytest.raises(ValueError, match="no gap"):
        insert_pause(said, 6, 1.0)


def test_cutting_short_drops_words_and_ends_in_silence(speaker: Speaker) -> None:
    said = speaker.say("The capital of France is Lyon.", WREN)
    at_s = said.words[3].start_s + 0.1
    cut = cut_short(said, at_s)
    assert [word.text for word in cut.words] == ["The", "capital", "of", "France"][:4]
    assert cut.seconds == pytest.approx(at_s, abs=1e-3)
    assert cut.words[-1].end_s <= cut.seconds + 1e-9
    assert abs(cut.samples[-1]) < 1e-3


def test_joining_shifts_words_and_phones(speaker: Speaker) -> None:
    one, two = speaker.say("Let me see.", WREN), speaker.say("It is Lyon.", WREN)
    both = join(one, two, 0.5)
    check(both, "Let me see. It is Lyon.")
    assert both.words[3].start_s == pytest.approx(one.seconds + 0.5 + two.words[0].start_s)


def test_sentences_are_kept_on_disk(tmp_path: Path, speaker: Speaker) -> None:
    first = Speaker(folder=tmp_path).say("Let me see.", WREN)
    assert list(tmp_path.rglob("*.npz"))
    again = Speaker(folder=tmp_path).say("Let me see.", WREN)
    assert again.words == first.words
    assert np.array_equal(again.samples, first.samples)
    assert np.array_equal(Speaker().say("Let me see.", WREN).samples, first.samples)


def test_figures_are_refused(speaker: Speaker) -> None:
    with pytest.raises(SynthesizerError, match="written as words"):
        speaker.say("It is 12 degrees.", WREN)
    with pytest.raises(SynthesizerError, match="empty"):
        speaker.say("  ", WREN)


def test_a_missing_program_is_named_with_its_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    program.find.cache_clear()
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(MissingProgramError, match="apt-get install festival festvox-us-slt-hts"):
        program.find("festival")
    monkeypatch.undo()
    program.find.cache_clear()


def test_a_missing_speaker_is_named_with_the_packages(
    full_speaker: Speaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    voice = foreign.ForeignVoice("nobody", "pau #", 100.0, "festvox-nobody")
    monkeypatch.setitem(foreign.VOICES, "english_nobody", voice)
    for name, packages in (("nobody", "festvox-czech-ph"), ("somebody", "festvox-us-slt-hts")):
        asked = Voice("festival", name, f"english_{name}" if name == "nobody" else name)
        with pytest.raises(MissingProgramError, match=f"no voice {name}.*apt-get.*{packages}"):
            full_speaker.say("Hello.", asked)


def test_casting_is_wide() -> None:
    draw = Draw("cast")
    assert len({cast(draw, "train").id for _ in range(500)}) > 450


@pytest.mark.parametrize(
    ("split", "digest"), [("valid", "c853be031879e35d"), ("test", "5f1f6014cee47405")]
)
def test_who_is_cast_to_judge_by_stays(split: Split, digest: str) -> None:
    """Scores of different days compare: more voices to learn from change nobody here."""
    ids = [cast(Draw("cast", place), split).id for place in range(200)]
    assert hashlib.blake2s("\n".join(ids).encode(), digest_size=8).hexdigest() == digest


def test_half_of_the_recorded_voices_in_training_are_diphones() -> None:
    draw = Draw("diphones")
    recorded = [
        voice for voice in (cast(draw, "train") for _ in range(4000)) if voice.engine != "espeak-ng"
    ]
    diphones = [
        voice for voice in recorded if voice.speaker == "kal" or voice.name in foreign.VOICES
    ]
    assert len(diphones) / len(recorded) == pytest.approx(0.52, abs=0.04)
    assert {voice.name for voice in diphones} >= set(foreign.VOICES)
