"""Everything that is said around the facts: greetings, leads, fillers, small talk, refusals."""

from __future__ import annotations

from duologue.synthesis.draw import Draw
from duologue.synthesis.grammar import expand
from duologue.synthesis.splits import Split
from duologue.synthesis.wordlist import listed
from duologue.synthesis.writer import words
from duologue.synthesis.writer.sentences import free_sentence

# What wren says. Few wordings each: a small model says a few things well.
GREETINGS = (
    "Hello, I am wren. What would you like to know?",
    "Hi, this is wren. How can I help you?",
    "Hello there. Ask me something.",
    "Hi, I am wren. What can I do for you?",
    "Hello. What would you like to know?",
)
LEADS = (
    "Let me see.",
    "Let me check.",
    "One moment.",
    "Just a moment.",
    "Let me look that up.",
    "Okay, let me see.",
    "Good question, let me check.",
    "Sure, one moment.",
    "I will have a look.",
    "Let me think.",
)
FILLERS = (
    "Still looking.",
    "Just a second.",
    "One more second.",
    "Almost there.",
    "Bear with me.",
)
UNKNOWN = (
    "Sorry, I don't know that one.",
    "I'm sorry, I don't know.",
    "Sorry, I could not find that.",
    "I'm afraid I don't know that.",
)
BACKCHANNELS = ("Uh-huh.", "I see.", "Right.", "Okay.")
DECLINES = (
    "Sorry, I can't do that. I can look things up for you.",
    "I'm sorry, that is beyond me. Ask me for a fact instead.",
    "I'm afraid I can't help with that.",
    "Sorry, I only look up facts.",
)
AFTER_STOP = ("Okay.", "All right.", "Sure.", "Okay, I'll stop.")
FAREWELLS = ("Goodbye.", "Bye. Talk to you soon.", "You're welcome. Goodbye.", "Bye, take care.")
THANKED = ("You're welcome.", "My pleasure.", "Happy to help.", "Any time.")
HEARD = (
    "That sounds good.",
    "That is interesting.",
    "Oh, I see.",
    "Thank you for telling me.",
    "That sounds like a busy day.",
)

# What users say.
USER_GREETINGS = (
    "Hello[, wren|, there].",
    "Hi[, wren|, there].",
    "Hey[, wren|, there].",
    "Good (morning|evening|afternoon)[, wren].",
    "Hello, is anybody there?",
    "Hi, can you hear me?",
)
USER_FAREWELLS = (
    "[Okay,] (goodbye|bye)[, wren].",
    "[Thanks,] that was all, (bye|goodbye).",
    "[Well,] I have to go now, (bye|goodbye).",
    "[Okay,] see you (later|tomorrow|soon).",
)
USER_THANKS = (
    "[Great,|Okay,] thank you[ very much|, wren].",
    "[Great,|Okay,] thanks[ a lot|, wren].",
    "Thanks, that helps.",
    "Perfect, thank you.",
)
SMALL_TALK: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (
        ("How are you [today]?", "How are you doing [today]?", "How is it going?", "Are you well?"),
        ("I'm fine, thank you.", "Very well, thank you.", "I'm doing well, thanks."),
    ),
    (
        ("Who are you?", "What is your name?", "What are you called?", "And you are?"),
        ("I am wren.", "My name is wren.", "I'm wren, a small voice."),
    ),
    (
        (
            "What can you do?",
            "What can I ask you?",
            "How can you help me?",
            "What are you good at?",
        ),
        (
            "I can look up facts for you.",
            "Ask me about countries, elements, or your own notes.",
            "I look things up and tell you what I find.",
        ),
    ),
    (
        ("Are you a (person|human)?", "Are you real?", "Are you a (robot|machine)?"),
        ("I am a small computer voice.", "No, I am a computer program."),
    ),
    (
        (
            "You are [really|very] (clever|helpful|nice).",
            "Well done[, wren].",
            "That was [very] quick.",
        ),
        ("Thank you.", "That is kind of you.", "Thanks, you are kind."),
    ),
    (
        ("Do you speak other languages?", "Can you speak another language?"),
        ("No, only English.", "I only speak English."),
    ),
    (
        ("Can you hear me [well]?", "Are you there?", "Hello, are you still there?"),
        ("Yes, I can hear you.", "Yes, I am here.", "I'm listening."),
    ),
    (
        (
            "I am (tired|bored|happy|a bit sad|in a hurry|hungry) [today].",
            "I feel (great|tired) today.",
        ),
        ("Oh, I see.", "Thank you for telling me."),
    ),
    (
        (
            "It is (raining|snowing|cold|hot|sunny|windy) [here|outside|today].",
            "What a (lovely|terrible) day.",
        ),
        ("Then stay well.", "Oh, I see.", "That sounds nice."),
    ),
)
STOCK = (
    GREETINGS, LEADS, FILLERS, UNKNOWN, BACKCHANNELS, DECLINES, AFTER_STOP, FAREWELLS, THANKED,
    HEARD, tuple(answer for _, answers in SMALL_TALK for answer in answers),
)  # fmt: skip
"""All that wren says without looking anything up, by sort."""
OFF_TOPIC = (
    "(Sing|Play) me a song[, please].",
    "Tell me a joke[, please].",
    "Can you book me a (table|flight|taxi|room)?",
    "Write me a (poem|letter|story) about a {animal}.",
    "Turn (on|off) the (lights|radio|heating)[, please].",
    "Call my {person}[, please].",
    "Send {name} a message.",
    "Order me a {food} (pie|cake|soup).",
    "Should I (marry {name}|buy a {animal}|leave my job)?",
    "Tell me a story about a {adjective} {animal}.",
    "Can you draw a {colour} {object}?",
    "Whom should I vote for?",
    "Set an alarm for tomorrow.",
    "Remind me to clean the {place}.",
    "Do you like {food}?",
    "Do you love me?",
    "Let us play a game.",
    "Make the {place} warmer[, please].",
    "Can you dance for me?",
    "Help me with my (homework|taxes|garden).",
    "Buy me a {adjective} {object}.",
    "Can you drive a car?",
    "Open the door to the {place}.",
    "Guess what I am thinking.",
    "Say something in French.",
    "Give me some money[, please].",
    "Can you cook {food} for me?",
    "Tell {name} that I am late.",
)
STOPS = (
    "[Okay,] stop.",
    "[Okay,] stop, (thank you|thanks).",
    "Wait, stop.",
    "Okay, that's enough[, thank you].",
    "Never mind.",
    "Hold on, that's enough.",
    "Quiet[, please].",
    "Forget it, thanks.",
)
INTERRUPTIONS = (
    "Wait,",
    "Hold on,",
    "Sorry,",
    "No no,",
    "Stop,",
    "Hang on,",
    "Actually,",
    "Oh wait,",
)
USER_BACKCHANNELS = ("Uh-huh.", "Aha.", "Oh.")
OPENERS = (
    "Hey,", "Okay,", "So,", "Hi wren,", "Wren,", "Well,", "Hey wren,", "Please,", "All right,",
    "Now,", "Tell me,", "Listen,", "One question,",
)  # fmt: skip
NEXT_OPENERS = (
    "And",
    "Okay, and",
    "Next question,",
    "Another one,",
    "Thanks, and",
    "Good, and",
    "Now,",
)
HESITATIONS = ("um", "uh", "er")
STORY_OPENERS = (
    "Let me tell you about my day.",
    "So, here is what happened.",
    "I have to tell you something.",
    "You won't believe this.",
    "I was thinking about something.",
    "Before I ask, a short story.",
)
_STORY_ENDINGS = (
    "Well, that was my day.",
    "That is the whole story.",
    "So that is that.",
    "Anyway.",
)


def user_greeting(draw: Draw) -> str:
    return expand(draw.choice(USER_GREETINGS), draw)


def off_topic(draw: Draw) -> str:
    """A request that wren declines: to do something, or to have an opinion."""
    return expand(
        draw.choice(OFF_TOPIC),
        draw,
        animal=draw.choice(words.ANIMALS),
        person=draw.choice(words.PEOPLE),
        name=draw.choice(words.FIRST_NAMES),
        food=draw.choice(words.FOODS),
        adjective=draw.choice(words.ADJECTIVES),
        colour=draw.choice(words.COLOURS),
        object=draw.choice(words.OBJECTS),
        place=draw.choice(words.PLACES),
    )


def small_talk(draw: Draw) -> tuple[str, str]:
    """What a user says, and wren's answer."""
    sayings, answers = draw.choice(SMALL_TALK)
    return expand(draw.choice(sayings), draw), draw.choice(answers)


def stock_phrase(draw: Draw) -> str:
    """What wren says around the facts, of any sort as likely as of another."""
    return draw.choice(draw.choice(STOCK))


def story(draw: Draw, split: Split, sentences: int) -> tuple[list[str], str]:
    """The sentences of something a user tells at length, and a last one that ends it."""
    told = [free_sentence(draw, split) for _ in range(sentences)]
    told = [sentence for sentence in told if not sentence.endswith("?")] or ["It was a long day."]
    return [draw.choice(STORY_OPENERS), *told], draw.choice(_STORY_ENDINGS)


def with_opener(draw: Draw, question: str, chance: float = 0.3, following: bool = False) -> str:
    """A question as people begin it: "Hey wren, what is ..."."""
    if not draw.chance(chance):
        return question
    opener = draw.choice(NEXT_OPENERS if following else OPENERS)
    return f"{opener} {lower_first(question)}"


def lower_first(text: str) -> str:
    """The text as it continues a sentence: names and "I" keep their capital."""
    first = text.split()[0].rstrip(",.?!")
    if first.split("'")[0] == "I" or first.lower() not in _SENTENCE_STARTERS:
        return text
    return text[0].lower() + text[1:]


_SENTENCE_STARTERS = frozenset(
    listed(
        """
    what what's which who whose where when how how's why can could would do does did tell
    name is are the in on if in if convert calculate please since my work turn show this
    that it there give one so now and or
    """
    )
)
