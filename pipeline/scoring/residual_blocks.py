"""How much each residual block changes what it is given."""

import copy
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.layers.torch_calls import Call, Hook, TorchCalls
from pipeline.network.layer_kinds import FILTER_BANKS
from pipeline.network.run import outputs_of
from pipeline.scoring.collect import Batch
from profiles.errors import StageError


def block_scores(network: nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
    """-cos(x_in, x_out) of every block that the identity can replace, by its name.

    The mean over samples; larger is kept longer, and -1 is a block that changes no direction
    (as the layer removal of ShortGPT, arXiv 2403.03853, which names 1 - cos block influence).
    """
    network = copy.deepcopy(network).eval()
    device = next(network.parameters()).device
    names: list[str] | None = None
    totals: dict[str, float] = {}
    counts: dict[str, int] = {}
    for inputs, _ in batches:
        feed = torch.from_numpy(inputs).to(device)
        names = residual_blocks(network, feed[:1]) if names is None else names
        for name, cosines in _cosines(network, names, feed):
            totals[name] = totals.get(name, 0.0) + float(cosines.sum())
            counts[name] = counts.get(name, 0) + len(cosines)
    if names is None:
        raise StageError("there are no calibration samples")
    return {name: -totals[name] / counts[name] for name in names}


def residual_blocks(network: nn.Module, example: Tensor) -> list[str]:
    """The modules that add something to their own input, and that the identity can replace.

    Of modules within each other that share their input, the innermost is the block. A block
    has convolutions or linear layers, one input, and one output of its shape.
    """
    network = copy.deepcopy(network).eval()
    seen = _SumFinder()
    handles = []
    for name, module in network.named_modules():
        if name and not isinstance(module, nn.Sequential) and _has_weights(module):
            handles.append(module.register_forward_pre_hook(seen.enter(name)))
            handles.append(module.register_forward_hook(seen.leave(name)))
    with torch.no_grad(), seen:
        outputs_of(network, example)
    for handle in handles:
        handle.remove()
    return [
        name
        for name, _ in network.named_modules()
        if name in seen.found and _runs_without(network, name, example)
    ]


class _SumFinder(TorchCalls):
    """Finds the modules inside which something is added to their own input."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()
        self._inside: list[tuple[str, Tensor | None, list[int]]] = []

    def enter(self, name: str) -> Callable[[nn.Module, tuple[object, ...]], None]:
        def hook(_: nn.Module, args: tuple[object, ...]) -> None:
            one = args[0] if len(args) == 1 else None
            given = one if isinstance(one, Tensor) else None
            self._inside.append((name, given, [] if given is None else list(given.shape)))

        return hook

    def leave(self, name: str) -> Callable[[nn.Module, tuple[object, ...], object], None]:
        def hook(_: nn.Module, __: tuple[object, ...], output: object) -> None:
            shape = self._inside.pop()[2]
            if not isinstance(output, Tensor) or list(output.shape) != shape:
                self.found.discard(name)

        return hook

    def on_call(self, call: Call) -> object:
        if call.is_addition:
            for name, given, _ in reversed(self._inside):
                if given is not None and any(value is given for value in call.tensors):
                    self.found.add(name)
                    break
        return call.run()


def _has_weights(module: nn.Module) -> bool:
    return any(
        child is not module and isinstance(child, FILTER_BANKS) for child in module.modules()
    )


def _runs_without(network: nn.Module, name: str, example: Tensor) -> bool:
    trial = copy.deepcopy(network)
    trial.set_submodule(name, nn.Identity())
    try:
        with torch.no_grad():
            outputs_of(trial, example)
    except Exception:  # whatever the network's own code raises without the block
        return False
    return True


def _cosines(network: nn.Module, names: Sequence[str], feed: Tensor) -> list[tuple[str, Tensor]]:
    """Each block's cosines of one batch, [n]."""
    found: list[tuple[str, Tensor]] = []
    given: list[Tensor] = []

    def enter(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        given.append(args[0].clone())  # the block may overwrite it

    def leave(name: str) -> Hook:
        def hook(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
            pair = (given.pop().flatten(1).double(), output.flatten(1).double())
            found.append((name, functional.cosine_similarity(*pair)))

        return hook

    handles = []
    for name in names:
        module = network.get_submodule(name)
        handles.append(module.register_forward_pre_hook(enter))
        handles.append(module.register_forward_hook(leave(name)))
    with torch.no_grad():
        outputs_of(network, feed)
    for handle in handles:
        handle.remove()
    for name, cosines in found:
        if not bool(cosines.isfinite().all()):
            raise StageError(f"{name}: its input or output is not finite; check the data")
    return found
