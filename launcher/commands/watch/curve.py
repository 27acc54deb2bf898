"""A curve that grows, in bounded memory."""

from typing import NamedTuple

MOST = 320
"""Points of a curve: about as many as a picture has room for."""


class Point(NamedTuple):
    """The values of some neighbouring steps, up to `step`."""

    step: int
    least: float
    mean: float
    most: float


class _Bucket:
    """Values of neighbouring steps, added up."""

    def __init__(self, step: int, value: float) -> None:
        self.first = self.last = step
        self.least = self.most = self.total = value
        self.count = 1

    def add(self, other: "_Bucket") -> None:
        self.last, self.count = other.last, self.count + other.count
        self.least, self.most = min(self.least, other.least), max(self.most, other.most)
        self.total += other.total


class Curve:
    """Values by step. Where there are too many, neighbours share a point, which keeps their least,
    mean and greatest: a peak stays visible."""

    def __init__(self) -> None:
        self._buckets: list[_Bucket] = []
        self._width = 1

    def add(self, step: int, value: float) -> None:
        """Add a value. If the steps go back, as those of a run that resumes do, what was there from
        this one on is replaced."""
        buckets, new = self._buckets, _Bucket(step, value)
        while buckets and buckets[-1].last >= step:
            buckets.pop()
        if buckets and buckets[-1].first // self._width == step // self._width:
            buckets[-1].add(new)
        else:
            buckets.append(new)
        while len(buckets) > MOST:
            self._width *= 2
            self._buckets = buckets = _merged(buckets, self._width)

    def points(self) -> list[Point]:
        """The curve, by rising step."""
        return [Point(b.last, b.least, b.total / b.count, b.most) for b in self._buckets]


def _merged(buckets: list[_Bucket], width: int) -> list[_Bucket]:
    found = buckets[:1]
    for bucket in buckets[1:]:
        if found[-1].first // width == bucket.first // width:
            found[-1].add(bucket)
        else:
            found.append(bucket)
    return found
