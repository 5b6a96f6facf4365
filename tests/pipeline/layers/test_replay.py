"""A forward pass that goes on from a checkpoint computes what the whole pass computes."""

from collections.abc import Callable

import pytest
import torch
from half_pruned import images
from networks import NETWORKS, Chain, Fork, PreActivation, trained
from torch import Tensor, nn
from torch.nn import functional

from pipeline.layers.replay import Checkpoint, Replay, Stopped, owned_by
from pipeline.network.spool import Memory


class Plenty(nn.Module):
    """Views, sums in place, several results of one call, and constants: all live at `last`."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.scales = torch.linspace(1, 2, 8)[:, None, None]

    def forward(self, x: Tensor) -> Tensor:
        x -= 0.5  # in the caller's tensor
        y = functional.relu(self.first(x), inplace=True) * self.scales
        left, right = y.chunk(2, 1)
        left += 1  # and so in y
        largest, places = y.max(1, keepdim=True)
        if float(y.mean()) < -1e9:
            return y
        rows = y.flatten(2).transpose(1, 2)
        z = self.last(torch.cat([right, left], 1))
        total: Tensor = z.mean((2, 3)) + rows.mean((1, 2))[:, None] + x.sum((1, 2, 3))[:, None]
        return total + (largest * places).mean((1, 2, 3))[:, None]


class ThroughAView(nn.Module):
    """Overwrites a part of its input between two layers, and reads all of it at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = (nn.Conv2d(3, 3, 1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        left = x[:, :1]
        y = self.first(x)
        left += 1
        z: Tensor = self.last(self.middle(y) + y) + x
        return z


class Stopping(Replay):
    """Stops before one layer, with a checkpoint, or goes on to the end."""

    def __init__(self, network: nn.Module, start: Checkpoint | None, stop: nn.Module | None):
        super().__init__(owned_by(network), start)
        self._network, self._stop = network, stop
        self.outputs = torch.empty(0)
        self.saved: Checkpoint | None = None

    def before(self, module: nn.Module, _: tuple[Tensor, ...]) -> None:
        if module is self._stop:
            with self.aside():
                self.saved = self.checkpoint(MEMORY.spool())
            raise Stopped

    def over(self, inputs: Tensor) -> "Stopping":
        def keep(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
            self.outputs = output

        handles = [m.register_forward_pre_hook(self.before) for m in self._network.modules()]
        handles.append(self._network.register_forward_hook(keep))
        with torch.no_grad(), self:
            self.run(self._network, lambda: inputs)
        for handle in handles:
            handle.remove()
        return self


def in_order(network: nn.Module, inputs: Tensor) -> list[nn.Module]:
    """Convolutions and linear layers as they run."""
    found: list[nn.Module] = []
    layers = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    handles = [m.register_forward_pre_hook(lambda m, _: found.append(m)) for m in layers]
    with torch.no_grad():
        network(inputs.clone())
    for handle in handles:
        handle.remove()
    return found


MEMORY = Memory(0)


@pytest.mark.parametrize("kind", [*NETWORKS, Fork, PreActivation, Plenty, ThroughAView])
def test_a_pass_goes_on_from_any_layer_as_if_it_had_not_stopped(kind: type[nn.Module]) -> None:
    network, inputs = trained(kind), images(3)
    with torch.no_grad():
        wanted = network(inputs.clone())
    before, start = inputs.clone(), None
    for layer in in_order(network, inputs):
        stopped = Stopping(network, start, layer).over(inputs)  # each from the one before
        assert stopped.can_go_on
        start = stopped.saved or start
        assert torch.equal(Stopping(network, start, None).over(inputs).outputs, wanted)
    assert start is not None
    assert torch.equal(inputs, before)


def test_what_lies_before_a_checkpoint_does_not_run_again() -> None:
    network, inputs = trained(Plenty), images(3)
    start = Stopping(network, None, network.get_submodule("last")).over(inputs).saved
    with torch.no_grad():
        wanted = network(inputs.clone())
        network.get_parameter("first.weight").fill_(float("nan"))
    assert torch.equal(Stopping(network, start, None).over(inputs).outputs, wanted)


SCRIPTED: Callable[[Tensor], Tensor] = torch.jit.script(nn.Sequential(nn.ReLU()))


class Unseen(nn.Module):
    """Computes something where no call of torch is seen."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(SCRIPTED(self.first(x)))
        return y.mean((2, 3))


def test_a_pass_says_when_it_has_not_seen_all_that_a_checkpoint_needs() -> None:
    assert not Stopping(trained(Unseen), None, None).over(images(3)).can_go_on


class Unread(AssertionError):
    """The input was read."""


def never() -> Tensor:
    raise Unread


class FromTheInput(nn.Module):
    """Adds its input at the very end."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.first(x)) + x
        return y


def test_the_input_is_read_again_only_where_the_network_asks_for_it() -> None:
    for kind, asked in ((Chain, False), (FromTheInput, True)):
        network, inputs = trained(kind), images(3)
        start = Stopping(network, None, in_order(network, inputs)[-1]).over(inputs).saved
        assert start is not None
        with torch.no_grad(), Replay(owned_by(network), start) as again:
            if not asked:
                again.run(network, never)
                continue
            with pytest.raises(Unread):
                again.run(network, never)
