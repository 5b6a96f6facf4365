"""A forward pass that is stopped half-way, and later goes on from there without running again.

The pass is made once more from its beginning, but every call of a torch function before the
checkpoint gives what it gave then: the values that were still in use, and of the others only
the shape. So a network of any structure can be walked through layer by layer, in small batches.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.utils.weak import TensorWeakRef

from pipeline.layers.output_tracker import OutputTracker
from pipeline.layers.torch_calls import Call
from pipeline.network.nested_tensors import tensors_in
from pipeline.network.spool import Kept, Spool

INPUT = -1
OVERWRITTEN = -1
"""Of the network's input: no version of it."""


class Stopped(BaseException):
    """Ends a forward pass on purpose; a network's own `except Exception` lets it through."""


@dataclass(frozen=True)
class _Made:
    """A tensor that a call made, as it was at the checkpoint."""

    size: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    storage: int | None = None
    """The number of its saved storage, INPUT for the network's input as it was given; None for a
    tensor that nobody has any more."""
    stride: tuple[int, ...] = ()
    offset: int = 0


@dataclass(frozen=True)
class _Argument:
    """A result that is one of the call's own tensors, by its number."""

    number: int


@dataclass(frozen=True)
class Checkpoint:
    """How far a forward pass has come, and all that it still needs."""

    given: _Made
    """The network's input."""
    results: Sequence[object]
    """Of each call so far: `_Made` and `_Argument` in the place of tensors."""
    storages: Sequence[Kept] = ()


@dataclass
class _Seen:
    """A tensor that was made in this pass; not kept alive."""

    ref: TensorWeakRef
    size: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


class _Restored:
    """The network's input, read when it is asked for, and the storages of a checkpoint."""

    def __init__(self, read: Callable[[], Tensor], storages: Sequence[Tensor]) -> None:
        self._read, self._storages = read, storages

    @cached_property
    def given(self) -> Tensor:
        return self._read()

    @property
    def has_given(self) -> bool:
        """Whether the input has been read."""
        return "given" in vars(self)

    def tensor(self, made: _Made) -> Tensor:
        if made.storage is None:
            return _without_values(made)
        return self.fill(torch.empty(0, dtype=made.dtype, device=made.device), made)

    def fill(self, value: Tensor, made: _Made) -> Tensor:
        """Make `value` what it was at the checkpoint."""
        assert made.storage is not None
        held = self.given if made.storage == INPUT else self._storages[made.storage]
        return value.set_(held.untyped_storage(), made.offset, made.size, made.stride)


class Replay(OutputTracker):
    """One forward pass of `network`, from a checkpoint on or from the beginning.

    `owned` are the tensors that the network brings along: weights, buffers, constants.
    """

    def __init__(self, owned: Mapping[int, Tensor], checkpoint: Checkpoint | None) -> None:
        super().__init__()
        self._owned, self._checkpoint = owned, checkpoint
        self._results: list[object] = []
        self._known: dict[int, TensorWeakRef] = {}
        self._given: _Seen | None = None
        self._given_version = 0
        self._unread: Tensor | None = None
        """The network's input as long as it has no values, because nothing has asked for them."""
        self._aside = False
        self._restored: _Restored | None = None
        self.can_go_on = True
        """Whether all that the network computes with was seen, so that checkpoints are sound."""

    def run(self, network: nn.Module, read: Callable[[], Tensor], last: bool = False) -> None:
        """The pass up to where it stops, on what `read` gives, [n, ...].

        `last` where nothing goes on from this pass's checkpoint any more: its tensors may change.
        """
        with self.aside():
            inputs = self._begin(lambda: read().clone(), last)  # the network may overwrite them
            self._given, self._given_version = self._seen(inputs), inputs._version
        with contextlib.suppress(Stopped):
            network(inputs)

    def _begin(self, read: Callable[[], Tensor], last: bool) -> Tensor:
        """The network's input, and everything that the checkpoint holds."""
        if self._checkpoint is None:
            return read()
        made = self._checkpoint.given
        parts = [kept.read().to(made.device) for kept in self._checkpoint.storages]
        self._restored = _Restored(read, parts if last else [part.clone() for part in parts])
        if made.storage != INPUT:
            return self._restored.tensor(made)
        self._unread = _without_values(made)
        return self._unread

    def need(self, values: Sequence[Tensor]) -> None:
        """The values of these tensors are about to be read: of the network's input too."""
        if self._unread is None or not any(value is self._unread for value in values):
            return
        assert self._checkpoint is not None
        assert self._restored is not None
        value, self._unread = self._unread, None
        self._restored.fill(value, self._checkpoint.given)
        self._given_version = value._version

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Calls inside are none of the network's own."""
        self._aside = True
        try:
            yield
        finally:
            self._aside = False

    def on_call(self, call: Call) -> object:
        if self._aside:
            return call.run()
        before, place = self._checkpoint, len(self._results)
        if before and self._restored and place < len(before.results):
            return self._replayed(before.results[place], call, self._restored)
        self.need((*call.tensors, *call.overwritten))
        if call.overwritten and self._restored is not None:
            self._restored_view_is_overwritten(call.overwritten, self._restored)
        return super().on_call(call)

    def run_call(self, call: Call) -> object:
        self._look_at(call)
        result = call.run()
        self._results.append(self._noted(result, call))
        return result

    def _restored_view_is_overwritten(self, values: Sequence[Tensor], restored: _Restored) -> None:
        """Views of the input that a checkpoint brought back do not count as its versions do."""
        if not restored.has_given:
            return
        place = restored.given.untyped_storage().data_ptr()
        if any(value.untyped_storage().data_ptr() == place for value in values):
            self.need(() if self._unread is None else (self._unread,))
            self._given_version = OVERWRITTEN

    def _replayed(self, noted: object, call: Call, restored: _Restored) -> object:
        """What the call gave in the pass that made the checkpoint."""
        result = _rebuilt(noted, call, restored)
        gone = isinstance(noted, _Made) and noted.storage is None
        self._results.append(noted if gone or result is noted else self._noted(result, call))
        return result

    def bytes_in_use(self) -> int:
        """The size of what a checkpoint would hold."""
        return sum(storage.nbytes() for storage in self._storages_in_use().values())

    def checkpoint(self, spool: Spool) -> Checkpoint:
        """Where the pass stands now, to be called from where it is about to stop."""
        storages = self._storages_in_use()
        numbers = {pointer: number for number, pointer in enumerate(storages)}
        kept = [
            spool.keep(torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage))
            for storage in storages.values()
        ]
        unchanged = self._unchanged_input()
        if unchanged is not None:
            numbers[unchanged.untyped_storage().data_ptr()] = INPUT
        assert self._given is not None
        given = _at_checkpoint(self._given, numbers)
        if self._unread is not None and self._checkpoint is not None:
            given = self._checkpoint.given
        assert isinstance(given, _Made)
        return Checkpoint(given, [_at_checkpoint(one, numbers) for one in self._results], kept)

    def _look_at(self, call: Call) -> None:
        """Notice what a checkpoint could not bring back."""
        for value in call.tensors:
            known = self._known.get(id(value))
            if id(value) not in self._owned and (known is None or known() is not value):
                self.can_go_on = False
        if any(id(value) in self._owned for value in call.overwritten):
            self.can_go_on = False

    def _seen(self, value: Tensor) -> _Seen:
        ref = TensorWeakRef(value)
        self._known[id(value)] = ref
        return _Seen(ref, tuple(value.shape), value.dtype, value.device)

    def _noted(self, result: object, call: Call) -> object:
        """The result with `_Seen` and `_Argument` in the place of tensors."""
        if isinstance(result, Tensor):
            for number, value in enumerate(call.tensors):
                if value is result:
                    return _Argument(number)
            return self._seen(result)
        if isinstance(result, (list, tuple)):
            if next(tensors_in(result), None) is None:
                return result
            return [type(result), [self._noted(one, call) for one in result]]
        self.can_go_on = self.can_go_on and not isinstance(result, dict)
        return result

    def _storages_in_use(self) -> dict[int, torch.UntypedStorage]:
        """By their addresses, without the input's as long as that is what was given."""
        alive = (ref() for ref in self._known.values())
        storages = (value.untyped_storage() for value in alive if value is not None)
        found = {storage.data_ptr(): storage for storage in storages if storage.nbytes()}
        unchanged = self._unchanged_input()
        if unchanged is not None:
            found.pop(unchanged.untyped_storage().data_ptr(), None)
        return found

    def _unchanged_input(self) -> Tensor | None:
        value = self._given.ref() if self._given else None
        before = self._checkpoint
        was_given = before is None or before.given.storage == INPUT
        same = value is not None and value._version == self._given_version
        return value if was_given and same else None


def _without_values(made: _Made) -> Tensor:
    """A tensor of the same shape that nobody reads."""
    return torch.empty((), dtype=made.dtype, device=made.device).expand(made.size)


def owned_by(network: nn.Module) -> dict[int, Tensor]:
    """Weights, buffers and tensors in attributes of modules, by their ids."""
    found = [*network.parameters(), *network.buffers()]
    for module in network.modules():
        found += tensors_in(list(vars(module).values()))
    return {id(value): value for value in found}


def _at_checkpoint(noted: object, numbers: Mapping[int, int]) -> object:
    if isinstance(noted, list):
        kind, parts = noted
        return [kind, [_at_checkpoint(part, numbers) for part in parts]]
    if not isinstance(noted, _Seen):
        return noted
    value = noted.ref()
    if value is None or not value.untyped_storage().nbytes():
        return _Made(noted.size, noted.dtype, noted.device)
    number = numbers[value.untyped_storage().data_ptr()]
    size, stride = tuple(value.shape), tuple(value.stride())
    return _Made(size, value.dtype, value.device, number, stride, value.storage_offset())


def _rebuilt(noted: object, call: Call, restored: _Restored) -> object:
    if isinstance(noted, _Made):
        return restored.tensor(noted)
    if isinstance(noted, _Argument):
        return call.tensors[noted.number]
    if isinstance(noted, list):
        kind, parts = noted
        return kind([_rebuilt(part, call, restored) for part in parts])
    return noted
