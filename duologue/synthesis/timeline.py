"""From script to time line: when each word of each side is heard.

Rules of the clock, all in seconds:
- wren replies 0.2 to 0.4 after the end of the user's turn;
- its lead is triggered one frame before the first word; the body begins after the lead, and at
  least 0.16 after the reference arrived; when that takes long, a filler bridges the wait;
- when the user talks over wren, wren fades out within half a second and says no more of that turn.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from duologue.synthesis.draw import Draw
from duologue.synthesis.script import Backchannel, BargeIn, Dialogue, Outcome, Turn
from duologue.synthesis.script import Speaker as Side
from duologue.synthesis.utterance import Utterance, cut_short, insert_pause
from duologue.synthesis.voices import WREN, Voice

FRAME_S = 0.08
_LEAD_TO_BODY_S = (0.1, 0.25)
_ARRIVAL_TO_BODY_S = (0.16, 0.36)
_LONG_WAIT_S = 1.1
_LEAD_TO_FILLER_S = (0.45, 0.75)
_GIVES_UP_S = (2.8, 3.6)
"""After the trigger, when nothing ever comes back."""
_EARLIEST_BARGE_IN_S = 0.3
_FADE_S = 0.04
_MOST_REACTION_S = 0.5


@dataclass
class Placed:
    """An utterance on the time line."""

    side: Side
    start_s: float
    utterance: Utterance
    gain: float = 1.0

    @property
    def end_s(self) -> float:
        return self.start_s + self.utterance.seconds


@dataclass
class Timeline:
    """Everything that is heard in a dialogue, and what is known about it."""

    placed: list[Placed] = field(default_factory=list)
    noises: list[tuple[float, str, float]] = field(default_factory=list)
    """Start, kind and duration of noises near the user."""
    retrieval: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    turns: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0


class Speaks(Protocol):
    """What says a text in a voice: `Speaker`, or `SilentSpeaker`."""

    def say(self, text: str, voice: Voice) -> Utterance: ...


def lay_out(dialogue: Dialogue, user_voice: Voice, speaker: Speaks) -> Timeline:
    """Speak a script and put it on a clock."""
    layout = _Layout(dialogue, user_voice, speaker)
    for number, turn in enumerate(dialogue.turns):
        layout.add(number, turn)
    return layout.finish(dialogue.tail_s)


class _Layout:
    def __init__(self, dialogue: Dialogue, user_voice: Voice, speaker: Speaks) -> None:
        self._draw = Draw("timeline", dialogue.seed, dialogue.split, dialogue.index)
        self._voice = user_voice
        self._speaker = speaker
        self._line = Timeline()
        self._now_s = 0.0
        self._question_end_s = 0.0
        self._parts: dict[str, Placed] = {}
        """Lead, filler and body of wren's last turn."""

    def add(self, number: int, turn: Turn) -> None:
        if turn.speaker is Side.NOBODY:
            self._add_nobody(turn)
            return
        spoken = self._add_user(turn) if turn.speaker is Side.USER else self._add_wren(turn)
        self._line.turns.append(
            {
                "speaker": str(turn.speaker),
                "act": turn.act,
                "start": round(spoken[0].start_s, 3),
                "end": round(max(p.end_s for p in spoken), 3),
                "text": " ".join(part for part in (turn.lead, turn.text) if part),
                "phrasing": turn.phrasing,
            }
        )

    def finish(self, tail_s: float) -> Timeline:
        ends = [placed.end_s for placed in self._line.placed]
        self._line.seconds = max([self._now_s, *ends]) + tail_s
        self._line.events.sort(key=lambda event: float(event["time"]))
        return self._line

    def _add_nobody(self, turn: Turn) -> None:
        start_s = self._now_s + turn.gap_s
        if turn.act != "silence":
            self._line.noises.append((start_s, turn.act, turn.duration_s))
        self._event(turn.act, start_s, end=round(start_s + turn.duration_s, 3))
        self._now_s = start_s + turn.duration_s

    def _add_user(self, turn: Turn) -> list[Placed]:
        spoken = self._speaker.say(turn.text, self._voice)
        for pause in reversed(turn.pauses):
            spoken = insert_pause(spoken, pause.after_words, pause.seconds)
        start_s = self._now_s + turn.gap_s
        if turn.barge_in:
            start_s = self._interrupt(turn.barge_in, start_s)
        placed = self._place(Side.USER, start_s, spoken)
        for pause in turn.pauses:
            begin_s = start_s + spoken.words[pause.after_words - 1].end_s
            end_s = start_s + spoken.words[pause.after_words].start_s
            self._event("pause", begin_s, end=round(end_s, 3))
        for sign in turn.backchannels:
            self._backchannel(sign, placed, Side.WREN, WREN, 0.8)
        self._now_s = self._question_end_s = placed.end_s
        self._parts = {}
        return [placed]

    def _interrupt(self, barge_in: BargeIn, otherwise_s: float) -> float:
        """Where the user's turn begins; what wren was saying is cut off after the reaction."""
        part = self._parts.get("lead" if barge_in.in_lead else "body") or self._parts.get("body")
        if part is None:
            return otherwise_s
        start_s = part.start_s + max(
            _EARLIEST_BARGE_IN_S, barge_in.fraction * part.utterance.seconds
        )
        silent_s = start_s + min(barge_in.reaction_s, _MOST_REACTION_S - _FADE_S)
        last_s = max(placed.end_s for placed in self._parts.values())
        if start_s >= last_s:
            return otherwise_s
        for placed in self._parts.values():
            if placed.start_s >= start_s:
                # Not begun when the user spoke up: never said.
                self._line.placed.remove(placed)
            elif placed.end_s > silent_s:
                placed.utterance = cut_short(placed.utterance, silent_s - placed.start_s, _FADE_S)
        if last_s > silent_s:
            self._event("barge_in", start_s, silent_by=round(silent_s, 3))
        kept_s = max(p.end_s for p in self._parts.values() if p in self._line.placed)
        self._line.turns[-1]["end"] = round(kept_s, 3)
        if self._line.retrieval and "body" in self._parts:
            self._note_cut(self._line.retrieval[-1], last_s > silent_s)
        return start_s

    def _note_cut(self, record: dict[str, Any], is_cut: bool) -> None:
        body = self._parts["body"]
        spoken = body in self._line.placed
        record["interrupted"] = is_cut
        record["body_start"] = round(body.start_s, 3) if spoken else None
        record["body_end"] = round(body.end_s, 3) if spoken else None
        record["lead_end"] = round(self._parts["lead"].end_s, 3)

    def _add_wren(self, turn: Turn) -> list[Placed]:
        start_s = self._now_s + turn.gap_s
        if turn.lookup is None:
            body = self._place(Side.WREN, start_s, self._speaker.say(turn.text, WREN))
            self._parts = {"body": body}
        else:
            body = self._add_grounded(turn, start_s)
        for sign in turn.backchannels:
            self._backchannel(sign, body, Side.USER, self._voice, 0.5)
        self._now_s = body.end_s
        return list(self._parts.values())

    def _add_grounded(self, turn: Turn, start_s: float) -> Placed:
        """Lead, lookup, perhaps a filler, body."""
        lookup = turn.lookup
        assert lookup is not None
        lead = self._place(Side.WREN, start_s, self._speaker.say(turn.lead, WREN))
        trigger_s = start_s + lead.utterance.words[0].start_s - FRAME_S
        delay_s = lookup.delay.seconds(lead.utterance.seconds)
        ready_s = trigger_s + delay_s + self._draw.between(*_ARRIVAL_TO_BODY_S)
        if lookup.outcome is Outcome.LOST:
            ready_s = trigger_s + self._draw.between(*_GIVES_UP_S)
        body_s = max(lead.end_s + self._draw.between(*_LEAD_TO_BODY_S), ready_s)
        self._parts = {"lead": lead}
        filler_gap_s = self._draw.between(*_LEAD_TO_FILLER_S)
        if body_s - lead.end_s > _LONG_WAIT_S:
            spoken = self._speaker.say(turn.filler, WREN)
            filler = self._place(Side.WREN, lead.end_s + filler_gap_s, spoken)
            self._parts["filler"] = filler
            body_s = max(body_s, filler.end_s + _LEAD_TO_BODY_S[0])
        body = self._place(Side.WREN, body_s, self._speaker.say(turn.text, WREN))
        self._parts["body"] = body
        arrived = lookup.outcome is not Outcome.LOST
        self._line.retrieval.append(
            {
                "trigger_time": round(trigger_s, 3),
                "lead_start": round(lead.start_s, 3),
                "lead_end": round(lead.end_s, 3),
                "reference_text": lookup.reference,
                "outcome": str(lookup.outcome),
                "reference_delay": round(delay_s, 3) if arrived else None,
                "arrival_time": round(trigger_s + delay_s, 3) if arrived else None,
                "body_start": round(body.start_s, 3),
                "body_end": round(body.end_s, 3),
                "question_end": round(self._question_end_s, 3),
                "interrupted": False,
                "answer": lookup.fact.answer,
                "fact": asdict(lookup.fact),
            }
        )
        return body

    def _backchannel(
        self, sign: Backchannel, during: Placed, side: Side, voice: Voice, gain: float
    ) -> None:
        word = during.utterance.words[min(sign.after_words, len(during.utterance.words)) - 1]
        start_s = during.start_s + word.end_s + sign.delay_s
        self._place(side, start_s, self._speaker.say(sign.text, voice), gain)
        self._event("backchannel", start_s, speaker=str(side))

    def _place(self, side: Side, start_s: float, utterance: Utterance, gain: float = 1.0) -> Placed:
        placed = Placed(side, start_s, utterance, gain)
        self._line.placed.append(placed)
        return placed

    def _event(self, kind: str, time_s: float, **more: object) -> None:
        self._line.events.append({"kind": kind, "time": round(time_s, 3), **more})
