"""`python -m duologue.runtime`: compile for this machine what wren needs, about a minute, once.

Without it the first start of any command does so. Installing does it ahead (see the Makefile).
"""

from __future__ import annotations

import time

import numpy as np


def main() -> None:
    """Load wren and hold a second of conversation."""
    begun = time.monotonic()
    import duologue

    print("compiling for this machine ...", flush=True)
    session = duologue.Moshi.from_pretrained("wren").create_session(seed=0)
    session.process(np.zeros(24_000, np.float32))
    print(f"ready after {time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
