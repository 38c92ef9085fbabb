"""The server: sockets and HTTP around one engine.

Reading order: `settings`, `serve` (start to stop), `assembly` (what is opened), `app` and `routes`,
`access` and `limits` (who and how much), `lobby` and `visit` (a conversation's way through),
`protocols` (the doors). Nothing here touches a tensor.
"""
