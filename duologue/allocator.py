"""Asks the C library to keep freed memory, so that large tensors do not fault in page by page.

glibc gives blocks above a threshold back to the system when they are freed, and the next tensor of
that size is zeroed by the kernel again. Encoding a recording spends more than half of its time
there. A process that runs models is better off keeping what it once needed.
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_NEVER = 2**31 - 1
_GROWTH = 256 * 2**20


def keep_freed_memory() -> bool:
    """Set this up for the whole process; False where the C library is not glibc."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _NEVER), (_M_TOP_PAD, _GROWTH))
    return all(mallopt(name, value) == 1 for name, value in settings)
