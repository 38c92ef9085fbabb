"""Documents in, cited answers out: an index that survives misheard words.

Reading order: `readers` (files -> blocks), `passages`, `analysis` and `phonetics` (text -> terms),
`segment` (terms -> postings), `search`, `store` (what is on disk), `base` (the knowledge base),
`answer` (passages -> something to say), `retriever`.
"""

from duologue.retrieval.knowledge.base import (
    AddReport,
    Hit,
    KnowledgeBase,
    KnowledgeBaseError,
    Progress,
)
from duologue.retrieval.knowledge.embedding import Embedder, StaticEmbedder
from duologue.retrieval.knowledge.readers import UnreadableFile
from duologue.retrieval.knowledge.retriever import KnowledgeRetriever, KnowledgeTool
from duologue.retrieval.knowledge.segment import Document, IndexCorrupt
from duologue.retrieval.knowledge.store import IndexBusy

__all__ = [
    "AddReport",
    "Document",
    "Embedder",
    "Hit",
    "IndexBusy",
    "IndexCorrupt",
    "KnowledgeBase",
    "KnowledgeBaseError",
    "KnowledgeRetriever",
    "KnowledgeTool",
    "Progress",
    "StaticEmbedder",
    "UnreadableFile",
]
