"""The terminal's picture of a conversation. Pure: what is known goes in, what to draw comes out.

Widest text first: the script has the room, newest turn at the bottom; lookups stand at the side, or
below it in a narrow terminal. Nothing a server says is taken for markup.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rich.console import Group, RenderableType
from rich.layout import Layout
from rich.panel import Panel
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from duologue.client.chronicle import (
    Chronicle,
    Lookup,
    LookupState,
    Turn,
    clock,
    lookup_lines,
)
from duologue.client.levels import SILENCE_DB
from duologue.dialogue import Role

METER_FLOOR_DB = -60.0
METER_WIDTH = 24
NARROW = 90
SHOWN_TURNS, SHOWN_LOOKUPS = 40, 12
COLOURS = {Role.USER: "cyan", Role.MODEL: "magenta"}
STATE_MARKS = {
    LookupState.OPEN: ("…", "yellow"),
    LookupState.ANSWERED: ("✓", "green"),
    LookupState.FAILED: ("✗", "red"),
    LookupState.CANCELLED: ("-", "dim"),
}
KEYS = "m mute   i interrupt   r reset   q quit      Headphones: the model hears itself otherwise."


@dataclass
class View:
    """Everything that is shown."""

    server: str
    model: str = "model"
    chronicle: Chronicle = field(default_factory=Chronicle)
    user_db: float = SILENCE_DB
    elapsed_s: float = 0.0
    muted: bool = False
    holding: bool = False
    notice: str = ""
    """What the person should know now: connecting, lost, resumed."""


def draw(view: View, width: int, height: int) -> RenderableType:
    """The whole screen."""
    lookups = list(view.chronicle.lookups.values())[-SHOWN_LOOKUPS:]
    script = Panel(_Bottom(script_text(view)), title="script", title_align="left")
    side = Panel(
        Group(*(lookup_text(lookup) for lookup in reversed(lookups))),
        title="looked up", title_align="left",
    )  # fmt: skip
    layout = Layout()
    middle = Layout(name="middle")
    if not lookups:
        middle.update(script)
    elif width >= NARROW:
        middle.split_row(Layout(script, ratio=3), Layout(side, ratio=2))
    else:
        middle.split_column(Layout(script, ratio=2), Layout(side, ratio=1))
    layout.split_column(
        Layout(header(view), size=3), middle, Layout(Text(KEYS, style="dim"), size=1)
    )
    return layout


def header(view: View) -> RenderableType:
    """Who talks to whom, for how long, how loud, and how well."""
    table = Table.grid(padding=(0, 2))
    you = Text("you  ", COLOURS[Role.USER]) + meter(view.user_db, COLOURS[Role.USER])
    if view.muted:
        you = Text("you   muted", "bold red")
    model_db = SILENCE_DB if view.holding else view.chronicle.model_db
    model = Text(f"{view.model[:12]}  ", COLOURS[Role.MODEL]) + meter(model_db, COLOURS[Role.MODEL])
    table.add_row(you, model)
    title = Text.assemble(
        ("Duologue", "bold"), f"  {view.server}  {clock(view.elapsed_s)}  ", (view.notice, "yellow")
    )
    return Group(title, table, Text(_figures(view), "dim"))


def meter(db: float, colour: str = "") -> Text:
    """A level from -60 dB to full scale as a bar."""
    share = min(1.0, max(0.0, 1 - db / METER_FLOOR_DB))
    filled = round(share * METER_WIDTH)
    return Text("█" * filled, colour) + Text("·" * (METER_WIDTH - filled), "dim")


def script_text(view: View) -> Text:
    """The turns, one paragraph each."""
    text = Text()
    turns = [turn for turn in view.chronicle.turns if turn.text.strip()]
    for turn in turns[-SHOWN_TURNS:]:
        text.append_text(turn_text(turn, view.model)).append("\n")
    return text


def turn_text(turn: Turn, model: str) -> Text:
    """When, who, what."""
    name = "you" if turn.role is Role.USER else model
    return Text.assemble(
        (f"{clock(turn.start_s):>5}  ", "dim"), (f"{name}  ", COLOURS[turn.role]), turn.shown
    )


def lookup_text(lookup: Lookup) -> Text:
    """Its state and answer; under it, where that comes from."""
    mark, colour = STATE_MARKS[lookup.state]
    first, *places = lookup_lines(lookup)
    text = Text.assemble((f"{clock(lookup.start_s):>5} ", "dim"), (f"{mark} ", colour), first)
    for place in places:
        text.append(f"\n        {place}", "dim")
    return text


def _figures(view: View) -> str:
    stats, words = view.chronicle.stats, []
    if stats.frame_ms_p99 is not None:
        words.append(f"frame {stats.frame_ms_p99:.0f} ms (p99)")
    if stats.sessions is not None and stats.slots is not None:
        words.append(f"{stats.sessions:g} of {stats.slots:g} places taken")
    if stats.dropped_ms:
        words.append(f"the server lost {stats.dropped_ms:.0f} ms of you")
    if view.chronicle.resumed:
        words.append(f"resumed {view.chronicle.resumed} times")
    return "   ".join(words)


class _Bottom:
    """The last lines of a text that fit: rich would show the first."""

    def __init__(self, text: Text) -> None:
        self._text = text

    def __rich_console__(self, console, options):  # type: ignore[no-untyped-def]
        lines = console.render_lines(self._text, options.update(height=None), pad=False)
        while lines and not "".join(segment.text for segment in lines[-1]).strip():
            lines.pop()
        for line in lines[-(options.height or len(lines)) :]:
            yield from line
            yield Segment.line()
