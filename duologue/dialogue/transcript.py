"""What has been said, as bounded turns, and the context text that back ends read.

The context format is the published one (MoshiRAG reference, turn manager and prompt assembly):
one line per turn, `Human: ...` or `moshi: ...`, earlier references after the turn they answered,
and the cue `Reference:` at the end. The model's latest turn is left out because it is the lead of
the very answer being looked up; so is a greeting before the user's first turn.

Turns are kept as structure and not cut out of one string again, so two accidents of the reference
do not occur: a line break inside a word does not lose the rest of its turn or forge another one,
and a speaker saying "user:" does not end the line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from duologue.dialogue.checks import IllegalMove, check_int, check_type
from duologue.dialogue.events import Role
from duologue.dialogue.ports import ContextReference, ContextTurn, LookupContext

PREFIX = {Role.USER: "user: ", Role.MODEL: "moshi: "}
"""Role prefixes of the running context string, as published clients see them."""

PROMPT_LABEL = {Role.USER: "Human", Role.MODEL: "moshi"}
PROMPT_CUE = "Reference:"
STRAY_MARK = "[RAG]"


@dataclass(frozen=True)
class ContextRules:
    """Bounds and form of the context.

    Beyond `max_turns` turns or `max_characters` characters (turns and references together) the
    oldest turns are forgotten, and references with the turn they follow; a single turn that is
    still too long loses its beginning. Beyond `max_references` the oldest reference goes.

    The published prompt stops replaying references when two of them follow the same turn;
    `latest_reference_wins` keeps the newer one instead. `late_words` adds the user's words that
    recognition delivered after the floor had passed to the model; the published context waits
    for the user's next turn with them.
    """

    max_turns: int = 512
    max_characters: int = 200_000
    max_references: int = 64
    replay_references: bool = True
    latest_reference_wins: bool = False
    late_words: bool = False

    def __post_init__(self) -> None:
        check_int(self, "max_turns", 2, 4096)
        check_int(self, "max_characters", 64, 1_000_000)
        check_int(self, "max_references", 0, 1024)
        for flag in ("replay_references", "latest_reference_wins", "late_words"):
            check_type(self, flag, bool)

    @classmethod
    def published(cls) -> ContextRules:
        """The whole conversation: bounds that a session of 4500 frames does not reach."""
        return cls()

    @classmethod
    def improved(cls) -> ContextRules:
        """A short prompt, complete questions, and the newest reference of each turn."""
        return cls(
            max_turns=32,
            max_characters=6_000,
            max_references=8,
            latest_reference_wins=True,
            late_words=True,
        )


@dataclass(frozen=True)
class Turn:
    """One turn: its number since the start, who spoke, when it began, its text as it came."""

    index: int
    role: Role
    started_frame: int
    text: str = ""


@dataclass(frozen=True)
class ReferenceNote:
    """A reference that was found for the question ending with turn `after_turn`."""

    after_turn: int
    text: str


@dataclass
class TranscriptState:
    """All that a transcript remembers."""

    turns: list[Turn] = field(default_factory=list)
    references: list[ReferenceNote] = field(default_factory=list)
    next_index: int = 0
    characters: int = 0
    trimmed: int = 0


class Transcript:
    """Turns and references in order; see `ContextRules` for its bounds."""

    def __init__(self, rules: ContextRules, state: TranscriptState | None = None) -> None:
        self.rules = rules
        self.state = state or TranscriptState()

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The turns that are still remembered, oldest first."""
        return tuple(self.state.turns)

    @property
    def trimmed(self) -> int:
        """How often the bound on turns or characters has taken something away."""
        return self.state.trimmed

    def open_turn(self, role: Role, frame: int) -> int:
        """Begin a turn and return its number; the speaker must have changed."""
        state = self.state
        if state.turns and state.turns[-1].role is role:
            raise IllegalMove(f"the {role.value} already has the floor")
        turn = Turn(state.next_index, role, frame)
        state.turns.append(turn)
        state.next_index += 1
        self._trim()
        return turn.index

    def append(self, role: Role, text: str) -> None:
        """Add text to the current turn, which must be that speaker's."""
        state = self.state
        if not state.turns or state.turns[-1].role is not role:
            raise IllegalMove(f"the {role.value} does not have the floor")
        text = text.replace(STRAY_MARK, "")
        last = state.turns[-1]
        state.turns[-1] = replace(last, text=last.text + text)
        state.characters += len(text)
        self._trim()

    def note_reference(self, after_turn: int, text: str) -> None:
        """Remember a reference, to be replayed behind its turn in later prompts."""
        state = self.state
        rules = self.rules
        if after_turn < 0 or not text or not rules.replay_references:
            return
        if state.turns and after_turn < state.turns[0].index:
            return
        notes = state.references
        if rules.latest_reference_wins and notes and notes[-1].after_turn == after_turn:
            state.characters -= len(notes.pop().text)
        notes.append(ReferenceNote(after_turn, text))
        state.characters += len(text)
        while len(notes) > rules.max_references:
            state.characters -= len(notes.pop(0).text)
        self._trim()

    def context_string(self) -> str:
        """Return the running context in its published form, one line per turn."""
        return "\n".join(PREFIX[turn.role] + turn.text for turn in self.state.turns)

    def context(self, late_words: str = "") -> LookupContext:
        """Return what a back end gets now; `late_words` complete the user's last turn."""
        turns = list(self.state.turns)
        if turns and turns[-1].role is Role.MODEL:
            turns.pop()
        if late_words and self.rules.late_words:
            if turns:
                turns[-1] = replace(turns[-1], text=turns[-1].text + late_words)
            else:
                turns.append(Turn(self.state.next_index, Role.USER, 0, late_words))
        if turns and turns[0].role is Role.MODEL:
            turns.pop(0)
        cleaned = tuple(ContextTurn(turn.role, spoken_line(turn.text)) for turn in turns)
        references = self._references(turns)
        return LookupContext(
            turns=cleaned,
            references=references,
            prompt=published_prompt(cleaned, references),
            last_turn=turns[-1].index if turns else -1,
        )

    def _references(self, turns: list[Turn]) -> tuple[ContextReference, ...]:
        """Return the notes to replay: in order, one per turn, each behind its own turn."""
        found: list[ContextReference] = []
        notes = iter(self.state.references)
        note = next(notes, None)
        for number, turn in enumerate(turns, 1):
            if note is not None and note.after_turn == turn.index:
                found.append(ContextReference(number, note.text))
                note = next(notes, None)
        return tuple(found)

    def _trim(self) -> None:
        state, rules = self.state, self.rules
        while len(state.turns) > rules.max_turns or state.characters > rules.max_characters:
            state.trimmed += 1
            if len(state.turns) > 1:
                gone = state.turns.pop(0)
                state.characters -= len(gone.text)
                while state.references and state.references[0].after_turn <= gone.index:
                    state.characters -= len(state.references.pop(0).text)
            elif state.references:
                state.characters -= len(state.references.pop(0).text)
            else:
                only = state.turns[0]
                kept = only.text[-rules.max_characters :]
                state.characters -= len(only.text) - len(kept)
                state.turns[0] = replace(only, text=kept)


def published_prompt(
    turns: Sequence[ContextTurn], references: Sequence[ContextReference] = ()
) -> str:
    """Return the published context text: turns, references behind theirs, and the cue."""
    behind = {reference.after: reference.text for reference in references}
    lines: list[str] = []
    for number, turn in enumerate(turns, 1):
        label = PROMPT_LABEL[turn.role]
        lines.append(f"{label}: {turn.text}\n" if turn.text else f"{label}:\n")
        if number in behind:
            lines.append(f"{PROMPT_CUE} {behind[number]}\n")
    return "".join(lines) + PROMPT_CUE


def spoken_line(text: str) -> str:
    """Return text as one line: characters that can not be printed removed, ends stripped."""
    return "".join(character for character in text if character.isprintable()).strip()
