"""torch -> ONNX: the same network or a refusal, and nothing of this machine in the file."""

import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from networks import Depthwise, trained
from onnx_graphs import Floats, feeds
from torch import Tensor, nn

import exporters
from exporters.graph.reference import plain_network
from exporters.graph.to_onnx import Exported, cleaned, to_onnx, torch_network
from exporters.parity import TOLERANCES
from profiles.errors import StageError


class Branch(nn.Module):
    """Python decides by the data: torch.export cannot follow, TorchScript keeps what it saw."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)
        self.threshold = threshold

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(x)
        return 2 * y if y.sum() > self.threshold else y


class Bessel(nn.Module):
    """Ends in a function that ONNX does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.special.bessel_j0(self.fc(x))
        return y


class Pair(nn.Module):
    """Answers two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.fc(x), x


class Cond(nn.Module):
    """Has branches that do get into the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.cond(
            x.sum() > 0, lambda a: self.fc(a) * 2, lambda a: self.fc(a) + 1, (x,)
        )
        return y


class Noisy(nn.Module):
    """Batch norm and dropout, which answer otherwise while training."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.ReLU())
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(self.layers(x))
        return y


INPUTS = feeds(1, 4, count=6)
IMAGES = feeds(1, 3, 8, 8)


def export(network: nn.Module, opset: int = 20, dynamic_batch: bool = False) -> Exported:
    return to_onnx(network, INPUTS, opset, dynamic_batch)


def always() -> nn.Module:
    torch.manual_seed(0)
    return Branch(-1e9)


@pytest.fixture(scope="module")
def dynamic() -> Exported:
    return to_onnx(trained(Depthwise), IMAGES, opset=20, dynamic_batch=True)


@pytest.fixture(scope="module")
def traced() -> Exported:
    return export(always(), dynamic_batch=True)


def test_torch_export_comes_first_and_its_graph_is_the_network(dynamic: Exported) -> None:
    assert (dynamic.method, dynamic.refused) == ("dynamo", ())
    assert dynamic.parity.error <= TOLERANCES["fp32"].error
    assert dynamic.parity.inputs == len(IMAGES)


def test_what_torch_export_cannot_follow_is_traced_and_the_reason_is_kept(
    traced: Exported,
) -> None:
    assert traced.method == "torchscript"
    (reason,) = traced.refused
    assert reason.startswith("dynamo: Could not guard on data-dependent expression")
    assert "\n" not in reason


def test_a_trace_that_saw_one_branch_only_is_no_export() -> None:
    torch.manual_seed(0)
    network = Branch(0.0)
    run = torch_network(network.fc)
    sums = [float(run(feed).sum()) for feed in INPUTS]
    network.threshold = sorted(sums)[3]  # some inputs on either side
    with pytest.raises(StageError, match="torchscript: export by torchscript changed the network"):
        export(network)


def test_what_neither_exports_is_refused_with_both_reasons(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(StageError) as refused:
        export(Bessel())
    _, dynamo, torchscript = str(refused.value).splitlines()
    assert dynamo.strip().startswith("dynamo: No ONNX function found")
    assert "bessel_j0" in dynamo
    assert torchscript.strip().startswith("torchscript: ")
    assert "bessel_j0" in torchscript
    assert capfd.readouterr().out == ""  # results only go there


def test_a_network_of_two_outputs_is_refused() -> None:
    with pytest.raises(StageError, match="tuple"):
        export(Pair())


@pytest.mark.parametrize("batch", [1, 5])
def test_a_free_batch_takes_any_number(dynamic: Exported, traced: Exported, batch: int) -> None:
    pairs: list[tuple[nn.Module, Exported, Floats]] = [
        (trained(Depthwise), dynamic, feeds(batch, 3, 8, 8)[0]),
        (always(), traced, feeds(batch, 4)[0]),
    ]
    for network, exported, batch_of in pairs:
        found = plain_network(exported.model.SerializeToString())(batch_of)
        want = torch_network(network.eval())(batch_of)
        assert found.shape == want.shape
        assert np.allclose(found, want, atol=1e-4)


def test_a_fixed_batch_takes_one() -> None:
    model = export(nn.Linear(4, 3)).model
    (dims,) = [value.type.tensor_type.shape.dim for value in model.graph.input]
    assert [dim.dim_value for dim in dims] == [1, 4]
    with pytest.raises(Exception, match="Got: 2 Expected: 1"):
        plain_network(model.SerializeToString())(feeds(2, 4)[0])


@pytest.mark.parametrize("opset", [17, 20])
def test_the_opset_is_the_one_asked_for(opset: int) -> None:
    exported = export(nn.Linear(4, 3), opset=opset)
    assert [(o.domain, o.version) for o in exported.model.opset_import] == [("", opset)]


def test_an_opset_neither_has_is_refused() -> None:
    with pytest.raises(StageError, match="asked for 99"):
        export(nn.Linear(4, 3), opset=99)


def test_the_same_network_gives_the_same_bytes(dynamic: Exported, traced: Exported) -> None:
    again = to_onnx(trained(Depthwise), IMAGES, opset=20, dynamic_batch=True)
    assert again.model.SerializeToString() == dynamic.model.SerializeToString()
    retraced = export(always(), dynamic_batch=True)
    assert retraced.model.SerializeToString() == traced.model.SerializeToString()


def test_nothing_of_this_machine_is_in_the_file(dynamic: Exported, traced: Exported) -> None:
    torch.manual_seed(0)
    branched = export(Cond())
    assert any(node.op_type == "If" for node in branched.model.graph.node)
    root = Path(exporters.__file__).parent.parent
    for exported in (dynamic, traced, branched):
        raw = exported.model.SerializeToString()
        for trace in (str(root), str(Path(torch.__file__).parent), ".py", "Traceback", "forward"):
            assert trace.encode() not in raw, (exported.method, trace)


def test_a_network_in_training_is_exported_as_it_infers() -> None:
    torch.manual_seed(0)
    network = Noisy()
    network(torch.randn(16, 4))  # moves the batch norm's statistics
    exported = export(network)
    want = torch_network(network.eval())(INPUTS[0])
    found = plain_network(exported.model.SerializeToString())(INPUTS[0])
    assert np.allclose(found, want, atol=1e-5)


def test_the_exporters_warn_nobody_and_leave_logging_as_it_was() -> None:
    logging.disable(logging.DEBUG)
    try:
        export(always())  # pytest makes an error of any warning
        assert logging.root.manager.disable == logging.DEBUG
    finally:
        logging.disable(logging.NOTSET)


def test_cleaning_keeps_the_network_and_takes_the_notes(dynamic: Exported) -> None:
    noted = onnx.ModelProto()
    noted.CopyFrom(dynamic.model)
    noted.doc_string = noted.graph.doc_string = "a note"
    for item in (noted, noted.graph, noted.graph.node[0], noted.graph.initializer[0]):
        item.metadata_props.add(key="path", value="/home/someone/model.py")
    noted.graph.node[1].doc_string = "a note"
    assert cleaned(noted).SerializeToString() == dynamic.model.SerializeToString()


def test_the_inputs_and_outputs_have_fixed_names(dynamic: Exported, traced: Exported) -> None:
    for exported in (dynamic, traced):
        graph = exported.model.graph
        assert [value.name for value in graph.input] == ["input"]
        assert [value.name for value in graph.output] == ["output"]
