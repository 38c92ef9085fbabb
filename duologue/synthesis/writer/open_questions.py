"""Questions about anything: plain English grammar, filled with thousands of WordNet's words.

Users ask, and hardly one of WordNet's examples is a question. Those of wren's world come from a few
hundred templates, which a recogniser soon knows by heart. These make no sense, but anything may
follow anything in them. For training only, like all of WordNet.
"""

from __future__ import annotations

from functools import cache

from duologue.synthesis.draw import Draw
from duologue.synthesis.grammar import expand
from duologue.synthesis.writer.english import lemmas
from duologue.synthesis.writer.loose import a_name, usual_words
from duologue.synthesis.writer.sentences import plural

_OPENINGS = (
    "", "", "", "", "please ", "so ", "well, ", "now ", "and ", "but ", "listen, ", "excuse me, ",
    "by the way, ", "one more thing, ", "I wonder, ", "tell me, ", "sorry, ", "look, ", "oh, ",
    "okay, ", "just quickly, ", "maybe you know, ",
)  # fmt: skip

_ASKED = (
    "(what|who|where|when|why|how) (do|did|can|could|will|would|should|must|might) "
    "(I|you|we|they|{thing}|{things}) {verb} [{object}] [{place}]",
    "(which|whose|what|how many|in which|at what|with how many) {nouns} "
    "(do|did|can|could|will|would|should) (I|you|we|they|people|{things}) {verb} [{place}]",
    "(what|who) (is|was|are|were) {thing} [that (you|we|they|people) {verb}] [{place}]",
    "how {adjective} (is|was|are|were|will it be for|would it be for) {thing} [{place}]",
    "(what|which) (kind|type|colour|size|part|side|piece|half) of {noun} (is|was|has|had|needs) "
    "{thing}",
    "(is|was) {thing} [more] {adjective} (or|than|and|but not) {adjective2} [{place}]",
    "(is there|are there|was there|were there) (any|some|no|a lot of|enough|only|still) {nouns} "
    "{place}",
    "(does|did|can|could|would|will|may|might|should) {thing} {verb} [{object}] [{place}]",
    "(do|did|can|could|would|have) (I|you|we|they|people) (ever|really|still|all|often|just|) "
    "{verb} {object} [{place}]",
    "how (long|often|far|much|soon|fast|late|early) (do|did|can|must|will|would) {thing} {verb} "
    "[{object}]",
    "(since when|until when|from where|for whom|by whom|what for) (is|was|will|does|did) {thing} "
    "{verb} {place}",
    "(whether|when|where|why|how) {thing} (can|will|would|did|must) {verb} {object} is what I "
    "(want|need|ask|mean)",
    "(could|can|would|will) you (tell|show|give|read|bring|send|spell for|explain to) me "
    "(the {noun} of {thing}|{object}|what {things} {verb}|where {thing} is|why {things} {verb})",
    "I (want|need|would like|have|hope|was going|tried|forgot) to (know|hear|find out|see|ask) "
    "(what|where|when|why|how|if|whether) {thing} (does|did|can|will|would) {verb} {object}",
    "if (I|you|we|they|somebody) {verb} {object} {place}, (what|who|which {noun}|how much of it) "
    "(can|will|would|do) (I|you|we|they) {verb2}",
    "(give|read|show|find|get|name|list|say|count|describe|explain) [me] (all|some|both|each of|) "
    "(the {nouns}|{object}|{thing}|the {noun} and the {noun2}) [{place}]",
    "(when|before|after|while|unless|because) {things} {verb} {object}, {thing} (can|will|may) "
    "{verb2} {place}",
    "(suppose|imagine|say|let us say|assume) {thing} (is|was|were) {adjective}, (what|who|where) "
    "(would|could|should) {verb} {object}",
    "(my|your|our|their|his|her) {noun} (is|was|has|had|should be|must be) {adjective}, "
    "(is it not|what now|do you think so|who knows|how come|can you help)",
    "{thing} or {thing2}, which of (them|the two|these|those) (is|was|has|can|will) (the|more|most|"
    "less) {adjective}",
)  # fmt: skip

_THINGS = (
    "the {noun}", "a {noun}", "my {noun}", "this {noun}", "that {adjective} {noun}", "{name}",
    "the {noun} of {name}", "the {adjective} {noun}", "your {noun}", "each {noun}",
    "the {noun} {noun2}",
)  # fmt: skip
_MANY = ("{nouns}", "the {nouns}", "{adjective} {nouns}", "these {nouns}", "all {nouns}")
_OBJECTS = ("it", "them", "that", "something", "one", *_THINGS, *_MANY)
_PLACES = (
    "in", "on", "at", "of", "from", "with", "under", "near", "behind", "for", "without", "between",
    "through", "before", "after", "during", "against", "like", "beside", "across", "into",
    "instead of", "next to", "because of", "outside", "along",
)  # fmt: skip


def open_question(draw: Draw) -> str:
    """One question or request; needs the package `wordnet-base` and the extra `train`."""

    def thing(forms: tuple[str, ...] = _THINGS) -> str:
        return draw.choice(forms).format(
            noun=draw.choice(_known("noun")),
            noun2=draw.choice(_known("noun")),
            nouns=plural(draw.choice(_known("noun"))),
            adjective=draw.choice(_known("adj")),
            name=a_name(draw),
        )

    text = draw.choice(_OPENINGS) + draw.choice(_ASKED)
    asked = expand(
        text,
        draw,
        thing=thing(),
        thing2=thing(),
        things=thing(_MANY),
        object=thing(_OBJECTS),
        place=f"{draw.choice(_PLACES)} {thing()}",
        noun=draw.choice(_known("noun")),
        noun2=draw.choice(_known("noun")),
        nouns=plural(draw.choice(_known("noun"))),
        verb=draw.choice(_known("verb")),
        verb2=draw.choice(_known("verb")),
        adjective=draw.choice(_known("adj")),
        adjective2=draw.choice(_known("adj")),
    )
    return f"{asked}{draw.weighted({'?': 0.8, '.': 0.2})}"


@cache
def _known(part: str) -> tuple[str, ...]:
    """WordNet's nouns, verbs or adjectives that people use, the usual ones first."""
    wanted = lemmas(part)
    return tuple(word for word in usual_words() if word in wanted and len(word) > 2)
