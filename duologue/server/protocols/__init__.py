"""The protocols: each translates bytes into the engine's events and nothing more.

What all of them share lives one level up: who may come in (`access`), how many (`limits`), and the
life of one visit (`visit`). Model work never runs on the event loop: a protocol is a `door.Door`,
which hands on samples and renders what the session's events say.
"""
