"""Running models frame by frame: many conversations, one clock."""

from duologue.engine.duplex import Duplex, DuplexOutput, DuplexState, MismatchError
from duologue.engine.offline import Reply, converse

__all__ = ["Duplex", "DuplexOutput", "DuplexState", "MismatchError", "Reply", "converse"]
