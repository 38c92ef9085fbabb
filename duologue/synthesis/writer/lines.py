"""Single lines of wren's world, for the speech corpus and for training recognisers."""

from __future__ import annotations

from duologue.synthesis.draw import Draw
from duologue.synthesis.splits import Split
from duologue.synthesis.writer import facts
from duologue.synthesis.writer.personal import PersonalQuestion, ask_personal
from duologue.synthesis.writer.tools import ToolQuestion, ask_tool


def world_line(draw: Draw, split: Split, *, replies: float = 0.5) -> str:
    """A sentence that wren answers with, in a share of the cases; else a question of a user's."""
    topic = draw.weighted({"fact": 0.55, "personal": 0.25, "tool": 0.2})
    if topic == "personal":
        asked: PersonalQuestion | ToolQuestion | facts.FactQuestion = ask_personal(draw, split)
    elif topic == "tool":
        asked = ask_tool(draw, split)
    else:
        novelty = facts.draw_novelty(draw, split)
        subject = facts.draw_subject(draw, split, novelty)
        relation = draw.choice(facts.possible_relations(subject, split, novelty))
        asked = facts.ask(draw, split, subject, relation, novelty)
    return asked.reference if draw.chance(replies) else asked.phrase.text
