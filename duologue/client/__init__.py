"""Talking to a server from Python: `connect`, a conversation, and what it yields.

    link.py          one websocket: address, TLS, token, refusals
    reading.py       a server's messages as events, published servers' too
    conversation.py  Conversation: send, iterate, resume
    chronicle.py     turns, barge-ins and lookups, out of events
    recording.py     a recording played into a conversation, and its reply
    playout.py       what stands between the network's clock and a sound card's
    devices.py       microphone and loudspeaker (extra `chat`)
    keys.py          single keys from a terminal, and the terminal back as it was
    screen.py        the terminal's picture
    terminal.py      all of these as `duologue chat`
    host.py          a server of one's own on a free port

Works with any server of the chat protocol: ours, with lookups, figures and resumption, and the
published ones of Moshi and MoshiRAG. Nothing here loads torch, `host` aside.
"""

from duologue.client.conversation import Conversation, connect
from duologue.client.errors import (
    ClientError,
    ConnectionFailed,
    ConnectionLost,
    ConversationOver,
    DeviceError,
    Refused,
    ServerFull,
    TlsFailed,
    Unauthorised,
    Unsupported,
)
from duologue.client.events import (
    FRAME_SAMPLES,
    SAMPLE_RATE,
    Event,
    Interrupted,
    Opened,
    Pcm,
    Resumed,
    Sound,
    Stats,
)

__all__ = [
    "FRAME_SAMPLES",
    "SAMPLE_RATE",
    "ClientError",
    "ConnectionFailed",
    "ConnectionLost",
    "Conversation",
    "ConversationOver",
    "DeviceError",
    "Event",
    "Interrupted",
    "Opened",
    "Pcm",
    "Refused",
    "Resumed",
    "ServerFull",
    "Sound",
    "Stats",
    "TlsFailed",
    "Unauthorised",
    "Unsupported",
    "connect",
]
