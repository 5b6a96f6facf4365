"""What a call of torch's function is taken for, however it is written."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.layers.torch_calls import RELU, Call, Function, Range, TorchCalls
from pipeline.network.nested_tensors import tensors_in

SIX: Range = (0.0, 6.0)


class Calls(TorchCalls):
    """Keeps every call, and whether its first argument's values changed."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.changed: list[bool] = []

    def on_call(self, call: Call) -> object:
        before = None if call.first is None else call.first.clone()
        result = call.run()
        self.calls.append(call)
        self.changed.append(
            before is not None and call.first is not None and not torch.equal(before, call.first)
        )
        return result


@dataclass(frozen=True)
class Expected:
    """What a call is; unless it is said, an ordinary function of x alone."""

    reads: str = "x"
    """The tensors it reads, by their names."""
    overwrites: str = ""
    adds: str = ""
    """The two sides of a plain sum."""
    is_addition: bool = False
    is_activation: bool = False
    is_non_negative: bool = False
    range: Range | None = None
    returns_its_input: bool = False


PLAIN = Expected()
SIGMA = Expected(is_activation=True)
SUM = Expected(reads="xy", adds="xy", is_addition=True)
SCALED = Expected(reads="xy", is_addition=True)
RELU_OF_X = Expected(is_activation=True, is_non_negative=True, range=RELU)
RELU_IN_PLACE = Expected("x", "x", is_activation=True, is_non_negative=True, range=RELU)
RELU6 = Expected(is_activation=True, is_non_negative=True, range=SIX)
RELU6_IN_PLACE = Expected("x", "x", is_activation=True, is_non_negative=True, range=SIX)
DROPOUT = Expected(returns_its_input=True)


def write_channel(x: Tensor) -> None:
    x[:, 0] = 7.0


def replace_data(x: Tensor, y: Tensor) -> None:
    x.data = y


TABLE: Mapping[str, tuple[Callable[[Tensor, Tensor], object], Expected]] = {
    "relu": (lambda x, _: functional.relu(x), RELU_OF_X),
    "relu, named": (lambda x, _: functional.relu(input=x), RELU_OF_X),
    "torch.relu, named": (lambda x, _: torch.relu(input=x), RELU_OF_X),
    "relu, method": (lambda x, _: x.relu(), RELU_OF_X),
    "relu, in place": (lambda x, _: functional.relu(x, inplace=True), RELU_IN_PLACE),
    "relu, in place by position": (lambda x, _: functional.relu(x, True), RELU_IN_PLACE),
    "relu_": (lambda x, _: x.relu_(), RELU_IN_PLACE),
    "torch.relu_": (lambda x, _: torch.relu_(x), RELU_IN_PLACE),
    "relu, of ATen": (lambda x, _: torch.ops.aten.relu.default(x), RELU_OF_X),
    "relu_, of ATen": (lambda x, _: torch.ops.aten.relu_.default(x), RELU_IN_PLACE),
    "relu6": (lambda x, _: functional.relu6(x), RELU6),
    "relu6, module": (lambda x, _: nn.ReLU6()(x), RELU6),
    "relu6, module in place": (lambda x, _: nn.ReLU6(inplace=True)(x), RELU6_IN_PLACE),
    "hardtanh": (
        lambda x, _: functional.hardtanh(x),
        Expected(is_activation=True, range=(-1.0, 1.0)),
    ),
    "hardtanh, by position": (lambda x, _: functional.hardtanh(x, 0, 6), RELU6),
    "hardtanh_, by position": (lambda x, _: functional.hardtanh_(x, 0, 6), RELU6_IN_PLACE),
    "hardtanh, of ATen": (lambda x, _: torch.ops.aten.hardtanh(x, 0, 6), RELU6),
    "gelu": (lambda x, _: functional.gelu(x), SIGMA),
    "logsigmoid": (lambda x, _: functional.logsigmoid(x), SIGMA),
    "clamp": (lambda x, _: x.clamp(0, 6), SIGMA),
    "clip": (lambda x, _: x.clip(0, 6), SIGMA),
    "clamp_": (lambda x, _: x.clamp_(0.1, 0.2), Expected("x", "x", is_activation=True)),
    "silu, in place": (
        lambda x, _: functional.silu(x, inplace=True),
        Expected("x", "x", is_activation=True),
    ),
    "sigmoid into out": (
        lambda x, y: torch.sigmoid(x, out=y),
        Expected("x", "y", is_activation=True, is_non_negative=True),
    ),
    "+": (lambda x, y: x + y, SUM),
    "y + x": (lambda x, y: y + x, Expected("yx", adds="yx", is_addition=True)),
    "__radd__": (lambda x, y: y.__radd__(x), Expected("yx", adds="yx", is_addition=True)),
    "torch.add": (lambda x, y: torch.add(x, y), SUM),
    "torch.add, named other": (lambda x, y: torch.add(x, other=y), SUM),
    "torch.add, all named": (lambda x, y: torch.add(input=x, other=y), SUM),
    "torch.add, alpha of 1": (lambda x, y: torch.add(x, y, alpha=1), SUM),
    "torch.add, alpha": (lambda x, y: torch.add(x, y, alpha=2), SCALED),
    "torch.add into out": (
        lambda x, y: torch.add(x, y, out=y),
        Expected("xy", "y", adds="xy", is_addition=True),
    ),
    "+=": (lambda x, y: x.__iadd__(y), Expected("xy", "x", adds="xy", is_addition=True)),
    "add_": (lambda x, y: x.add_(y), Expected("xy", "x", adds="xy", is_addition=True)),
    "add_, alpha": (lambda x, y: x.add_(y, alpha=-1), Expected("xy", "x", is_addition=True)),
    "+ 1": (lambda x, _: x + 1, Expected(is_addition=True)),
    "-=": (lambda x, y: x.__isub__(y), Expected("xy", "x")),
    "*": (lambda x, y: x * y, Expected("xy")),
    "mul_": (lambda x, y: x.mul_(y), Expected("xy", "x")),
    "copy_": (lambda x, y: x.copy_(y), Expected("xy", "x")),
    "x[:, 0] = 7": (lambda x, _: write_channel(x), Expected("x", "x")),
    "x.data = y": (lambda x, y: replace_data(x, y), Expected("xy", "x")),
    "x[0]": (lambda x, _: x[0], PLAIN),
    "~x": (lambda x, _: x.bool().__invert__(), PLAIN),
    "mean, kept dimensions": (lambda x, _: x.mean((2, 3), True), PLAIN),
    "sum, kept dimensions": (lambda x, _: torch.sum(x, (2, 3), True), PLAIN),
    "layer norm, by position": (
        lambda x, _: torch.layer_norm(x, (4,), None, None, 1e-5, True),
        PLAIN,
    ),
    "dropout": (lambda x, _: functional.dropout(x, 0.5, training=False), DROPOUT),
    "dropout, in place": (lambda x, _: functional.dropout(x, 0.5, False, True), DROPOUT),
    "torch.dropout": (lambda x, _: torch.dropout(x, 0.5, False), DROPOUT),
    "torch.dropout_, named": (lambda x, _: torch.dropout_(x, p=0.5, train=False), DROPOUT),
    "dropout2d": (lambda x, _: functional.dropout2d(x, 0.5, training=False), DROPOUT),
    "dropout that trains": (lambda x, _: functional.dropout(x, 0.5), PLAIN),
    "contiguous": (lambda x, _: x.contiguous(), PLAIN),
    "requires_grad_": (lambda x, _: x.requires_grad_(False), PLAIN),
    "cat": (lambda x, y: torch.cat([x, y], 1), Expected("xy")),
    "cat, named": (lambda x, y: torch.cat(tensors=(x, y)), Expected("xy")),
}


@pytest.mark.parametrize("way", TABLE)
def test_a_call_is_what_the_table_says(way: str) -> None:
    make, expected = TABLE[way]
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(2, 3, 4, 4, generator=generator) for _ in range(2))
    calls = Calls()
    with torch.no_grad(), calls:
        make(x, y)
    call = calls.calls[-1]
    found = Expected(
        reads=names(call.tensors, x, y),
        overwrites=names(call.overwritten, x, y),
        adds=names(call.addends or (), x, y),
        is_addition=call.is_addition,
        is_activation=call.is_activation,
        is_non_negative=call.is_non_negative,
        range=call.range,
        returns_its_input=call.returns_its_input,
    )
    if way == "~x":  # of another tensor, which is not x
        expected = Expected(reads="")
    assert found == expected
    assert call.is_in_place == calls.changed[-1]


def names(values: tuple[Tensor, ...], x: Tensor, y: Tensor) -> str:
    return "".join("x" if value is x else "y" for value in values if value is x or value is y)


def mine(input: Tensor, scale: float = 1.0, inplace: bool = False) -> Tensor:  # noqa: A002
    return input.mul_(scale) if inplace else input * scale


@pytest.mark.parametrize(
    ("function", "args", "in_place"),
    [
        (functional.relu, (True,), True),
        (functional.relu, (False,), False),
        (functional.hardtanh, (-1.0, 1.0, True), True),
        (functional.hardtanh, (True, 6.0), False),
        (mine, (2.0, True), True),
        (mine, (True,), False),
        (torch.sum, (1, True), False),
    ],
)
def test_a_true_by_position_is_in_place_only_where_the_signature_says_so(
    function: Function, args: tuple[object, ...], in_place: bool
) -> None:
    x = torch.randn(2, 3)
    assert Call(function, (x, *args), {}).is_in_place == in_place


@pytest.mark.parametrize("function", [torch.mul, torch.multiply])
def test_a_call_runs_on_another_first_argument_by_position_and_by_name(function: Function) -> None:
    one, two = torch.ones(3), torch.full((3,), 2.0)
    by_position = Call(function, (one, two), {})
    by_name = Call(function, (), {"input": one, "other": two})
    for call in (by_position, by_name):
        torch.testing.assert_close(call.run(), two)
        torch.testing.assert_close(call.run_on(two), two * 2)


def test_what_is_called_inside_a_shown_call_is_not_shown() -> None:
    calls = Calls()
    with calls:
        nn.Linear(3, 2)(torch.ones(1, 3)).relu()
    assert [call.name for call in calls.calls if call.name in ("linear", "relu")] == [
        "linear",
        "relu",
    ]


def test_tensors_are_found_in_nested_lists_and_nothing_else_is() -> None:
    x, y = torch.zeros(1), torch.ones(1)
    found = list(tensors_in([x, (y, [x]), 3, "text", None, torch.Size([2])]))
    assert [id(value) for value in found] == [id(x), id(y), id(x)]
