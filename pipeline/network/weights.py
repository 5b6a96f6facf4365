"""Weights: safetensors in and out, never a pickle, and never into the wrong network."""

import json
import os
import pickletools
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from profiles.errors import ConfigError, IntegrityError

MAX_HEADER_BYTES = 10 << 20
MAX_TENSORS = 100_000


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises IntegrityError for a pickle under whatever name, ConfigError for other faults.
    """
    # Reading a pipe or a device would never end.
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ConfigError(f"{path}: cannot be read (not a file)")
    try:
        raw = path.read_bytes()
    except MemoryError as error:
        raise ConfigError(f"{path}: cannot be read (larger than the memory)") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    # A safetensors file begins with the length of its header, which may look like a pickle's
    # first bytes; the brace after it does not.
    if raw[8:9] != b"{" and _is_pickle(raw):
        raise IntegrityError(
            f"{path}: is a pickle, which may run code. Where you trust it, convert it once: "
            "safetensors.torch.save_file(torch.load(old, weights_only=True), new)"
        )
    try:
        length = struct.unpack("<Q", raw[:8])[0]
        if raw[8:9] != b"{" or length > len(raw) - 8:
            raise ConfigError(f"{path}: not a safetensors file, or cut short; write it again")
        if length > MAX_HEADER_BYTES or len(json.loads(raw[8 : 8 + length])) > MAX_TENSORS:
            raise ConfigError(f"{path}: its header is larger than any real network's")
        return dict(load(raw))
    except ConfigError:
        raise
    except Exception as error:  # safetensors raises a bare SafetensorError
        raise ConfigError(f"{path}: not a readable safetensors file ({error})") from error


def _is_pickle(raw: bytes) -> bool:
    """Whether it is one of torch's archives or reads as a pickle to the end; nothing of it runs."""
    if raw[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        return True
    try:
        return sum(1 for _ in pickletools.genops(raw)) > 1
    except Exception:  # whatever stands where an opcode or its argument should
        return False


def write_weights(network: nn.Module, path: Path) -> None:
    """Write every parameter and buffer of `network`, on the CPU, durably."""
    write_tensors(
        {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}, path
    )


def write_tensors(
    tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors beside `path` first and rename, so that a kill leaves the old file."""
    whole = {name: value.contiguous() for name, value in tensors.items()}
    raw = save(whole, dict(metadata) if metadata else None)
    fresh = path.with_name(path.name + ".new")
    with fresh.open("wb") as file:
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def load_weights(network: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Copy `tensors` into `network`, every one of them and nothing else.

    Only batch norm's `num_batches_tracked`, which older files lack, may be missing.
    Raises ConfigError naming what is missing, extra or of another shape; shapes that differ
    in channel counts alone are called what they are: pruned weights in an unpruned network,
    or the reverse.
    """
    wanted = network.state_dict()
    missing = [n for n in wanted if n not in tensors and not n.endswith(".num_batches_tracked")]
    extra = [name for name in tensors if name not in wanted]
    shapes = [n for n in wanted if n in tensors and tensors[n].shape != wanted[n].shape]
    if not missing and not extra and shapes:
        raise ConfigError(_hand_off(wanted, tensors, shapes, where))
    faults = [
        f"{len(names)} {what}, such as {names[0]}"
        for what, names in (("missing", missing), ("unknown", extra), ("of another shape", shapes))
        if names
    ]
    if faults:
        raise ConfigError(f"{where} does not fit the network: {'; '.join(faults)}")
    for name in wanted:
        if name in tensors and bool(torch.isnan(tensors[name]).any()):
            raise ConfigError(f"{where}: {name} holds NaN; the training went wrong, train again")
    with torch.no_grad():
        for name, value in wanted.items():
            if name in tensors:
                value.copy_(tensors[name])


def _hand_off(
    wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], shapes: list[str], where: str
) -> str:
    name = shapes[0]
    detail = (
        f"{len(shapes)} tensors differ in shape, such as {name}: "
        f"{list(found[name].shape)} in the file, {list(wanted[name].shape)} in the network"
    )
    if any(found[n].dim() != wanted[n].dim() for n in shapes):
        return f"{where} does not fit the network: {detail}"
    smaller = all(found[n].numel() < wanted[n].numel() for n in shapes)
    larger = all(found[n].numel() > wanted[n].numel() for n in shapes)
    if smaller:
        hint = "pruned weights, but the network is unpruned: apply their plan.json to it first"
    elif larger:
        hint = "unpruned weights, but the network is pruned: give the pruned network's own weights"
    else:
        hint = "weights of another architecture"
    return f"{where} holds {hint} ({detail})"
