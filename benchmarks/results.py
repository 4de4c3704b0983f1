"""What was measured: medians over the rounds, and ratios beside their targets."""

from dataclasses import dataclass, field
from statistics import median
from typing import Literal, NamedTuple

from benchmarks.drivers import Sample

Figure = Literal["rate", "p50", "p99", "cost"]


class Key(NamedTuple):
    """What a sample is of: which system, doing what, for how many callers at once."""

    system: str
    work: str
    callers: int


@dataclass
class Results:
    """The samples of each key, one a round."""

    samples: dict[Key, list[Sample]] = field(default_factory=dict)

    def add(self, key: Key, sample: Sample) -> None:
        """Adds the sample of one more round."""
        self.samples.setdefault(key, []).append(sample)

    def median_of(self, key: Key) -> Sample:
        """Each figure's median over the rounds."""
        rounds = self.samples[key]
        return Sample(
            rate=median(s.rate for s in rounds),
            p50_ms=median(s.p50_ms for s in rounds),
            p99_ms=median(s.p99_ms for s in rounds),
            done=sum(s.done for s in rounds),
            driver_share=median(s.driver_share for s in rounds),
        )


@dataclass(frozen=True)
class Target:
    """A ratio of two figures, and its bound, if it has one. Cost is the inverse of the rate."""

    claim: str
    of: Key
    beside: Key
    figure: Figure
    bound: float | None = None
    is_upper: bool = False  # the bound is the most it may be; otherwise the least

    def ratio(self, results: Results) -> float:
        """The ratio, computed round by round: the median of the rounds."""
        pairs = zip(results.samples[self.of], results.samples[self.beside], strict=True)
        return median(ratio_of(self.figure, of, beside) for of, beside in pairs)

    def is_met(self, ratio: float) -> bool:
        """Whether the ratio keeps the bound; any does when there is none."""
        if self.bound is None:
            return True
        return ratio <= self.bound if self.is_upper else ratio >= self.bound

    @property
    def wanted(self) -> str:
        """The bound, in words."""
        if self.bound is None:
            return "none"
        return f"{'at most' if self.is_upper else 'at least'} {self.bound:g}"


def ratio_of(figure: Figure, of: Sample, beside: Sample) -> float:
    """The figure of one sample over that of the other."""
    match figure:
        case "p50":
            return of.p50_ms / beside.p50_ms
        case "p99":
            return of.p99_ms / beside.p99_ms
        case "rate":
            return of.rate / beside.rate
        case "cost":
            return beside.rate / of.rate
