"""Recognition by a service: two wire protocols under one connection that comes back.

wire.py       what a protocol must say and understand, without sockets
gradium.py    Gradium's JSON protocol
kyutai.py     moshi-server's MessagePack protocol
timeline.py   whose time is whose: frames waiting, and the service's clock
stream.py     the connection of one conversation: sending, reconnecting, results
settings.py   which service, from settings or the published environment variables
"""
