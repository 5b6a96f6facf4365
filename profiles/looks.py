"""Looks: what a machine told of itself before, during and after a stretch that was measured."""

import math
from collections.abc import Sequence

from profiles.machine.conditions import Conditions


def elapsed_s(looks: Sequence[Conditions]) -> float:
    """Seconds between the first and the last look; 0 without looks."""
    return looks[-1].at_s - looks[0].at_s if looks else 0.0


def others_cores(looks: Sequence[Conditions]) -> float | None:
    """How many processors other processes kept busy meanwhile, on average.

    None where the machine does not tell, and where its clock did not advance.
    """
    if len(looks) < 2:
        return None
    first, last, seconds = looks[0], looks[-1], elapsed_s(looks)
    if first.others_cpu_s is None or last.others_cpu_s is None or not 0 < seconds < math.inf:
        return None
    return (last.others_cpu_s - first.others_cpu_s) / seconds


def was_throttled(looks: Sequence[Conditions]) -> bool:
    """Whether the clock was held down at any moment, as far as the machine tells."""
    events = [look.throttle_events for look in looks]
    return any(look.throttled for look in looks) or len(set(events)) > 1


def tells_throttling_alike(looks: Sequence[Conditions]) -> bool:
    """Whether each look tells if the clock is held down, or none does."""
    return len({look.throttled is None for look in looks}) <= 1
