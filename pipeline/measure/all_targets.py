"""The machines of a run: looked at before anything runs, and boards measured all at once."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy.typing as npt

from pipeline.data.arrays import FloatArray, Split, Targets
from pipeline.measure.evidence import Candidate, measure
from pipeline.measure.places import place_of
from pipeline.measure.resolved_target import ResolvedTarget
from pipeline.measure.sessions import Measure
from pipeline.task import Task
from profiles.errors import DeviceError
from profiles.host import Host
from profiles.measurement import Measurement

T = TypeVar("T")

THIS_MACHINE = ""
"""The key of this machine, which has no host key."""
Hosts = Mapping[str, Host | DeviceError]
"""The machine of each target by the target's name, or why it did not answer."""


def hosts_of(targets: Sequence[ResolvedTarget]) -> Hosts:
    """Ask every target's machine. Raises IntegrityError where it is another one than was pinned."""
    answers = side_by_side([partial(_host, target) for target in targets])
    return {target.name: answer for target, answer in zip(targets, answers, strict=True)}


def _host(target: ResolvedTarget) -> Host | DeviceError:
    try:
        with place_of(target.ssh) as place:
            return place.host()
    except DeviceError as error:
        return error


def measure_all(
    settings: Measure, task: Task, candidates: Sequence[Candidate]
) -> Iterator[tuple[Candidate, Measurement]]:
    """The measurement of every candidate, in order.

    This machine measures first and alone, to be idle; then all boards at once, each one candidate
    at a time.
    """
    places: dict[str, list[Candidate]] = {THIS_MACHINE: []}
    for candidate in candidates:
        ssh = candidate.target.ssh  # two addresses may be of one machine, two keys are not
        places.setdefault(ssh.host_key if ssh else THIS_MACHINE, []).append(candidate)
    measure_in_turn = partial(_measure_in_turn, settings, one_at_a_time(task))
    found = measure_in_turn(places.pop(THIS_MACHINE))
    for part in side_by_side([partial(measure_in_turn, some) for some in places.values()]):
        found |= part
    for candidate in candidates:
        yield candidate, found[candidate.target.name]


def _measure_in_turn(
    settings: Measure, task: Task, candidates: Sequence[Candidate]
) -> dict[str, Measurement]:
    """The evidence on each, by its target's name."""
    found = {}
    for candidate in candidates:
        with place_of(candidate.target.ssh) as place:
            found[candidate.target.name] = measure(place, settings, task, candidate)
    return found


def side_by_side(works: Sequence[Callable[[], T]]) -> list[T]:
    """The results in order, or the first error.

    Each is done in a thread of its own, which an error or a signal leaves behind: what waits for a
    board may wait long, and the board gives up with the connection as this process ends.
    """
    futures: list[Future[T]] = [Future() for _ in works]
    for future, work in zip(futures, works, strict=True):
        threading.Thread(target=_fill, args=(future, work), daemon=True).start()
    done = wait(futures, return_when=FIRST_EXCEPTION).done
    for future in futures:
        if future in done and (error := future.exception()):
            raise error
    return [future.result() for future in futures]


def _fill(future: Future[T], work: Callable[[], T]) -> None:
    try:
        future.set_result(work())
    except BaseException as error:
        future.set_exception(error)


def one_at_a_time(task: Task) -> Task:
    """The task for several threads: a user's data and metric are called by one of them at once."""
    lock = threading.Lock()

    def metric(outputs: FloatArray, targets: Targets) -> FloatArray:
        with lock:
            return task.metric(outputs, targets)

    return replace(task, validation=_Locked(task.validation, lock), metric=metric)


@dataclass(frozen=True)
class _Locked:
    split: Split
    lock: threading.Lock

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int, /) -> tuple[npt.ArrayLike, npt.ArrayLike]:
        with self.lock:
            return self.split[index]
