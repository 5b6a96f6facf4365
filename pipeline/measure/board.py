"""A board as a place: our program, engines and inputs go there by hash, raw samples come back."""

import asyncio
import io
import json
import math
import secrets
import threading
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, TypeVar

import numpy as np
from pydantic import Field, NonNegativeFloat, ValidationError

from exporters.arrays import FloatArray
from exporters.board import main as board
from exporters.board_program import board_program
from exporters.exporter import BuildFacts, reported_distributions
from exporters.worker import EngineFile, Job
from pipeline.measure.ssh import (
    CLEAN_UP_S,
    Connection,
    address_of,
    connected,
    digest_of,
    named_errors,
)
from profiles.device import EngineOptions, Ssh
from profiles.errors import ConfigError, DeviceError, IntegrityError
from profiles.host import Host
from profiles.spec import PrintableText, Spec, explain, read_json

T = TypeVar("T")
S = TypeVar("S", bound=Spec)

LOCK_WAIT_S = 60.0
"""The longest wait for a board that somebody else measures on."""
CHUNK_BYTES = 32 << 20
"""Bytes of inputs that are sent at a time; a batch that has more goes alone."""
MAX_OUTPUTS = 1 << 30
"""The most bytes of the outputs for inputs that were sent at a time."""
MAX_ENGINE = 2 << 30
"""The most bytes of an engine that a board built."""
GRACE_S = 2 * CLEAN_UP_S
"""How much longer than its own time-out anything is waited for."""


class WrittenFile(Spec):
    """The answer to a job that writes outputs."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class LayerTimes(Spec):
    """The answer to a job that times layers."""

    layers_ms: dict[PrintableText, NonNegativeFloat]


class BuildReply(WrittenFile):
    """The answer to a job that builds an engine."""

    facts: BuildFacts


@dataclass(frozen=True)
class BuiltEngine:
    """An engine that a board built, and still has."""

    content: bytes
    facts: BuildFacts


@dataclass(frozen=True)
class JobFiles:
    """What a job needs: engines by name, and the contents of files by name."""

    engines: Mapping[str, board.Engine]
    files: Mapping[str, bytes]


@dataclass(frozen=True)
class BoardSession:
    """A connection to a board that has our program."""

    connection: Connection
    program: str

    async def result(self, task: board.Task, given: JobFiles) -> str:
        """The JSON object that the board answers to a task."""
        parts = {
            name: await self.connection.push(name, content) for name, content in given.files.items()
        }
        limit_s = self.connection.ssh.timeout_s
        wait_s = min(LOCK_WAIT_S, limit_s / 2)
        nonce = secrets.token_hex(16)
        job = board.Job(nonce, limit_s, wait_s, parts, dict(given.engines), task)
        builds = isinstance(task, board.Build)
        raw = await self.connection.run(self.program, board.write_job(job), builds)
        return read_answer(raw, nonce)

    async def outputs(self, given: JobFiles, inputs: FloatArray, batch: int) -> FloatArray:
        """The first outputs [n, ...] for inputs [n, ...]; the board keeps neither."""
        file = io.BytesIO()
        np.save(file, inputs, allow_pickle=False)
        content = file.getvalue()
        name = f"{digest_of(content)}.{secrets.token_hex(8)}"
        outputs = board.outputs_name(name)
        try:
            more = JobFiles(given.engines, {**given.files, name: content})
            written = read_result(await self.result(board.Outputs(name, batch), more), WrittenFile)
            raw = await self.connection.pull(outputs, MAX_OUTPUTS)
        finally:
            await self.connection.delete(name, outputs)
        if digest_of(raw) != written.sha256:
            raise IntegrityError(
                "the outputs were changed after the engine gave them; find out what changed them"
            )
        return read_outputs(raw, len(inputs))

    async def compared(self, task: board.Compare, given: JobFiles) -> str:
        """The answer to a comparison of engines, of which the board keeps none.

        They lie there under names of their own, so that nobody else's are taken away.
        """
        token = secrets.token_hex(8)
        engines = {
            name: replace(engine, name=f"{engine.name}.{token}")
            for name, engine in given.engines.items()
        }
        files = {f"{name}.{token}": content for name, content in given.files.items()}
        try:
            return await self.result(task, JobFiles(engines, files))
        finally:
            for name in files:
                await self.connection.delete(name)

    async def built(self, engine: board.Engine, model: bytes) -> BuiltEngine:
        """An engine of the ONNX `model`, as the board itself builds it."""
        name = digest_of(model)
        given = JobFiles({"engine": engine}, {name: model})
        made = read_result(await self.result(board.Build(name), given), BuildReply)
        content = await self.connection.pull(made.sha256, MAX_ENGINE)
        if digest_of(content) != made.sha256:
            raise IntegrityError(
                "the engine was changed after the board built it; find out what changed it"
            )
        return BuiltEngine(content, made.facts)


@dataclass(frozen=True)
class RemoteBoard:
    """A board, as a `pipeline.measure.places.Place`. One thing at a time is asked of it."""

    ssh: Ssh
    session: BoardSession
    loop: asyncio.AbstractEventLoop

    @property
    def name(self) -> str:
        return address_of(self.ssh)

    def host(self) -> Host:
        text = self._ask(
            self.session.result(board.Facts(reported_distributions()), JobFiles({}, {}))
        )
        with named_errors(self.ssh):
            return read_result(text, Host)

    def answer(self, job: Job) -> str:
        task, given = _task(job), _files_of(job.engines())
        if isinstance(task, board.Compare):
            return self._ask(self.session.compared(task, given))
        return self._ask(self.session.result(task, given))

    def layers_ms(self, engine: EngineFile, batch: int) -> Mapping[str, float]:
        text = self._ask(self.session.result(board.Layers(batch), _files_of({"engine": engine})))
        with named_errors(self.ssh):
            return read_result(text, LayerTimes).layers_ms

    def outputs(self, engine: EngineFile, batches: Iterable[FloatArray]) -> Iterator[FloatArray]:
        given = _files_of({"engine": engine})
        for group in _groups(batches):
            sizes = [len(batch) for batch in group]
            found = self._ask(self.session.outputs(given, np.concatenate(group), max(sizes)))
            yield from np.split(found, np.cumsum(sizes)[:-1])

    def built(self, runtime: str, options: EngineOptions, model: bytes) -> BuiltEngine:
        """An engine of a serialised ONNX model, built there. Also raises StageError."""
        return self._ask(self.session.built(_engine("", runtime, options), model))

    def _ask(self, work: Coroutine[object, object, T]) -> T:
        with named_errors(self.ssh):
            return _run(self.loop, work, self.ssh.timeout_s)


@contextmanager
def reached(ssh: Ssh) -> Iterator[RemoteBoard]:
    """A board, connected to, with our program on it.

    Everything on it raises DeviceError where it does not answer as it should, and IntegrityError
    where it is another machine, or something on it was changed.
    """
    with _loop() as loop:
        stack = AsyncExitStack()
        try:
            with named_errors(ssh):
                session = _run(loop, stack.enter_async_context(_session(ssh)), ssh.timeout_s)
            yield RemoteBoard(ssh, session, loop)
        finally:
            with suppress(TimeoutError):
                _run(loop, stack.aclose(), GRACE_S)


@asynccontextmanager
async def _session(ssh: Ssh) -> AsyncIterator[BoardSession]:
    content = board_program()
    program = digest_of(content)
    async with connected(ssh) as connection:
        part = await connection.push(program, content)
        if part is not None:
            await connection.rename(part, program)
        yield BoardSession(connection, program)


@contextmanager
def _loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop in a thread of its own: there it answers the board while nobody waits, and
    signals, which come to the main thread, end a wait at once.
    """
    started = Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]()

    async def serve() -> None:
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        # When a connection breaks, all that asyncssh had begun on it ends so, which is said once.
        loop.set_exception_handler(lambda *_: None)
        started.set_result((loop, ended))
        await ended.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
    thread.start()
    loop, ended = started.result()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(CLEAN_UP_S)


def _run(loop: asyncio.AbstractEventLoop, work: Coroutine[object, object, T], limit_s: float) -> T:
    """The result of `work`. Raises TimeoutError."""

    async def bounded() -> T:
        async with asyncio.timeout(limit_s):
            return await work

    future = asyncio.run_coroutine_threadsafe(bounded(), loop)
    try:
        return future.result(limit_s + GRACE_S)
    finally:
        future.cancel()  # does nothing to one that is done


def read_answer(raw: bytes, nonce: str) -> str:
    """The result in an answer, as JSON.

    Raises DeviceError unless it is one JSON object of finite numbers in which no key comes twice,
    IntegrityError where it answers another job.
    """
    try:
        found = read_json(raw.decode())
        if not isinstance(found, dict) or set(found) != {"nonce", "result"}:
            raise ValueError("not an object of nonce and result")
        result = json.dumps(found["result"], allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise DeviceError(
            f"its reply could not be parsed: {str(error)[:200]}; run again"
        ) from error
    if found["nonce"] != nonce:
        raise IntegrityError(
            "its reply is to another job than the one it was given; find out what answers there"
        )
    return result


def read_result(text: str, kind: type[S]) -> S:
    """A result as what it should be. Raises DeviceError where it is something else."""
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise DeviceError(explain(error, kind, "its reply could not be parsed")) from error


def read_outputs(raw: bytes, rows: int) -> FloatArray:
    """Outputs [rows, classes, ...] from a .npy file. Raises DeviceError for anything else."""
    file = io.BytesIO(raw)
    try:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("another version of the format")
        shape, by_column, dtype = np.lib.format.read_array_header_1_0(file)
    except ValueError as error:
        raise DeviceError(
            f"its outputs are no .npy array: {str(error)[:200]}; run again"
        ) from error
    whole = math.prod(shape) * dtype.itemsize == len(raw) - file.tell() and min(shape) >= 0
    if len(shape) < 2 or shape[0] != rows or not whole or by_column or dtype != np.float32:
        raise DeviceError(f"its outputs are {dtype} {shape}, not float32 ({rows}, ...); run again")
    return np.frombuffer(raw, np.float32, offset=file.tell()).reshape(shape).copy()


def _task(job: Job) -> board.Latency | board.Compare | board.Start:
    if job.compare:
        return board.Compare(job.compare.batch, job.compare.rounds, job.compare.seed)
    if job.latency is None:
        assert job.start is not None
        return board.Start(job.start.batch)
    timed = job.latency
    return board.Latency(
        timed.batch, timed.seconds, timed.least_samples, timed.frame_interval_ms, timed.seed
    )


def _files_of(engines: Mapping[str, EngineFile]) -> JobFiles:
    """The engines with the contents of their files, as they are now.

    Raises ConfigError for a file that cannot be read.
    """
    found: dict[str, board.Engine] = {}
    files: dict[str, bytes] = {}
    for name, engine in engines.items():
        try:
            content = Path(engine.path).read_bytes()
        except OSError as error:
            raise ConfigError(f"{engine.path}: cannot be read ({error.strerror})") from error
        stored = digest_of(content)
        files[stored] = content
        found[name] = _engine(stored, engine.runtime, engine.options)
    return JobFiles(found, files)


def _engine(name: str, runtime: str, options: EngineOptions) -> board.Engine:
    return board.Engine(name, runtime, **options.model_dump())


def _groups(batches: Iterable[FloatArray]) -> Iterator[list[FloatArray]]:
    """Batches together up to CHUNK_BYTES: each group is one process on the board."""
    group: list[FloatArray] = []
    for batch in batches:
        if group and sum(b.nbytes for b in group) + batch.nbytes > CHUNK_BYTES:
            yield group
            group = []
        group.append(batch)
    if group:
        yield group
