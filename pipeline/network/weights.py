"""Weights: safetensors in and out, never a pickle, and never into the wrong network."""

import json
import pickletools
import struct
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from pipeline.data.durable_files import write_durably
from profiles.errors import ConfigError, IntegrityError

MAX_HEADER_BYTES = 10 << 20
MAX_TENSORS = 100_000
NORM_STATISTICS = ("running_mean", "running_var")
"""The endings of the names of the buffers in which a norm keeps what it saw."""


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
    values = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
    write_durably(save({name: value.contiguous() for name, value in values.items()}), path)


def load_weights(network: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Copy `tensors` into `network`, every one of them and nothing else.

    Only batch norm's `num_batches_tracked`, which older files lack, may be missing.
    Raises ConfigError naming what is missing, extra, of another shape or kind of number, or holds
    values that no training gives. A prefix on every name, another number of classes and pruned
    weights in an unpruned network, or the reverse, are called what they are.
    """
    wanted = network.state_dict()
    _check_names(wanted, tensors, where)
    _check_shapes(network, tensors, where)
    _check_dtypes(wanted, tensors, where)
    converted = {name: value.to(wanted[name].dtype) for name, value in tensors.items()}
    check_values(network, converted, where)
    with torch.no_grad():
        for name, value in converted.items():
            wanted[name].copy_(value)


def check_values(network: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Raise ConfigError naming the tensor of `network` whose values no training gives.

    These are NaN in any tensor, infinity in a parameter or in a norm's statistics, and a negative
    variance. Other buffers may hold infinity: attention masks do.
    """
    parameters = {name for name, _ in network.named_parameters(remove_duplicate=False)}
    for name, value in tensors.items():
        is_variance = name.endswith("running_var")
        is_finite_when_trained = name in parameters or name.endswith(NORM_STATISTICS)
        if bool(torch.isnan(value).any()):
            fault = "NaN"
        elif is_finite_when_trained and bool(torch.isinf(value).any()):
            fault = f"infinity (as {value.dtype})"
        elif is_variance and bool((value < 0).any()):
            fault = "a negative variance"
        else:
            continue
        raise ConfigError(f"{where}: {name} holds {fault}; the training went wrong, train again")


def _check_names(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], where: str) -> None:
    missing, extra = _misfits(wanted, found)
    if not missing and not extra:
        return
    prefix = _surplus_prefix(wanted, found)
    if prefix:
        raise ConfigError(
            f"{where} does not fit the network: every name in it begins with {prefix!r} (wrappers "
            "such as DataParallel put that there), and fits without. Take it off once: "
            "safetensors.torch.save_file({name.removeprefix("
            f"{prefix!r}): tensor for name, tensor in safetensors.torch.load_file(old).items()}}, "
            "new)"
        )
    shapes = _of_another_shape(wanted, found)
    faults = [
        f"{len(names)} {what}, such as {names[0]}"
        for what, names in (("missing", missing), ("unknown", extra), ("of another shape", shapes))
        if names
    ]
    raise ConfigError(f"{where} does not fit the network: {'; '.join(faults)}")


def _misfits(wanted: Iterable[str], found: Iterable[str]) -> tuple[list[str], list[str]]:
    """The names of the network that `found` lacks, and those that the network does not have."""
    names, own = set(found), set(wanted)
    missing = [n for n in wanted if n not in names and not n.endswith(".num_batches_tracked")]
    return missing, [name for name in found if name not in own]


def _surplus_prefix(wanted: Iterable[str], found: Collection[str]) -> str:
    """What all names of `found` begin with and fit without, such as "module."; "" for none."""
    *modules, _ = next(iter(found), "").split(".")
    for count in range(1, len(modules) + 1):
        prefix = ".".join(modules[:count]) + "."
        rest = [name.removeprefix(prefix) for name in found if name.startswith(prefix)]
        if len(rest) == len(found) and _misfits(wanted, rest) == ([], []):
            return prefix
    return ""


def _check_shapes(network: nn.Module, found: Mapping[str, Tensor], where: str) -> None:
    wanted = network.state_dict()
    shapes = _of_another_shape(wanted, found)
    if not shapes:
        return
    if _is_other_class_count(network, found, shapes):
        in_file, in_network = len(found[shapes[0]]), len(wanted[shapes[0]])
        raise ConfigError(
            f"{where} does not fit the network: {shapes[0]} has {in_file} outputs in the file, "
            f"{in_network} in the network; set task.classes = {in_file} for a network of "
            f"torchvision or timm, or build your own with {in_file} outputs"
        )
    raise ConfigError(_hand_off(wanted, found, shapes, where))


def _is_other_class_count(
    network: nn.Module, found: Mapping[str, Tensor], shapes: list[str]
) -> bool:
    """Whether the heads alone differ, all in the same way in their number of outputs.

    A network has several heads where auxiliary ones helped its training. What reads a pruned
    layer differs in its inputs too, and a head has no reader.
    """
    wanted = network.state_dict()
    layers = [network.get_submodule(name.rpartition(".")[0]) for name in shapes]
    counts = {(found[n].shape[:1], wanted[n].shape[:1]) for n in shapes}
    return (
        all(isinstance(layer, nn.Linear | nn.Conv2d) for layer in layers)
        and found[shapes[0]].dim() > 1
        and all(found[n].shape[1:] == wanted[n].shape[1:] for n in shapes)
        and len(counts) == 1
    )


def _of_another_shape(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    return [n for n in wanted if n in found and found[n].shape != wanted[n].shape]


def _check_dtypes(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], where: str) -> None:
    for name, value in found.items():
        dtype = wanted[name].dtype
        # Only training reads this count, and an average of several networks makes a float of it.
        if not name.endswith(".num_batches_tracked") and not _is_convertible(value, dtype):
            raise ConfigError(
                f"{where}: {name} is {value.dtype}, in the network {dtype}; save the weights as "
                "the training left them"
            )


def _is_convertible(value: Tensor, dtype: torch.dtype) -> bool:
    """Whether a tensor means the same in `dtype`.

    Floats do in floats of any width, integers in integers, floats in integers where they are
    whole. Integers do not in floats: they are quantised weights, whose scale is elsewhere.
    """
    if value.is_complex() or dtype.is_complex:
        return value.is_complex() == dtype.is_complex
    if dtype.is_floating_point:
        return value.is_floating_point()
    return not value.is_floating_point() or torch.equal(value, value.round())


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
