"""Running models frame by frame: many conversations, one clock.

Reading order: `duplex` (encode, model, decode on explicit state), `slots` (one batched step for
many conversations), `packing` (a slot as bytes), `timing` (how long steps take, who is admitted),
`api` (settings and figures). Conversations as a whole are in `duologue.session`.
"""

from duologue.engine.duplex import Duplex, DuplexOutput, DuplexState, MismatchError
from duologue.engine.model import LoadedModel, load_model
from duologue.engine.offline import Reply, converse
from duologue.engine.slots import SlotBank, SlotFrame, SlotSetup

__all__ = [
    "Duplex",
    "DuplexOutput",
    "DuplexState",
    "LoadedModel",
    "MismatchError",
    "Reply",
    "SlotBank",
    "SlotFrame",
    "SlotSetup",
    "converse",
    "load_model",
]
