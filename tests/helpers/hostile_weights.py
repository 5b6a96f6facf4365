"""Hostile weights: pickles under every name, archives, headers that lie, damage."""

import io
import json
import os
import struct
import tarfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import torch
from hostile_file import Hostile, Kind, damaged
from safetensors.torch import save

Value: TypeAlias = "str | int | float | bool | Sequence[Value] | Mapping[str, Value] | None"
MARK = "a-pickle-ran"
"""What every pickle here would make in the folder it is read in."""
SHELL = f"touch {MARK}".encode()
PYTHON = f"open('{MARK}','w')".encode()


def _short(text: bytes) -> bytes:
    """A text as protocol 4 writes it."""
    return b"\x8c" + bytes([len(text)]) + text


def _found(module: bytes, name: bytes) -> bytes:
    return _short(module) + _short(name) + b"\x93"


def _calls(module: bytes, name: bytes, argument: bytes = SHELL) -> bytes:
    """A pickle of protocol 0: module.name(argument)."""
    return b"c" + module + b"\n" + name + b"\n(V" + argument + b"\ntR."


PICKLES: dict[str, bytes] = {
    "os.system": _calls(b"os", b"system"),
    "posix.system": _calls(b"posix", b"system"),
    "nt.system": _calls(b"nt", b"system"),
    "os.mkdir": _calls(b"os", b"mkdir", MARK.encode()),
    "os.popen": _calls(b"os", b"popen"),
    "subprocess.getoutput": _calls(b"subprocess", b"getoutput"),
    "subprocess.Popen": _calls(b"subprocess", b"Popen", b"true"),
    "eval": _calls(b"builtins", b"eval", PYTHON),
    "exec": _calls(b"builtins", b"exec", PYTHON),
    "__builtin__": _calls(b"__builtin__", b"eval", PYTHON),
    "runpy": _calls(b"runpy", b"run_path", b"evil.py"),
    "webbrowser": _calls(b"webbrowser", b"open", b"file:///"),
    "pydoc": _calls(b"pydoc", b"pipepager", SHELL),
    "timeit": _calls(b"timeit", b"timeit", PYTHON),
    "cProfile": _calls(b"cProfile", b"run", PYTHON),
    "code": _calls(b"code", b"interact", PYTHON),
    "pip": _calls(b"pip", b"main", b"download"),
    "torch gadget": _calls(b"torch.serialization", b"load", b"evil.pt"),
    "torch collect": _calls(b"torch._utils_internal", b"resolve_library_path", SHELL),
    "numpy gadget": _calls(b"numpy.testing._private.utils", b"runstring", PYTHON),
    "instance": b"(ios\nsystem\n".replace(b"(i", b"(V" + SHELL + b"\ni") + b".",
    "object": b"(cos\nsystem\nV" + SHELL + b"\no.",
    "protocol 1": b"cos\nsystem\nX" + struct.pack("<I", len(SHELL)) + SHELL + b"\x85R.",
    "protocol 2": b"\x80\x02" + _calls(b"os", b"system"),
    "protocol 3": b"\x80\x03" + _calls(b"os", b"system"),
    "protocol 4": b"\x80\x04" + _found(b"os", b"system") + _short(SHELL) + b"\x85R.",
    "protocol 5": b"\x80\x05" + _found(b"os", b"system") + _short(SHELL) + b"\x85R.",
    "protocol 77": b"\x80\x4d" + _calls(b"os", b"system"),
    "framed": b"\x80\x04\x95" + struct.pack("<Q", 3) + b"N0N0" + _calls(b"os", b"system"),
    "memo": b"cos\nsystem\np0\n0g0\n(V" + SHELL + b"\ntR.",
    "newobj": b"\x80\x02cos\nsystem\n(V" + SHELL + b"\nt\x81.",
    "build": b"\x80\x02cos\nsystem\n)\x81}(V__setstate__\ncos\nsystem\nubV" + SHELL + b"\nb.",
    "extension": b"\x80\x02\x82\x01(V" + SHELL + b"\ntR.",
    "persistent": b"P../../secret\n.",
    "after a list": b"(l0" + _calls(b"os", b"system"),
    "two in one": b"N." + _calls(b"os", b"system"),
    "never ends": _calls(b"os", b"system")[:-1],
    "ends in rubbish": _calls(b"os", b"system") + b"\xff" * 40,
}


def _zipped(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


def _tarred() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo("../../pickle")
        entry.size = len(PICKLES["os.system"])
        archive.addfile(entry, io.BytesIO(PICKLES["os.system"]))
    return buffer.getvalue()


ARCHIVES: dict[str, bytes] = {
    "torch": _zipped("archive/data.pkl", PICKLES["protocol 2"]),
    "torch, out of its folder": _zipped("../../data.pkl", PICKLES["protocol 2"]),
    "torch before 1.6": b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03." * 2,
    "bomb": _zipped("data", bytes(50 << 20)),
    "empty": b"PK\x05\x06" + bytes(18),
    "cut": _zipped("archive/data.pkl", PICKLES["protocol 2"])[:40],
    "tar": _tarred(),
    "numpy": b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,)}",
    "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(99),
    "gguf": b"GGUF\x03\x00\x00\x00" + b"\xff" * 16,
    "gzip": b"\x1f\x8b\x08" + bytes(40),
    "elf": b"\x7fELF\x02\x01\x01" + bytes(60),
    "script": b"#!/bin/sh\n" + SHELL,
}


def _tensor(**changes: Value) -> dict[str, Value]:
    return {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16], **changes}


def _file(header: Mapping[str, Value] | Sequence[Value], data: int = 16) -> bytes:
    return _raw(json.dumps(header).encode(), data)


def _raw(header: bytes, data: int = 16, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + bytes(data)


ONE = json.dumps(_tensor()).encode()
NEST = 50_000
NOTHING = _tensor(shape=[0], data_offsets=[0, 0])
KINDS: tuple[Kind, ...] = ("onnx", "engine")
HEADERS: dict[str, bytes] = {
    "length of everything": _raw(b'{"a":' + ONE + b"}", length=(1 << 64) - 1),
    "length that is negative": _raw(b'{"a":' + ONE + b"}", length=1 << 63),
    "length into the tensors": _raw(b'{"a":' + ONE + b"}", length=len(ONE) + 20),
    "length too short": _raw(b'{"a":' + ONE + b"}", length=9),
    "length of nothing": _raw(b'{"a":' + ONE + b"}", length=0),
    "length of 11 MiB": _raw(b"{" + b" " * (11 << 20) + b"}"),
    "too many tensors": _file({str(i): NOTHING for i in range(100_001)}, 0),
    "one tensor over another": _file({"a": _tensor(), "b": _tensor()}),
    "half over another": _file({"a": _tensor(), "b": _tensor(data_offsets=[8, 24])}, 24),
    "hole": _file({"a": _tensor(), "b": _tensor(data_offsets=[20, 36])}, 36),
    "hole at the start": _file({"a": _tensor(data_offsets=[4, 20])}, 20),
    "bytes left over": _file({"a": _tensor()}, 17),
    "bytes missing": _file({"a": _tensor()}, 15),
    "no bytes": _file({"a": _tensor()}, 0),
    "name given twice": _raw(b'{"a":' + ONE + b',"a":' + ONE.replace(b"16", b"99") + b"}"),
    "end before start": _file({"a": _tensor(data_offsets=[16, 0])}),
    "negative offset": _file({"a": _tensor(data_offsets=[-16, 0])}),
    "offset beyond counting": _file({"a": _tensor(data_offsets=[0, 1 << 70])}),
    "offset of a tebibyte": _file({"a": _tensor(shape=[1 << 38], data_offsets=[0, 1 << 40])}),
    "offset not whole": _file({"a": _tensor(data_offsets=[0, 16.5])}),
    "one offset": _file({"a": _tensor(data_offsets=[16])}),
    "three offsets": _file({"a": _tensor(data_offsets=[0, 8, 16])}),
    "negative shape": _file({"a": _tensor(shape=[-2, -2])}),
    "shape that overflows": _file({"a": _tensor(shape=[1 << 62, 1 << 62])}),
    "shape that wraps around": _file({"a": _tensor(shape=[1 << 32, 1 << 32])}, 0),
    "shape of other size": _file({"a": _tensor(shape=[3, 2])}),
    "shape of text": _file({"a": _tensor(shape="2,2")}),
    "unknown type": _file({"a": _tensor(dtype="PICKLE")}),
    "type of other size": _file({"a": _tensor(dtype="F64")}),
    "type is a number": _file({"a": _tensor(dtype=1)}),
    "no type": _file({"a": {"shape": [2, 2], "data_offsets": [0, 16]}}),
    "unknown field": _file({"a": {"dtype": "F32", "shape": [4], "offset": [0, 16]}}),
    "tensor is a list": _file({"a": [0, 16]}),
    "NaN metadata": _file({"__metadata__": {"epoch": float("nan")}, "a": _tensor()}),
    "nested metadata": _file({"__metadata__": {"a": {"b": "c"}}, "a": _tensor()}),
    "metadata is a list": _file({"__metadata__": ["a"], "a": _tensor()}),
    "deep nesting": _raw(b'{"a":' * NEST + b"1" + b"}" * NEST),
    "deep lists": _raw(b'{"a":' + b"[" * NEST + b"]" * NEST + b"}"),
    "not JSON": _raw(b"{a: 1}"),
    "JSON cut short": _raw(b'{"a":' + ONE),
    "trailing JSON": _raw(b'{"a":' + ONE + b"}{}"),
    "list": _file([_tensor()]),
    "text before": _raw(b' {"a":' + ONE + b"}"),
    "byte order mark": _raw(b'\xef\xbb\xbf{"a":' + ONE + b"}"),
    "UTF-16": _raw(('{"a":' + ONE.decode() + "}").encode("utf-16-le")),
    "not UTF-8": _raw(b'{"\xff\xfe":' + ONE + b"}"),
    "zero byte": _raw(b'{"a\0":' + ONE + b"}"),
    "half a character": _raw(b'{"\\ud800":' + ONE + b"}"),
    "pickle in the header": _raw(b"{" + PICKLES["os.system"]),
    "number of a megabyte": _raw(b'{"a":' + b"9" * (1 << 20) + b"}"),
}


def _odd(root: Path) -> Iterator[Hostile]:
    """What is no file of ordinary size."""
    names = ("pipe", "folder", "absent", "sparse", "device", "circle", "random")
    paths = {name: root / f"{name}.safetensors" for name in names}
    os.mkfifo(paths["pipe"])
    paths["folder"].mkdir()
    with paths["sparse"].open("wb") as file:
        file.truncate(1 << 40)
    paths["device"].symlink_to("/dev/zero")
    paths["random"].symlink_to("/dev/urandom")
    paths["circle"].symlink_to(paths["circle"])
    for name, path in paths.items():
        yield Hostile(f"weights odd {name}", "weights", path)


def files(root: Path) -> Iterator[Hostile]:
    """Every hostile weights file, and the pickles and archives under the names of models too."""
    root.mkdir()
    families = (("pickle", PICKLES), ("archive", ARCHIVES), ("header", HEADERS))
    for family, contents in families:
        for place, (name, content) in enumerate(contents.items()):
            path = root / f"{family}{place}.safetensors"
            path.write_bytes(content)
            yield Hostile(f"weights {family} {name}", "weights", path)
            if family != "header":
                for kind in KINDS:
                    model = path.with_name(f"{path.stem}-{kind}.onnx")
                    model.write_bytes(content)
                    yield Hostile(f"{kind} {family} {name}", kind, model)
    yield from _odd(root)
    good = save({"a": torch.ones(3, 4), "b": torch.ones(5)}, {"epoch": "3"})
    yield from damaged(root, good, "weights", 300)
