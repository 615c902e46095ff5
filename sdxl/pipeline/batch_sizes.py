"""How many images are generated at once: as many as memory has room for, and as many as the device gains from.

A GPU that waits for the launches of small kernels, or whose matrices are too small to fill it, makes several images in
little more time than one. A processor is busy with one image of full size: there a batch costs memory and gains
nothing. So the size is found by trial on the work itself, and no device is known by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ..errors import warn

MOST = 64  # images: more of them gain no device anything, and more is lost where a batch fails
_GAIN = 0.95  # twice as many images at once must take less than this share of the time of each
_SLOW = 10.0  # seconds of an image from which on a device is busy all the time, and no larger batch is tried
_TRIALS = 2  # calls of each size that are compared: the first one of a size also plans and warms up
_KINDS = 1000  # that are remembered: a service meets ever new ones


class BatchSizes:
    """The sizes of batches by the kind of their images: a text that is equal where they take the same time and memory.

    `size` is the most that is asked for; None finds the best one by trial: calls of one image, then of twice as many,
    as long as each image takes less time.
    """

    def __init__(self, size: int | None = None) -> None:
        self.size = size
        self._most: dict[str, int] = {}
        self._seconds: dict[str, dict[int, list[float]]] = {}  # the shortest ones of an image, by kind and size

    def limit(self, kind: str, fits: Callable[[int], int | None] = lambda most: most) -> int:
        """The size of the next batch of a kind. `fits` says how many images fit into memory, of at most so many, or
        None for images that cannot be generated at all; it is asked until it knows, once for each kind.
        """
        most = self._most.get(kind)
        if most is None:
            asked = MOST if self.size is None else self.size
            room = fits(asked) if asked > 1 else 1
            most = room or 1
            if room is not None:  # else the next ones may do better
                self._remember(kind, most)
            if self.size is not None and room is not None and room < asked:
                warn(f"{asked} images at once need more memory than is free, by an estimate; going on with {room}")
        return most if self.size is not None else _best(self._seconds.get(kind, {}), most)

    def record(self, kind: str, count: int, seconds: float) -> None:
        """A call of so many images has taken so long."""
        times = self._seconds.setdefault(kind, {}).setdefault(count, [])
        times[:] = sorted([*times, seconds / count])[:_TRIALS]

    def halve(self, kind: str, count: int) -> int:
        """Memory has run out with so many images at once; how many are tried from now on."""
        most = max(count // 2, 1)
        self._remember(kind, most)
        return most

    def _remember(self, kind: str, most: int) -> None:
        self._most[kind] = most
        for oldest in list(self._most)[:-_KINDS]:
            del self._most[oldest]
            self._seconds.pop(oldest, None)


def _best(seconds: Mapping[int, Sequence[float]], most: int) -> int:
    """The size to take next, by the seconds of an image in the calls of each size so far."""
    size = 1
    while len(seconds.get(size, ())) >= _TRIALS:
        larger, least = seconds.get(2 * size, ()), min(seconds[size])
        gains_nothing = len(larger) >= _TRIALS and min(larger) > _GAIN * least
        if 2 * size > most or least > _SLOW or gains_nothing:
            break
        size *= 2
    return min(size, most)
