"""A network that calls activations in every way there is."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional


class Activations(nn.Module):
    """Every way to call an activation: functional, in place, one module twice, method, GELU."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3 if i == 0 else 6, 6, 3) for i in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm2d(6) for _ in range(2))
        self.relu = nn.ReLU()
        self.hidden = nn.Linear(6, 5)
        self.fc = nn.Linear(5, 4)
        self.sigmas: list[Callable[[Tensor], Tensor]] = [
            self.relu,
            lambda x: functional.relu(x, inplace=True),
            lambda x: x.relu_(),
            functional.gelu,
        ]

    def forward(self, x: Tensor) -> Tensor:
        x = self.sigmas[0](self.norms[0](self.convs[0](x)))
        x = self.sigmas[1](self.norms[1](self.convs[1](x)))
        x = self.sigmas[2](self.convs[2](x))
        x = self.sigmas[3](self.hidden(x.mean((2, 3))))
        logits: Tensor = self.fc(x)
        return logits
