"""Which connections have left their interval, without looking at most intervals.

A step moves u = A / |c| by little, and thresholds are far: of every GROUP connections the slack is kept, less
than the distance of any u to the nearest end of its interval. Each step takes the largest movement of the
group from it. While something is left none has flipped, and lower and upper need not be read: two fifths of
what a step reads. Slack is rounded down, so it is on the safe side; it is worth nothing (-1) after a flip, or
when latents or intervals were touched by anybody else.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from slotkit.latent.cpu_plan import BLOCK, GROUP, GROUPS, array_at, bare

# Connections looked at together where there is no slack: what a few vectors hold.
LOOK = 64

# More than the rounding of what they are multiplied with, in float32, and than that of the product.
MORE, LESS = 1 + 2.0**-20, 1 - 2.0**-20


# A thread works in memory of WAYS_WORDS words of 8 bytes, which is handed on as an address (an array is seven
# arguments). There, of the latents' dtype, for the connections of a block `moved`, by how much every u moved,
# and `left`, how far it is from the end of its interval; for groups `far`, the largest movement, and `least`,
# what is left; `used`, the groups without slack; `waiting`, the connections that have left their interval;
# `quarter`, on the way to one number a group.
MOVED, LEFT, QUARTER, FAR, LEAST, USED, WAITING, WAYS_WORDS = np.cumsum(
    [0, BLOCK, BLOCK, BLOCK // 4, GROUPS, GROUPS, GROUPS, BLOCK + 1]
).tolist()


@bare
def some_outside(position: Any, lower: Any, upper: Any, scale: Any) -> Any:
    """Whether some u = position * scale is not in [lower, upper], or not a number."""
    outside = np.int32(0)
    for i in range(len(position)):
        u = position[i] * scale
        outside = max(outside, np.int32(not ((u >= lower[i]) & (u <= upper[i]))))
    return outside


@bare
def find_some(
    position: Any, lower: Any, upper: Any, scale: Any, start: Any, end: Any, waiting: Any, n: Any
) -> Any:
    """Append those of start ... end - 1 that are not inside to `waiting`, which has n. Returns the new n."""
    for place in range(start, end):
        i = np.uint32(place)
        u = position[i] * scale
        if not (u >= lower[i] and u <= upper[i]):
            waiting[n] = i
            n += np.uint32(1)
    return n


@bare
def find_all(position: Any, lower: Any, upper: Any, scale: Any, waiting: Any) -> Any:
    """Write the connections of a block that have left their interval to `waiting`; how many."""
    n = np.uint32(0)
    for start in range(0, len(position), LOOK):
        end = min(start + LOOK, len(position))
        if some_outside(position[start:end], lower[start:end], upper[start:end], scale):
            n = find_some(position, lower, upper, scale, start, end, waiting, n)
    return n


@bare
def distances(position: Any, lower: Any, upper: Any, left: Any, scale: Any, count: Any) -> None:
    """How far every u is from the nearer end of its interval, negative outside: of as many connections, whose
    numbers are at these addresses.
    """
    u, low = array_at(position, scale, count), array_at(lower, scale, count)
    high, found = array_at(upper, scale, count), array_at(left, scale, count)
    nothing = found.dtype.type(0)
    for i in range(count):
        value = u[i] * scale
        # -0.0 would count as outside.
        found[i] = min(value - low[i], high[i] - value) + nothing


# Vectors have the maximum of integers only. The bits of floats from 0 up have the same order; the least is
# negative if one of them is, whatever the order of those.


@bare
def quarter_to_largest(bits: Any, found: Any, n: Any) -> None:
    """Of every four numbers the largest, n in all: in steps of four, vectors do it."""
    for i in range(n):
        one, other = max(bits[4 * i], bits[4 * i + 1]), max(bits[4 * i + 2], bits[4 * i + 3])
        found[i] = max(one, other)


@bare
def quarter_to_least(bits: Any, found: Any, n: Any) -> None:
    for i in range(n):
        one, other = min(bits[4 * i], bits[4 * i + 1]), min(bits[4 * i + 2], bits[4 * i + 3])
        found[i] = min(one, other)


@bare
def use_slack(slack: Any, groups: Any, ways: Any, infinity: Any) -> Any:
    """Take the movements of a block from the slack of its groups; write those that have none left to
    `used`, how many. `infinity` has the bits of infinity.
    """
    kind, n = slack.dtype, np.uint32(0)
    moved = array_at(ways + 8 * MOVED, infinity, BLOCK)
    quarter = array_at(ways + 8 * QUARTER, infinity, BLOCK // 4)
    quarter_to_largest(moved, quarter, groups * 4)
    quarter_to_largest(quarter, array_at(ways + 8 * FAR, infinity, GROUPS), groups)
    far, used = array_at(ways + 8 * FAR, kind.type(0), GROUPS), array_at(ways + 8 * USED, n, GROUPS + 1)
    for g in range(groups):
        slack[g] = (slack[g] - far[g] * kind.type(MORE)) * kind.type(LESS)
    for g in range(groups):
        used[n] = g
        n += np.uint32(not slack[g] >= 0)
    return n


@bare
def measure(
    position: Any, lower: Any, upper: Any, scale: Any, n: Any, group_size: Any, ways: Any, infinity: Any
) -> None:
    """Write `left` of the first n groups in `used`, one after the other, and `least`. The first three are
    addresses.

    `group_size` is GROUP, as a number that the compiler doesn't know: it makes vectors of loops only.
    """
    used, left = array_at(ways + 8 * USED, np.uint32(0), GROUPS), array_at(ways + 8 * LEFT, infinity, BLOCK)
    for m in range(n):
        skipped = np.int64(used[m]) * GROUP * left.itemsize
        room = ways + 8 * LEFT + m * GROUP * left.itemsize
        distances(position + skipped, lower + skipped, upper + skipped, room, scale, group_size)
    quarter = array_at(ways + 8 * QUARTER, infinity, BLOCK // 4)
    quarter_to_least(left, quarter, n * 4)
    quarter_to_least(quarter, array_at(ways + 8 * LEAST, infinity, GROUPS), n)


@bare
def find_moved(
    position: Any, lower: Any, upper: Any, scale: Any, slack: Any, infinity: Any, group_size: Any, ways: Any
) -> Any:
    """`find_all`, for a block whose movements are in `moved`, where the slack (GROUPS,) is used up."""
    kind, groups, n = slack.dtype, len(position) // GROUP, np.uint32(0)
    waiting = array_at(ways + 8 * WAITING, n, BLOCK + 1)
    without = np.int64(use_slack(slack, groups, ways, infinity))
    if without:
        at, low, high = position.ctypes.data, lower.ctypes.data, upper.ctypes.data
        measure(at, low, high, scale, without, group_size, ways, infinity)
    used, far = array_at(ways + 8 * USED, n, GROUPS), array_at(ways + 8 * FAR, infinity, GROUPS)
    left = array_at(ways + 8 * LEFT, infinity, BLOCK)
    least = array_at(ways + 8 * LEAST, infinity, GROUPS)
    distance = array_at(ways + 8 * LEAST, kind.type(0), GROUPS)
    for m in range(without):
        g = used[m]
        if far[g] >= infinity:
            # With a movement that is a number, so are u and the distances; this is not one.
            start = np.int64(g) * GROUP
            n = find_some(position, lower, upper, scale, start, start + GROUP, waiting, n)
            slack[g] = kind.type(-1)
        elif least[m] >= 0:
            slack[g] = distance[m] * kind.type(LESS)
        else:
            for i in range(GROUP):
                waiting[n] = g * GROUP + i
                n += np.uint32(left[m * GROUP + i] < 0)
            slack[g] = kind.type(-1)
    # The last connections of a tensor may be less than a group.
    return find_some(position, lower, upper, scale, groups * GROUP, len(position), waiting, n)
