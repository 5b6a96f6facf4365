"""In how many steps a network shrinks, and how far in each."""

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from profiles.spec import Spec


class Schedule(Spec):
    """The gradual schedule of Zhu and Gupta (arXiv 1710.01878) on the part of the MACs kept.

    One step prunes at once. Many steps with `power` 1 and a short training after each prune a
    little, train a little.
    """

    steps: PositiveInt = 1
    power: PositiveFloat = 3.0
    """1 removes as much in every step; 3 removes most in the first ones."""
    epochs: NonNegativeInt = 0
    """Epochs of training between two steps, with the settings of `finetune`."""

    def targets(self, final_ratio: float) -> tuple[float, ...]:
        """The part of the dense MACs that is left after each step; `final_ratio` at the end."""
        return tuple(
            final_ratio + (1 - final_ratio) * (1 - step / self.steps) ** self.power
            for step in range(1, self.steps + 1)
        )
