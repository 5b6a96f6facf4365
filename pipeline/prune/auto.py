"""The selections that are tried where nobody says which channels go."""

from pipeline.prune.allocators import reconstruction as by_reconstruction
from pipeline.prune.allocators.uniform import Uniform
from pipeline.prune.channel_counts import Widths
from pipeline.prune.choose import Selection
from pipeline.prune.criteria import reconstruction
from pipeline.prune.criteria.magnitude import Magnitude
from pipeline.prune.criteria.pro import Pro
from pipeline.prune.criteria.taylor import Taylor

AUTO_CRITERIA = (Magnitude(), Pro(), reconstruction.Reconstruction(), Taylor())
AUTO_ALLOCATORS = (by_reconstruction.Reconstruction(), Uniform())


def auto_selections(widths: Widths = Widths()) -> tuple[Selection, ...]:  # noqa: B008, frozen
    """Each criterion with each allocator."""
    return tuple(Selection(one, by, widths) for by in AUTO_ALLOCATORS for one in AUTO_CRITERIA)
