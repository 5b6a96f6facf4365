"""Advice before anything is pruned, by real times of layers on this machine."""

import json
from pathlib import Path

import pytest
from user_project import NETWORK, TASK, Project

from pipeline.commands.advise import Advice, Foretold

HUGE = NETWORK.replace(
    "        self.fc =", "        self.huge = nn.Linear(144, 40_000)\n        self.fc ="
).replace(
    "        return self.fc(torch.relu(self.outer_bn(self.outer(y)) + x).mean((2, 3)))",
    "        z = self.fc(torch.relu(self.outer_bn(self.outer(y)) + x).mean((2, 3)))\n"
    "        return torch.cat([z, self.huge(given)], 1)",
)
HUGE = HUGE.replace(
    "        x = torch.relu(self.bn", "        given = x.flatten(1)\n        x = torch.relu(self.bn"
)


def advice(project: Project, recipe: Path) -> dict[str, object]:
    outcome = project.slimgate("advise", recipe, "--json")
    if outcome.code:  # another process has the machine
        outcome.says(5, "the times of single layers are uncertain")
        pytest.skip("another process has the machine")
    found = json.loads(outcome.out)
    assert found["schema_version"] == 1
    (target,) = found["targets"]
    assert isinstance(target, dict)
    return target


def test_the_time_is_told_by_blocks_widths_and_networks(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    found = advice(project, project.recipe())
    assert (found["target"], found["engine"], found["precision"]) == ("host", "ort", "fp32")
    blocks, widths, networks = found["blocks_ms"], found["widths"], found["networks"]
    assert isinstance(blocks, dict)
    assert set(blocks) == {"stem", "inner", "outer", "fc"}
    assert isinstance(widths, dict)
    assert set(widths) == {"stem", "inner"}
    assert all(set(kept) <= {4, 6, 8, 10, 12, 14, 16} and 16 in kept for kept in widths.values())
    assert isinstance(networks, list)
    sizes = [network["macs_ratio"] for network in networks]
    assert sizes == sorted(sizes, reverse=True)
    assert all(0 < network["time_ratio"] <= 1.01 for network in networks)
    assert all(0 <= network["error"] <= 1 for network in networks)
    verdict = found["verdict"]
    assert isinstance(verdict, str)
    assert verdict.split(":")[0] in {"worth it", "not worth it", "int8 first"}
    second = project.slimgate("advise", project.folder / "recipe.toml")
    assert second.code == 0
    assert second.out.startswith("host: ")
    assert "time layers host: cached" in caplog.text


def test_a_network_whose_time_is_in_what_cannot_be_pruned_is_told_so(project: Project) -> None:
    (project.folder / "net.py").write_text(HUGE)
    found = advice(project, project.task_recipe(TASK))
    verdict, slowest = found["verdict"], found["slowest_ms"]
    assert isinstance(verdict, str)
    assert verdict.startswith("not worth it: even the smallest network that")
    assert isinstance(slowest, dict)
    assert next(iter(slowest)) == "huge"
    assert "left: huge" in verdict


def test_a_runtime_whose_layers_foretell_nothing_is_told_so(project: Project) -> None:
    (project.folder / "other.toml").write_text('description = "another"\nengine = "ncnn"\n')
    path = project.recipe(target={"device": "other.toml"})
    project.slimgate("advise", path).says(2, "other: the layers of ncnn at fp32 do not foretell")


def judged(smallest: float, half: float, int8: float | None) -> str:
    networks = (Foretold(0.7, 0.9, 0.0), Foretold(0.5, half, 0.1), Foretold(0.1, smallest, 0.5))
    one = Advice(
        target="box",
        engine="ort",
        precision="fp32",
        dense_ms=1.0,
        int8_ratio=int8,
        blocks_ms={},
        reachable=1 - smallest,
        networks=networks,
        widths={},
        slowest_ms={"fc": 0.5},
    )
    return one.verdict


def test_the_sentence_of_advice_by_hand() -> None:
    assert judged(0.95, 0.97, 0.5).startswith(
        "not worth it: even the smallest network that prune allows takes 0.95"
    )
    assert judged(0.4, 0.9, 0.5).startswith("not worth it: with 0.50 of the MACs it still takes")
    assert judged(0.2, 0.6, 0.5).startswith("int8 first: it takes 0.50 of the time")
    assert judged(0.2, 0.4, 0.5).startswith("worth it: 0.40 of the time with 0.50 of the MACs")
    assert judged(0.2, 0.6, None).startswith("worth it: 0.60")
