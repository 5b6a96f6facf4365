"""Small real networks whose coupled channels are known by hand."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class Chain(nn.Module):
    """conv1 - bn1 - relu - conv2 - relu - pool - fc."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 6, 3, padding=1)
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        x = functional.relu(self.conv2(x))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


class MixesBright(nn.Module):
    """Scales its middle channels by their places, but only in images that are not blank.

    Where a channel stands changes when others before it are removed.
    """

    def __init__(self, by_batch: bool) -> None:
        super().__init__()
        self.by_batch = by_batch
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 4, 3, padding=1)
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        bright = x.abs().amax((1, 2, 3), keepdim=True) > 0
        if self.by_batch:
            bright = bright.any()
        x = functional.relu(self.first(x))
        places = torch.arange(1, x.shape[1] + 1, dtype=x.dtype)[:, None, None]
        x = torch.where(bright, x * places, x)
        logits: Tensor = self.fc(functional.relu(self.second(x)).mean((2, 3)))
        return logits


class Residual(nn.Module):
    """A stem and two blocks on one stream of 8 channels; inner layers of 6."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.inner = nn.ModuleList(nn.Conv2d(8, 6, 3, padding=1, bias=False) for _ in range(2))
        self.inner_bn = nn.ModuleList(nn.BatchNorm2d(6) for _ in range(2))
        self.outer = nn.ModuleList(nn.Conv2d(6, 8, 3, padding=1, bias=False) for _ in range(2))
        self.outer_bn = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(2))
        self.relu = nn.ReLU(inplace=True)  # one module, used at five places
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn(self.stem(x)))
        for i in range(2):
            y = self.relu(self.inner_bn[i](self.inner[i](x)))
            y = self.outer_bn[i](self.outer[i](y))
            y += x
            x = self.relu(y)
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


class Depthwise(nn.Module):
    """expand - depthwise - project, with batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Conv2d(3, 12, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(12)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False)
        self.bn2 = nn.BatchNorm2d(12)
        self.project = nn.Conv2d(12, 6, 1)
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu6(self.bn1(self.expand(x)))
        x = functional.relu6(self.bn2(self.depthwise(x)))
        logits: Tensor = self.fc(self.project(x).mean((2, 3)))
        return logits


class Grouped(nn.Module):
    """A 1 x 1 layer, a convolution in 4 groups, and a 1 x 1 layer."""

    def __init__(self) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(3, 8, 1)
        self.grouped = nn.Conv2d(8, 16, 3, padding=1, groups=4)
        self.project = nn.Conv2d(16, 5, 1)
        self.fc = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.grouped(functional.relu(self.reduce(x))))
        logits: Tensor = self.fc(functional.relu(self.project(x)).mean((2, 3)))
        return logits


class Concat(nn.Module):
    """Two branches side by side, then flattened into a linear layer; a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 4, 1)
        self.right = nn.Conv2d(3, 6, 3, padding=1)
        self.mix = nn.ConvTranspose2d(10, 5, 1)
        self.act = nn.PReLU(5)
        self.fc1 = nn.Linear(5 * 4 * 4, 7)
        self.fc2 = nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([functional.relu(self.left(x)), functional.relu(self.right(x))], 1)
        x = functional.adaptive_avg_pool2d(self.act(self.mix(x)), 4)
        logits: Tensor = self.fc2(functional.gelu(self.fc1(x.flatten(1))))
        return logits


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


NETWORKS: tuple[type[nn.Module], ...] = (Chain, Residual, Depthwise, Grouped, Concat)


def trained(kind: type[nn.Module]) -> nn.Module:
    """`kind` with weights and batch-norm statistics as uneven as training leaves them."""
    torch.manual_seed(0)
    network = kind()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return network.eval()
