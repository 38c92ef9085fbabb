"""Latency simulated in model time, for offline runs.

Offline, the model waits while a lookup runs, so that results do not depend on the machine. The
time the lookup took is measured, turned into whole frames, and its result counts only that many
frames after it was asked for (MoshiRAG reference, offline inference). Replies wait here until
their frame has come.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from duologue.dialogue.ports import Reply

MAX_HELD_REPLIES = 256
"""Beyond this, further replies are dropped; their lookups then end at their deadlines."""


@dataclass(frozen=True)
class HeldReply:
    """A reply and the frame at which it counts; `order` keeps replies of one frame in order."""

    due_frame: int
    order: int
    reply: Reply


@dataclass
class HeldReplies:
    """Replies that have come but do not count yet."""

    held: list[HeldReply] = field(default_factory=list)
    next_order: int = 0

    def hold(self, reply: Reply, due_frame: int, is_awaited: Callable[[Reply], bool]) -> bool:
        """Keep a reply until its frame; False when there is no room even without stale ones."""
        if len(self.held) >= MAX_HELD_REPLIES:
            self.held = [held for held in self.held if is_awaited(held.reply)]
        if len(self.held) >= MAX_HELD_REPLIES:
            return False
        self.held.append(HeldReply(due_frame, self.next_order, reply))
        self.next_order += 1
        return True

    def take_due(self, frame: int) -> list[Reply]:
        """Remove and return the replies that count at `frame`, in the order they became due."""
        due = [held for held in self.held if held.due_frame <= frame]
        if due:
            self.held = [held for held in self.held if held.due_frame > frame]
            due.sort(key=lambda held: (held.due_frame, held.order))
        return [held.reply for held in due]
