"""Everything that may be wrong with a board, and the exit codes that are right for it."""

from collections.abc import Mapping
from dataclasses import dataclass

import asyncssh
from faulty import (
    PASS_ON,
    Fault,
    Full,
    Garbling,
    Losing,
    Stalling,
    Writing,
    addressed,
    arranged,
    configured,
    denying,
    doing,
    foreign,
    held,
    linked,
    open_to_others,
    other_key,
    patched,
    preplaced,
    python,
    rebooting,
    refused_port,
    refused_user,
    saying,
    sent,
    served,
    small_disk,
    wired,
    writing,
)

from exporters.board_program import board_program

JOBS = ("facts", "outputs", "start", "layers", "latency")
"""In the order in which a run asks for them."""
BACKWARDS = """
import itertools, time
ticks = itertools.count(10**15, -1000)
time.perf_counter_ns = lambda: next(ticks)
"""
STILL = """
import time
time.perf_counter = lambda: 1.0
"""
UNLOADABLE = """
import onnxruntime
def refuse(*_, **__): raise RuntimeError("Could not find an implementation for ReorderInput(1)")
onnxruntime.InferenceSession = refuse
"""
STORED = "path = os.path.join(files, next(n for n, part in job['files'].items() if not part))\n"
ARRIVED = "path = os.path.join(files, [part for part in job['files'].values() if part][{place}])\n"
STEAL = """
import fcntl

def steal():
    lock = os.path.join(files, "lock")
    while True:
        with open(lock) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.unlink(lock)
                open(lock, "w").close()
                return
        time.sleep(0.02)

threading.Thread(target=steal, daemon=True).start()
"""
CRAMPED = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
"""
UNBUILDABLE = """
import onnxruntime
real = onnxruntime.InferenceSession
def refuse(*given, **more):
    if given[1].optimized_model_filepath: raise RuntimeError("no kernel for Conv(11)")
    return real(*given, **more)
onnxruntime.InferenceSession = refuse
"""
MISCOMPUTING = """
import onnxruntime
run = onnxruntime.InferenceSession.run
onnxruntime.InferenceSession.run = lambda *a: [1.01 * output for output in run(*a)]
"""
BUILT = """
import hashlib
answer, _ = honest()
found = json.loads(answer)
path = os.path.join(files, found["result"]["sha256"])
model = os.path.join(files, job["task"]["model"])
{words}
print(json.dumps(found))
"""
OUTPUTS = """
import hashlib
import numpy as np
answer, _ = honest()
found = json.loads(answer)
inputs = os.path.join(files, job["task"]["inputs"])
out = inputs + ".out"
array = np.load(out)

def save(array):
    with open(out, "wb") as file:
        np.save(file, array)
    with open(out, "rb") as file:
        found["result"]["sha256"] = hashlib.sha256(file.read()).hexdigest()

{words}
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Scenario:
    """A fault, and the exit codes with which a run may end."""

    codes: frozenset[int]
    fault: Fault
    builds: bool = False
    """Whether the board builds the engines, too."""
    waits: int = 1
    """How many things that are asked may take the board's whole time-out, and not one alone."""


def scenarios(engine: bytes) -> Mapping[str, Scenario]:
    """All of them by name, for runs that bring this engine first."""
    tables = (
        _strangers(),
        _wires(),
        _servers(),
        _interpreters(),
        _answers(),
        _processes(),
        _outputs(),
        _files(engine),
        _builds(),
    )
    return {name: scenario for table in tables for name, scenario in table.items()}


def _four(fault: Fault) -> Scenario:
    return Scenario(frozenset({4}), fault)


def _seven(fault: Fault) -> Scenario:
    return Scenario(frozenset({7}), fault)


def _strangers() -> dict[str, Scenario]:
    return {
        "wrong key": _seven(other_key("ssh-ed25519")),
        "changed key, of another kind": _seven(other_key("ecdsa-sha2-nistp256")),
        "key without its secret": _seven(wired("flip", False, 100, 900)),
        "refused port": _four(refused_port),
        "unknown host": _four(addressed(host="no-such-board.invalid")),
        "unknown user": _four(addressed(user="nobody-here")),
        "refused user": _four(refused_user),
        "more than a key asked for": _four(
            configured(more="PasswordAuthentication yes\nAuthenticationMethods publickey,password")
        ),
        "says nothing": _four(sent(b"")),
        "no SSH server": _four(sent(b"HTTP/1.1 400 Bad Request\r\n\r\n")),
        "greets for ever": _four(sent(b"welcome\r\n" * 100_000)),
    }


def _wires() -> dict[str, Scenario]:
    """Through the key exchange, the program and the inputs, and what comes back."""
    return {
        "dropped up, key exchange": _four(wired("drop", True, 0, 1_500)),
        "dropped up, program": _four(wired("drop", True, 4_000, 45_000)),
        "dropped up, inputs": _four(wired("drop", True, 60_000, 500_000)),
        "dropped down, key exchange": _four(wired("drop", False, 0, 1_300)),
        "dropped down, login": _four(wired("drop", False, 1_400, 3_500)),
        "dropped down, answers": _four(wired("drop", False, 5_000, 20_000)),
        "reset up": _four(wired("reset", True, 0, 100_000)),
        "reset down": _four(wired("reset", False, 0, 10_000)),
        "stalled up, key exchange": _four(wired("stall", True, 0, 1_500)),
        "stalled up, program": _four(wired("stall", True, 4_000, 45_000)),
        "stalled up, inputs": _four(wired("stall", True, 60_000, 500_000)),
        "stalled down, key exchange": _four(wired("stall", False, 0, 1_300)),
        "stalled down, login": _four(wired("stall", False, 1_400, 3_500)),
        "stalled down, answers": _four(wired("stall", False, 5_000, 20_000)),
        "bit flipped up": Scenario(frozenset({4, 7}), wired("flip", True, 100, 40_000)),
        "bit flipped down": _four(wired("flip", False, 1_400, 3_500)),
        "1 kB/s up": Scenario(frozenset({4}), wired("slow", True, 0, 500), waits=len(JOBS)),
        "1 kB/s down": Scenario(frozenset({4}), wired("slow", False, 0, 500), waits=len(JOBS)),
        "reboot": _four(rebooting),
    }


def _servers() -> dict[str, Scenario]:
    return {
        "sftp absent": _four(served(None)),
        "commands refused": _four(served(lambda seed: asyncssh.SFTPServer, commands=False)),
        "one session only": _four(configured(more="MaxSessions 1")),
        "no session": _four(configured(more="MaxSessions 0")),
        "sftp for every command": _four(configured(more="ForceCommand internal-sftp -d {home}")),
        "a greeting for every command": _four(configured(more="ForceCommand echo hello")),
        "sftp ends at once": _four(configured(sftp="/bin/false")),
        "sftp echoes": _four(configured(sftp="/bin/cat")),
        "sftp is silent": _four(configured(sftp="/bin/sleep 15", waits=True)),
        "sftp talks nonsense": _four(configured(sftp="/bin/cat /dev/urandom", waits=True)),
        "disk full": _four(served(writing(Full))),
        "disk full, and mounted": _four(small_disk),
        "a write fails": _four(served(writing(Writing))),
        "writes are lost": _four(served(writing(Losing))),
        "a write is garbled": _seven(served(writing(Garbling))),
        "a write stalls": _four(served(writing(Stalling), waits=True)),
        "home read-only": _four(served(denying("mkdir"))),
        "opening denied": _four(served(denying("open"))),
        "renaming denied": _four(served(denying("posix_rename"))),
        "looking denied": _four(served(denying("stat"))),
    }


def _interpreters() -> dict[str, Scenario]:
    return {
        "missing python": _four(python(lambda folder: "/no/such/python")),
        "python is a folder": _four(python(str)),
        "python is something else": _four(python(lambda folder: "/bin/cat")),
        "python for another processor": _four(python(foreign)),
        "old python": _four(patched("sys.version_info, sys.version = (3, 6, 9), '3.6.9'")),
        "missing numpy": _four(patched("sys.modules['numpy'] = None")),
        "missing runtime": _four(patched("sys.modules['onnxruntime'] = None")),
        "engine for another processor": _four(patched(UNLOADABLE)),
        "clock goes backwards": _four(patched(BACKWARDS)),
        "clock stands still": _four(patched(STILL, waits=True)),
        "no room for outputs": _four(patched(CRAMPED)),
    }


def _answers() -> dict[str, Scenario]:
    four = {
        "no answer": "''",
        "garbage": "answer[seed % 9 + 1:]",
        "truncated": "answer[:-1 - seed * 13 % 50]",
        "answered twice": "answer * 2",
        "more after the answer": "answer + 'x' * (seed + 1)",
        "a key twice": "answer[:-1] + ', \"nonce\": 0}'",
        "a key too many": "answer[:-1] + ', \"more\": 0}'",
        "nested without end": "answer[:-1] + ', \"more\": ' + '[' * 10 ** (3 + seed)",
        "17 MiB": "answer + ' ' * (17 << 20)",
        "200 MiB": "answer + ' ' * (200 << 20)",
        "of another kind": "told(lambda result: {'sha256': 'x'})",
        "a list": "told(lambda result: [result])",
        "empty": "told(lambda result: {})",
        "a field too many": "told(lambda result: {**result, 'more': seed})",
        "a field missing": "told(lambda result: dict(list(result.items())[1:]))",
        "words for numbers": "told(lambda result: dict.fromkeys(result, 'much'))",
        "NaN": "told(lambda result: dict.fromkeys(result, float('nan')))",
        "infinity": "told(lambda result: dict.fromkeys(result, float('inf')))",
    }
    seven = {"to another job": "answer.replace(job['nonce'], '%032x' % seed)"}
    six = {
        "weights of nothing": "told(lambda result: {**result, **dict.fromkeys(MIB, 0)})",
        "negative weights": "told(lambda result: {**result, **dict.fromkeys(MIB, -1 - seed)})",
    }
    another = "told(lambda result: {**result, 'machine': 'riscv%d' % seed})"
    overflow = 'answer.replace(\'"peak_mib": \', \'"peak_mib": 1e999, "x": \')'
    inconclusive = frozenset({6})
    return {
        **{name: _four(saying(words, JOBS)) for name, words in four.items()},
        **{name: _seven(saying(words, JOBS)) for name, words in seven.items()},
        "to the job before": _seven(saying("before()", JOBS[1:])),
        "a number too large": _four(saying(overflow, ("start",))),
        **{name: Scenario(inconclusive, saying(words, ("start",))) for name, words in six.items()},
        "from another board": Scenario(inconclusive, saying(another, ("facts",))),
    }


def _processes() -> dict[str, Scenario]:
    fast = {
        "exit code, no answer": "sys.exit(10 + seed)",
        "killed for its memory": "os.kill(os.getpid(), signal.SIGKILL)",
        "crashed": "os.kill(os.getpid(), signal.SIGSEGV)",
        "100 MiB on stderr": "sys.stderr.write('x' * (100 << 20)); print(honest()[0])",
        "not text": "os.write(1, bytes([255]) + os.urandom(100))",
    }
    said = "print(honest()[0]); sys.exit(1 + seed % 5)"  # 5 is what a board says to a build
    slow = {
        "silent": "sys.stdin.read()",
        "drips for ever": "while True: os.write(1, b' '); time.sleep(0.2)",
        "leaves a child behind": "os.fork() or time.sleep(WAIT)",
        "stops itself": "os.kill(os.getpid(), signal.SIGSTOP)",
    }
    return {
        **{name: _four(doing(words, JOBS)) for name, words in fast.items()},
        **{name: _four(doing(words, JOBS[:3], waits=True)) for name, words in slow.items()},
        "exit code and answer": Scenario(frozenset({4, 5}), doing(said, JOBS)),
        "lease held": _four(held),
        "lease stolen": _four(doing(STEAL + PASS_ON, JOBS[2:])),
    }


def _outputs() -> dict[str, Scenario]:
    four = {
        "outputs missing": "os.unlink(out)",
        "outputs of 5 GiB": "os.truncate(out, 5 << 30)",
        "outputs too few": "save(array[: -1 - seed])",
        "outputs of doubles": "save(array.astype('float64'))",
        "outputs without classes": "save(array[:, 0].copy())",
        "outputs are objects": "save(array.astype(object))",
    }
    seven = {
        "outputs swapped": "os.replace(inputs, out)",
        "outputs garbled": "flip(out)",
    }
    nan = OUTPUTS.format(words="array[seed] = float('nan'); save(array)")
    return {
        **{n: _four(doing(OUTPUTS.format(words=w), ("outputs",))) for n, w in four.items()},
        **{n: _seven(doing(OUTPUTS.format(words=w), ("outputs",))) for n, w in seven.items()},
        "outputs not a number": Scenario(frozenset({5}), doing(nan, ("outputs",))),
    }


def _files(engine: bytes) -> dict[str, Scenario]:
    flip = "flip(path)\n" + PASS_ON
    meanwhile = "threading.Timer(0.04 * seed, flip, [path]).start()\n" + PASS_ON
    return {
        "program swapped": _seven(arranged(preplaced(board_program()))),
        "engine swapped before": _seven(arranged(preplaced(engine))),
        "engine swapped between": _seven(doing(STORED + flip, JOBS[2:])),
        "engine swapped meanwhile": _seven(doing(STORED + meanwhile, JOBS[2:])),
        "engine corrupted as it came": _seven(doing(ARRIVED.format(place=0) + flip, JOBS[1:2])),
        "inputs corrupted as they came": _seven(doing(ARRIVED.format(place=-1) + flip, JOBS[1:2])),
        "engine gone": _four(doing(STORED + "os.unlink(path)\n" + PASS_ON, JOBS[2:])),
        "folder open to others": _seven(arranged(open_to_others)),
        "folder is a link": _seven(arranged(linked)),
        "folder is a file": _four(arranged(lambda board, seed: board.files.write_bytes(b""))),
    }


def _builds() -> dict[str, Scenario]:
    """Of what the board builds, and of what it does with that."""
    odd = "found['result']['sha256'] = hashlib.sha256(open(path, 'rb').read()).hexdigest()\n"
    named = odd + "os.replace(path, os.path.join(files, found['result']['sha256']))"
    words = {
        "built engine missing": (4, "os.unlink(path)"),
        "built engine of 5 GiB": (4, "os.truncate(path, 5 << 30)"),
        "built engine garbled": (7, "flip(path)"),
        "built engine cut short, and told so": (4, f"os.truncate(path, 100)\n{named}"),
        "engine of another name": (4, "found['result']['sha256'] = '../lock'"),
        "facts that are none": (4, "found['result']['facts'] = {'layers': -1 - seed}"),
        "built for somebody else": (7, "found['nonce'] = '%032x' % seed"),
        "builds for ever": (4, "sys.stdin.read()"),
    }
    faults = {
        name: Scenario(
            frozenset({code}),
            doing(BUILT.format(words=what), ("build",), waits="ever" in name),
            builds=True,
        )
        for name, (code, what) in words.items()
    }
    return {
        **faults,
        "cannot be built": Scenario(frozenset({5}), patched(UNBUILDABLE), builds=True),
        "no room for the engine": Scenario(frozenset({5}), patched(CRAMPED), builds=True),
        "computes something else": Scenario(frozenset({5}), patched(MISCOMPUTING)),
        "computes something else than it built": Scenario(
            frozenset({5}), patched(MISCOMPUTING), builds=True
        ),
    }
