"""How long a process keeps memory that it has freed.

A step of training frees tensors that the next step allocates again. The C library of Linux (glibc) gives
large pieces of freed memory back to the system, and the system hands them out again page by page, filled with
zeros. Where activations are large, as in a network of convolutions, that is a fifth of a step;
`keep_freed_memory` ends it. docs/shared-machine.md has the figures. Nothing here imports torch.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

# What mallopt sets, by glibc's malloc.h: how much freed memory at the end of the heap is kept, and how many
# pieces may lie outside the heap, which are given back as soon as they are freed.
TRIM_THRESHOLD, MMAP_MAX = -1, -4
NEVER, NONE = -1, 0

# Whoever has set one of these has decided how memory is kept, or has another allocator.
POLICIES = (
    "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_MMAP_MAX_",
    "MALLOC_TOP_PAD_",
    "GLIBC_TUNABLES",
    "LD_PRELOAD",
)


def is_decided(environment: Mapping[str, str]) -> bool:
    """Whether somebody has said how memory is kept."""
    return any(name in environment for name in POLICIES)


def keep_freed_memory(environment: Mapping[str, str]) -> bool:
    """Let this process keep what it frees, for what it allocates next, unless that is decided.

    It changes no result, only times and the memory in use, which stays near its highest.
    Processes that are forked keep memory likewise, others have to call this themselves.

    Args:
        environment: os.environ.

    Returns:
        Whether this function has done so. It can't where the C library isn't glibc (macOS, Windows, musl).
    """
    if is_decided(environment):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
        ctypes.CDLL(None).gnu_get_libc_version  # noqa: B018 -- only glibc has it
    except (AttributeError, TypeError, OSError):
        return False
    return bool(mallopt(TRIM_THRESHOLD, NEVER) and mallopt(MMAP_MAX, NONE))
