"""The published chat protocol of Moshi and MoshiRAG, and what our own clients add to it.

Reading order: `wire` (messages), `query` (what a URL may ask), `audio` (payloads), `render` (events
as messages), `door` (all together), `route`.
"""
