"""The options of a reel that can ever be selected, kept for the reels that flipped last.

At a flip the K options of a connection are made anew, to choose among them and to find the two that come
next. Few of them matter: selections are the corners of the upper convex hull of the points (W, S), about
(4/3) ln K + 0.845 of K (docs/analyses.md), 10 of 1024; and a reel that flips once soon flips again. Here
those few are kept, in a table of fixed size: it is a cache, another flip may take the place.

What is kept is a superset: all options that could have the highest score in floating point, so that
choosing among them is choosing among all. It is used while c > LEAST_C and |A| W <= MOST c S, W and S being
bounds of the tensor: then no score c * S_k + A * W_k, in float64, is wrong by more than MARGIN c S / 3. An
option is left out (a) if one with a larger W and one with a smaller W have larger scores: one of the two is
above it by at least the difference of two float32 scores, 2^-24 S; (b) if it is below the line between two
others by more than MARGIN S. Neither is ever above the selected option, nor the next to cross it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from slotkit.latent.cpu_plan import WIDTH, compiled, inlined

MARGIN = 1e-9

# c S and A W are then far from where float64 ends, and rounding, 3 * 2^-53 (1 + MOST) c S, from MARGIN.
LEAST_C, MOST = 1e-200, 1e6

# Counts of an entry without options: its reel flipped once, and: more are reachable than fit.
NOT_YET, TOO_MANY = 0, -1

# Options looked at together: what a few vectors hold. Steps of W and S in which depth is counted.
GROUP, FINE = 64, 1 << 20


@inlined
def _depth(w: Any, s: Any, per_w: Any, per_s: Any) -> Any:
    """How far an option is in the corner of high W and high S: integers have their maximum in vectors."""
    return min(np.int32(w * per_w), np.int32(s * per_s) - np.int32(FINE))


@compiled
def _deepest(w: Any, s: Any, per_w: Any, per_s: Any) -> Any:
    deepest = np.int32(-FINE)
    for j in range(len(w)):
        deepest = max(deepest, _depth(w[j], s[j], per_w, per_s))
    return deepest


@compiled
def _outpost(w: Any, s: Any, k: Any, per_w: Any, per_s: Any) -> Any:
    """The option deepest in the corner of high S and of high W, or low W if `per_w` is negative.

    Which one it is decides how fast others are left out, not which.
    """
    found, best = 0, np.int32(-FINE)
    for start in range(0, k, GROUP):
        end = min(start + GROUP, k)
        if _deepest(w[start:end], s[start:end], per_w, per_s) > best:
            for j in range(start, end):
                if _depth(w[j], s[j], per_w, per_s) > best:
                    found, best = j, _depth(w[j], s[j], per_w, per_s)
    return found


@compiled
def _not_below_both(left: Any, right: Any, w: Any, s: Any, k: Any, order: Any) -> Any:
    """Rule (a): write the options that are not below both to `order`; how many."""
    w_left, s_left, w_right, s_right = w[left], s[left], w[right], s[right]
    n = 0
    for j in range(k):
        below = (w[j] < w_right) & (s[j] < s_right) & (w[j] > w_left) & (s[j] < s_left)
        order[n] = j
        n += 0 if below else 1
    return n


@compiled
def _below_line(first: Any, middle: Any, last: Any, w: Any, s: Any, largest_s: Any) -> Any:
    """Rule (b) for `middle` and the line from `first` to `last`."""
    w_1, w_m, w_2 = np.float64(w[first]), np.float64(w[middle]), np.float64(w[last])
    s_1, s_m, s_2 = np.float64(s[first]), np.float64(s[middle]), np.float64(s[last])
    below = s_1 * (w_2 - w_m) + s_2 * (w_m - w_1) - s_m * (w_2 - w_1)
    return w_1 < w_m < w_2 and below > MARGIN * largest_s * (w_2 - w_1)


@compiled
def _thin(left: Any, right: Any, order: Any, n: Any, w: Any, s: Any, largest_s: Any) -> Any:
    """Rule (b) with five options only: both ends, the top and the outposts; how many of order[:n] are left.

    It saves sorting the many.
    """
    lowest, top, highest = order[0], order[0], order[0]
    for a in range(n):
        j = order[a]
        lowest = j if w[j] < w[lowest] else lowest
        highest = j if w[j] > w[highest] else highest
        top = j if s[j] > s[top] else top
    kept = 0
    for a in range(n):
        j = order[a]
        if w[j] < w[left]:
            first, last = lowest, left
        elif w[j] < w[top]:
            first, last = left, top
        elif w[j] < w[right]:
            first, last = top, right
        else:
            first, last = right, highest
        order[kept] = j
        kept += 0 if _below_line(first, j, last, w, s, largest_s) else 1
    return kept


@compiled
def _sort(order: Any, n: Any, keys: Any) -> None:
    """Sort order[:n], and keys[:n] with it, by the keys, rising (insertion: n is a dozen or two)."""
    for a in range(1, n):
        j, key, at = order[a], keys[a], a
        while at > 0 and keys[at - 1] > key:
            order[at], keys[at] = order[at - 1], keys[at - 1]
            at -= 1
        order[at], keys[at] = j, key


@compiled
def _hull(order: Any, n: Any, w: Any, s: Any, largest_s: Any) -> Any:
    """Rule (b) among order[:n], sorted by W: move what is left to the front; how many."""
    kept = 0
    for a in range(n):
        j = order[a]
        while kept >= 2 and _below_line(order[kept - 2], order[kept - 1], j, w, s, largest_s):
            kept -= 1
        order[kept] = j
        kept += 1
    return kept


@compiled
def find(number: Any, pair: Any) -> Any:
    """Which entry of a pair is that connection's, and whether it is; if not, the one to put it in.

    The one that was used last stays.
    """
    way = np.int32(pair[1].number == number)
    known = pair[way].number == number
    if not known:
        way = np.int32(1) - pair[0].used
    pair[0].used = way
    return way, known


@compiled
def keep(plan: Any, w: Any, s: Any, order: Any, entry: Any) -> None:
    """Put the reachable options of a connection, whose rows w and s are, into its entry.

    `order` is room for K integers.
    """
    k, largest_w, largest_s = plan.k, plan.largest_option, plan.largest_score
    per_w, per_s = np.float32(FINE / largest_w), np.float32(2 * FINE / largest_s)
    left, right = _outpost(w, s, k, -per_w, per_s), _outpost(w, s, k, per_w, per_s)
    n = _not_below_both(left, right, w, s, k, order)
    n = _thin(left, right, order, n, w, s, largest_s)
    keys = np.empty(n, np.float64)
    for a in range(n):
        keys[a] = w[order[a]]
    _sort(order, n, keys)
    n = _hull(order, n, w, s, largest_s)
    entry.count = n if n <= WIDTH else TOO_MANY
    # By index: of equal scores the lowest index is selected.
    for a in range(n):
        keys[a] = order[a]
    _sort(order, n, keys)
    for a in range(entry.count):
        entry.option[a], entry.w[a], entry.s[a] = order[a], w[order[a]], s[order[a]]
