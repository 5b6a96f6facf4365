"""Trade width of one group for width of another, as long as that loses less."""

from collections.abc import Callable, Mapping, Sequence

from pipeline.data.arrays import Float64
from pipeline.network.costs import Counts
from pipeline.prune.allocators import Staircase

GAIN = 1e-9
"""What a trade has to gain at least: less is rounding."""
STEPS = 3
"""By which one group is narrowed at most in one trade."""
MOST_TRADES = 100


def exchanged(
    counts: Counts,
    staircases: Mapping[str, Staircase],
    losses: Mapping[str, Float64],
    allowed: Callable[[Counts], bool],
) -> dict[str, int]:
    """The counts after the trades that gain most, until none gains, or there were MOST_TRADES.

    A trade widens one group by a step and may narrow another one by some. `losses` [size + 1] are
    what each group's widths lose. Each time the trade that gains most is made.
    """
    found = dict(counts)
    for _ in range(MOST_TRADES):
        trade = _best_trade(found, staircases, losses, allowed)
        if not trade:
            break
        found |= trade
    return found


def _best_trade(
    counts: Counts,
    staircases: Mapping[str, Staircase],
    losses: Mapping[str, Float64],
    allowed: Callable[[Counts], bool],
) -> dict[str, int]:
    """The widths of one or two groups after it; empty where none gains."""
    trades = []
    for wide, stairs in staircases.items():
        more = next((int(units) for units in stairs.units if units > counts[wide]), None)
        if more is None:
            continue
        gain = float(losses[wide][counts[wide]] - losses[wide][more])
        trades.append((gain, {wide: more}))
        for narrow, less in _narrower(counts, staircases):
            if narrow != wide:
                loss = float(losses[narrow][less] - losses[narrow][counts[narrow]])
                trades.append((gain - loss, {wide: more, narrow: less}))
    trades = [trade for trade in trades if trade[0] > GAIN]
    for _, trade in sorted(trades, key=lambda trade: -trade[0]):
        if allowed({**counts, **trade}):
            return trade
    return {}


def _narrower(counts: Counts, staircases: Mapping[str, Staircase]) -> Sequence[tuple[str, int]]:
    return [
        (name, int(units))
        for name, stairs in staircases.items()
        for units in stairs.units[stairs.units < counts[name]][-STEPS:]
    ]
