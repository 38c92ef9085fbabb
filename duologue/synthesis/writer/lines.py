"""Single lines of wren's world, for the speech corpus and for training recognisers."""

from __future__ import annotations

from duologue.synthesis.draw import Draw
from duologue.synthesis.splits import Split
from duologue.synthesis.writer import facts
from duologue.synthesis.writer.personal import ask_personal
from duologue.synthesis.writer.tools import ask_tool


def world_line(draw: Draw, split: Split) -> str:
    """A question that a user asks or a sentence that wren answers with."""
    topic = draw.weighted({"fact": 0.55, "personal": 0.25, "tool": 0.2})
    if topic == "personal":
        personal = ask_personal(draw, split)
        return draw.choice((personal.phrase.text, personal.reference))
    if topic == "tool":
        tool = ask_tool(draw, split)
        return draw.choice((tool.phrase.text, tool.reference))
    novelty = facts.draw_novelty(draw, split)
    subject = facts.draw_subject(draw, split, novelty)
    relation = draw.choice(facts.possible_relations(subject, split, novelty))
    question = facts.ask(draw, split, subject, relation, novelty)
    return draw.choice((question.phrase.text, question.reference))
