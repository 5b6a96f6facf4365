"""Networks whose sums are read in more than one place."""

from torch import Tensor, nn
from torch.nn import functional


class Fork(nn.Module):
    """Two layers read the activation of conv1; their sum with a third is read by fc."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 1)
        self.left = nn.Conv2d(6, 6, 3, padding=1)
        self.right = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.third = nn.Conv2d(3, 6, 1)
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.conv1(x))
        total = self.left(y) + self.norm(self.right(y)) + self.third(x)
        logits: Tensor = self.fc(functional.relu(total).mean((2, 3)))
        return logits


class PreActivation(nn.Module):
    """x + conv2(relu(bn2(conv1(relu(bn1(x)))))): the stream is normed by who reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.bn1, self.conv1 = nn.BatchNorm2d(6), nn.Conv2d(6, 5, 3, padding=1)
        self.bn2, self.conv2 = nn.BatchNorm2d(5), nn.Conv2d(5, 6, 3, padding=1)
        self.bn3, self.fc = nn.BatchNorm2d(6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.conv2(functional.relu(self.bn2(self.conv1(functional.relu(self.bn1(x))))))
        logits: Tensor = self.fc(functional.relu(self.bn3(x)).mean((2, 3)))
        return logits
