"""The ways in which a step could break a network."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from varied_network import Sound, Varied, varied

from exporters.arrays import FloatArray
from exporters.exporter import Int8Format
from exporters.graph.fp16 import to_fp16
from exporters.graph.int8 import to_int8
from exporters.graph.reference import plain_network
from exporters.graph.simplify import simplify
from exporters.graph.to_onnx import torch_network
from exporters.parity import Network, require_agreement
from profiles.device import Precision
from profiles.errors import SlimgateError

Edit = Callable[[onnx.ModelProto], None]
Op = Literal["Conv", "Clip", "Relu", "Add", "AveragePool", "MaxPool", "Gemm"]
STYLE = Int8Format(unsigned_activations=True, quantised_bias=True)


@dataclass(frozen=True)
class Defect:
    """What a step could do wrong; its result must not pass for the network before it."""

    name: str
    spoil: Callable[[Sound], Network]
    precision: Precision = "fp32"

    def refusal(self, before: Sound) -> str:
        """What the project says of it; empty if it notices nothing."""
        candidate = self.spoil(before)
        try:
            pair = (self._wanted(before), candidate)
            require_agreement(self.name, pair, before.images_and_others, self.precision)
        except SlimgateError as error:
            return str(error)
        return ""

    def _wanted(self, before: Sound) -> Network:
        return before.reference


class Softmaxed(Defect):
    """A defect of a network that ends in a softmax."""

    def _wanted(self, before: Sound) -> Network:
        return softmax(before.reference)


@dataclass(frozen=True)
class Unfit:
    """A network that a step must refuse to take."""

    name: str
    spoil: Callable[[onnx.ModelProto], onnx.ModelProto]
    step: Callable[[onnx.ModelProto, Sound], object]

    def refusal(self, before: Sound) -> str:
        """What the step says of it; empty if it takes it."""
        spoiled = self.spoil(before.model)
        try:
            self.step(spoiled, before)
        except SlimgateError as error:
            return str(error)
        return ""


def softmax(network: Network) -> Network:
    def run(batch: FloatArray) -> FloatArray:
        powers = np.exp(network(batch) - network(batch).max(1, keepdims=True))
        return np.asarray(powers / powers.sum(1, keepdims=True), np.float32)

    return run


def seen(change: Callable[[FloatArray], FloatArray]) -> Callable[[Sound], Network]:
    """The network on inputs that came through `change`."""

    def spoil(before: Sound) -> Network:
        network = before.reference
        return lambda batch: network(np.ascontiguousarray(change(batch), np.float32))

    return spoil


def given(change: Callable[[FloatArray], FloatArray]) -> Callable[[Sound], Network]:
    """The network's outputs through `change`."""

    def spoil(before: Sound) -> Network:
        network = before.reference
        return lambda batch: np.asarray(change(network(batch)), np.float32)

    return spoil


def trained_otherwise(change: Callable[[Varied], None]) -> Callable[[Sound], Network]:
    """The torch network with `change` made to it."""

    def spoil(_: Sound) -> Network:
        network = varied()
        assert isinstance(network, Varied)
        with torch.no_grad():
            change(network)
        return torch_network(network)

    return spoil


def edited(edit: Edit) -> Callable[[Sound], Network]:
    """The ONNX model with `edit` made to it."""
    return lambda before: plain_network(with_edit(before.model, edit).SerializeToString())


def with_edit(model: onnx.ModelProto, edit: Edit) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    edit(copy)
    return copy


def node_of(model: onnx.ModelProto, op: Op, place: int = 0) -> onnx.NodeProto:
    nodes: list[onnx.NodeProto] = [node for node in model.graph.node if node.op_type == op]
    return nodes[place]


def weight(
    op: Op, change: Callable[[FloatArray], FloatArray], place: int = 0, bias: bool = False
) -> Edit:
    """Change the weight of the layer of this kind at this place."""

    def edit(model: onnx.ModelProto) -> None:
        name = node_of(model, op, place).input[2 if bias else 1]
        tensor = next(one for one in model.graph.initializer if one.name == name)
        array = np.ascontiguousarray(change(numpy_helper.to_array(tensor).copy()), np.float32)
        tensor.CopyFrom(numpy_helper.from_array(array, name))

    return edit


def replaced(op: Op, by: str, alpha: float | None = None) -> Edit:
    """Another operator in the place of one; it takes the first input only."""

    def edit(model: onnx.ModelProto) -> None:
        node = node_of(model, op)
        other = helper.make_node(by, node.input[:1], node.output, alpha=alpha)
        kept = ("kernel_shape", "strides", "pads") if by.endswith("Pool") else ()
        other.attribute.extend(one for one in node.attribute if one.name in kept)
        node.CopyFrom(other)

    return edit


def attribute(op: Op, name: str, value: int | list[int], place: int = 0) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        node = node_of(model, op, place)
        kept = [one for one in node.attribute if one.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute(name, value)])

    return edit


def put(*places: tuple[int, ...], value: float) -> Callable[[FloatArray], FloatArray]:
    """These entries of an array at `value`."""

    def change(array: FloatArray) -> FloatArray:
        for place in places:
            array[place] = value
        return array

    return change


def times(factor: float, place: int) -> Callable[[FloatArray], FloatArray]:
    """One channel at a multiple."""

    def change(array: FloatArray) -> FloatArray:
        array[place] *= np.float32(factor)
        return array

    return change


def levels(count: int) -> Callable[[FloatArray], FloatArray]:
    """Rounded to so many levels."""

    def change(array: FloatArray) -> FloatArray:
        step = np.float32(2 * np.abs(array).max() / (count - 1))
        return np.asarray((np.floor(array / step) + np.float32(0.5)) * step, np.float32)

    return change


def everywhere(change: Callable[[FloatArray], FloatArray]) -> Edit:
    """The weights of all convolutions changed."""

    def edit(model: onnx.ModelProto) -> None:
        for place in range(sum(node.op_type == "Conv" for node in model.graph.node)):
            weight("Conv", change, place)(model)

    return edit


def reset(network: Varied) -> None:
    """Batch norms that do nothing."""
    for norm in (network.stem_bn, network.inner_bn):
        norm.reset_parameters()
        norm.reset_running_stats()


def with_eps(network: Varied) -> None:
    for norm in (network.stem_bn, network.inner_bn):
        norm.eps = 0.1


def in_training(network: Varied) -> None:
    network.stem_bn.train()


def stale(_: Sound) -> Network:
    return torch_network(varied(seed=1))


def constant(before: Sound) -> Network:
    answer = before.reference(before.inputs[:1])
    return lambda batch: np.repeat(answer, len(batch), 0)


def answers_late(before: Sound) -> Network:
    """Each answer is the one to the input before."""
    network = before.reference
    last = [network(before.inputs[-1:])]

    def run(batch: FloatArray) -> FloatArray:
        now = np.concatenate([last[0], network(batch)])
        last[0] = now[-1:]
        return now[:-1]

    return run


def first_of_batch(before: Sound) -> Network:
    """Each answer in a batch is the one to its first input."""
    network = before.reference
    return lambda batch: np.repeat(network(batch[:1]), len(batch), 0)


def ranges_at(scale: float) -> Callable[[Sound], Network]:
    """int8 with the ranges of all activations at a multiple."""

    def edit(model: onnx.ModelProto) -> None:
        quantised = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
        scales = {node.input[1] for node in quantised}
        for tensor in model.graph.initializer:
            if tensor.name in scales:
                array = np.asarray(numpy_helper.to_array(tensor) * scale, np.float32)
                tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))

    def spoil(before: Sound) -> Network:
        model = to_int8(before.model, before.inputs, STYLE).model
        return plain_network(with_edit(model, edit).SerializeToString())

    return spoil


def loud(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same network in real numbers; its activations are beyond fp16."""
    copy = with_edit(model, weight("Conv", lambda w: w * 9e3, 1))
    return with_edit(copy, weight("Conv", lambda b: b * 9e3, 1, bias=True))


def half(model: onnx.ModelProto, before: Sound) -> object:
    return to_fp16(model, before.feeds)


def simplified(model: onnx.ModelProto, before: Sound) -> object:
    return simplify(model, before.feeds)


def quantised(model: onnx.ModelProto, before: Sound) -> object:
    return to_int8(model, before.inputs, STYLE)


DEFECTS: tuple[Defect | Unfit, ...] = (
    Defect("batch norm ignored", trained_otherwise(reset)),
    Defect("batch norm with another eps", trained_otherwise(with_eps)),
    Defect("batch norm left in training", trained_otherwise(in_training)),
    Defect("wrong mean", seen(lambda x: x + 0.02)),
    Defect("wrong std", seen(lambda x: x * 1.02)),
    Defect("mean and std not applied", seen(lambda x: x * 0.225 + 0.45)),
    Defect("red and blue swapped", seen(lambda x: x[:, ::-1])),
    Defect("height and width swapped", seen(lambda x: x.swapaxes(2, 3))),
    Defect("channels last", seen(lambda x: x.transpose(0, 2, 3, 1).reshape(x.shape))),
    Defect("shifted by a pixel", seen(lambda x: np.roll(x, 1, 3))),
    Defect("inputs rounded", seen(lambda x: np.asarray(np.rint(x * 16) / 16, np.float32))),
    Defect("inputs clipped", seen(lambda x: np.clip(x, 0, 1))),
    Softmaxed("softmax missing", lambda before: before.reference),
    Defect("softmax added", lambda before: softmax(before.reference)),
    Defect("classes one off", given(lambda y: np.roll(y, 1, 1))),
    Defect("last classes swapped", given(lambda y: y[:, [0, 1, 2, 3, 5, 4]])),
    Defect("outputs transposed", given(lambda y: y.T)),
    Defect("a class missing", given(lambda y: y[:, :-1])),
    Defect("constant", constant),
    Defect("answers late", answers_late),
    Defect("first of the batch for all", first_of_batch),
    Defect("another checkpoint", stale),
    Defect("kernel transposed", edited(weight("Conv", lambda w: w.swapaxes(2, 3)))),
    Defect("kernel flipped", edited(weight("Conv", lambda w: w[:, :, ::-1, ::-1]))),
    Defect("in and out swapped", edited(weight("Conv", lambda w: w.swapaxes(0, 1), 1))),
    Defect("channels one off", edited(weight("Conv", lambda w: np.roll(w, 1, 0), 1))),
    Defect("scale of a channel doubled", edited(weight("Conv", times(2, 3), 1))),
    Defect("sign of a channel", edited(weight("Conv", times(-1, 3), 2))),
    Defect("a channel dead", edited(weight("Conv", times(0, 3), 2))),
    Defect("weights of ten bits", edited(everywhere(levels(1 << 10)))),
    Defect("bias zero", edited(weight("Conv", lambda b: b * 0, 2, bias=True))),
    Defect("head dead", edited(weight("Gemm", lambda w: w * 0))),
    Defect("head scrambled", edited(weight("Gemm", lambda w: w.T.reshape(w.shape)))),
    Defect("NaN in a weight", edited(weight("Conv", put((0, 0, 0, 0), value=np.nan)))),
    Defect("infinity in a bias", edited(weight("Gemm", put((2,), value=np.inf), bias=True))),
    Defect("padding on one side", edited(attribute("Conv", "pads", [0, 0, 2, 2]))),
    Defect("stride one later", edited(attribute("Conv", "pads", [0, 0, 1, 1], 3))),
    Defect("average counts the padding", edited(attribute("AveragePool", "count_include_pad", 1))),
    Defect("average for maximum", edited(replaced("MaxPool", "AveragePool"))),
    Defect("relu dropped", edited(replaced("Relu", "Identity"))),
    Defect("relu leaks", edited(replaced("Relu", "LeakyRelu", alpha=0.05))),
    Defect("relu for relu6", edited(replaced("Clip", "Relu"))),
    Defect("residual dropped", edited(replaced("Add", "Identity"))),
    Defect("four levels at int8", edited(everywhere(levels(4))), "int8"),
    Defect("ranges too small at int8", ranges_at(0.02), "int8"),
    Defect("ranges too large at int8", ranges_at(50), "int8"),
    Defect("another checkpoint at int8", stale, "int8"),
    Defect("head dead at int8", edited(weight("Gemm", lambda w: w * 0)), "int8"),
    Defect("another checkpoint at fp16", stale, "fp16"),
    Defect("scale of a channel at fp16", edited(weight("Conv", times(2, 3), 1)), "fp16"),
    Unfit("overflow at fp16", loud, half),
    Unfit(
        "weight beyond fp16",
        lambda model: with_edit(model, weight("Gemm", put((0, 0), value=1e5))),
        half,
    ),
    Unfit(
        "NaN at fp16",
        lambda model: with_edit(model, weight("Conv", put((0, 0, 0, 0), value=np.nan))),
        half,
    ),
    Unfit(
        "NaN before simplifying",
        lambda model: with_edit(model, weight("Conv", put((0, 0, 0, 0), value=np.nan))),
        simplified,
    ),
    Unfit(
        "constant before simplifying",
        lambda model: with_edit(model, weight("Gemm", lambda w: w * 0)),
        simplified,
    ),
    Unfit(
        "NaN before int8",
        lambda model: with_edit(model, weight("Gemm", put((0, 0), value=np.nan))),
        quantised,
    ),
)
