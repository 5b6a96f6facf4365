"""A wrong recipe ends in one message that names the file, the key and what is allowed."""

import math
from pathlib import Path

import pytest
from user_project import Project, Table

TABLES: dict[str, tuple[dict[str, Table | None], list[str]]] = {
    "unknown table": ({"prunne": {"macs_ratio": 0.5}}, ["prunne: unknown key", "'prune'?"]),
    "nested": ({"prune": {"macs_ratoi": 0.5}}, ["prune.macs_ratoi: unknown", "'macs_ratio'?"]),
    "task": ({"task": {"netwrok": "a"}}, [": task.netwrok: unknown key", "'network'?"]),
    "file task": (
        {"task": {"file": "a.py:b", "wieghts": "c"}},
        [": task.wieghts: unknown key", "'weights'?"],
    ),
    "both kinds of task": (
        {"task": {"file": "a.py:b", "network": "c"}},
        [": task.network: unknown key; known keys: file, inputs, weights"],
    ),
    "budget": (
        {"target": {"budget": {"top1_dorp": 0.1}}},
        ["target.budget.top1_dorp: unknown key", "'top1_drop'?"],
    ),
    "nothing like it": ({"prune": {"zzz": 1}}, ["prune.zzz: unknown key; known keys: allocator"]),
    "criterion's key": (
        {"prune": {"criterion": {"name": "pro", "step": 1}}},
        ["prune.criterion: pro: step: unknown key", "'step_size'?"],
    ),
    "criterion's type": (
        {"prune": {"criterion": {"name": "pro", "step_size": "0.1"}}},
        ["pro: step_size", "valid number (found '0.1')"],
    ),
    "criterion's NaN": (
        {"prune": {"criterion": {"name": "pro", "step_size": math.nan}}},
        ["pro: step_size", "finite number (found nan)"],
    ),
    "criterion without a name": (
        {"prune": {"criterion": {"step_size": 1}}},
        ["prune.criterion: give a name, or a table with a name"],
    ),
    "criterion that is a number": ({"prune": {"criterion": 3}}, ["give a name", "(found 3)"]),
    "criterion": (
        {"prune": {"criterion": "prro"}},
        ["prune.criterion: 'prro' is none of the criteria: ", "magnitude, offset, pro, "],
    ),
    "allocator": (
        {"prune": {"allocator": "unifrom"}},
        ["prune.allocator: 'unifrom' is none of the allocators: ", ", table, uniform"],
    ),
    "allocator's rows": (
        {"prune": {"allocator": {"name": "table", "rows": [{"layers": "*", "ratio": 0.5}]}}},
        ["table: rows.0.pruning_ratio: missing; table: rows.0.ratio: unknown key"],
    ),
    "allocator without rows": ({"prune": {"allocator": "table"}}, ["rows or a preset"]),
    "recovery": (
        {"recover": {"chain": ["bn"]}},
        ["recover.chain.0: 'bn' is none of the recoveries: ", "bn_recalibrate, least_squares"],
    ),
    "no recovery": ({"recover": {"chain": []}}, ["recover.chain: ", "at least 1 item"]),
    "device": (
        {"target": {"device": "rasberry-pi"}},
        ["target.device: device 'rasberry-pi' is none of: android", "or give the path of a .toml"],
    ),
    "device's file": (
        {"target": {"device": "mine.toml"}},
        ["target.device: ", "mine.toml: cannot be read (No such file or directory)"],
    ),
    "NaN": ({"target": {"budget": {"top1_drop": math.nan}}}, ["top1_drop", "(found nan)"]),
    "infinity": ({"target": {"budget": {"macs_ratio": math.inf}}}, ["macs_ratio", "(found inf)"]),
    "negative": ({"target": {"budget": {"latency_p50_ms": -1}}}, ["greater than 0 (found -1)"]),
    "zero": ({"target": {"budget": {"macs": 0}}}, ["budget.macs: ", "greater than 0 (found 0)"]),
    "no item": (
        {"target": {"budget": {}}},
        ["target.budget: a budget needs at least one of: top1"],
    ),
    "no target": ({"target": None}, ["target: missing"]),
    "no task": ({"task": None}, ["task: missing"]),
    "two keys missing": ({"task": {"data": None, "size": None}}, ["task.data: m", "task.size: m"]),
    "percentage": ({"prune": {"macs_ratio": 70}}, ["prune.macs_ratio: ", "did you mean 0.7?"]),
    "wrong type": ({"prune": {"macs_ratio": "0.5"}}, ["valid number (found '0.5')"]),
    "long value": ({"prune": {"macs_ratio": "x" * 500}}, ["(found '" + "x" * 76 + "...)"]),
    "a network's name alone": (
        {"task": {"network": "resnet18"}},
        ["task.network: give torchvision:NAME, timm:NAME or FILE.py:FUNCTION (found 'resnet18')"],
    ),
    "no function": ({"task": {"file": "task.py"}}, ["task.file: give FILE.py:FUNCTION"]),
    "mean and std": ({"task": {"mean": [0.5, 0.5]}}, ["task: mean and std need one value a chann"]),
    "no mean": ({"task": {"mean": [], "std": []}}, ["task.mean: ", "at least 1 item"]),
    "std of zero": ({"task": {"std": [0]}}, ["task.std.0: ", "greater than 0 (found 0)"]),
    "resize below size": ({"task": {"resize": 8}}, ["task: resize must not be smaller than size"]),
    "too few processes": ({"measure": {"processes": 2}}, ["processes: ", "equal to 5 (found 2)"]),
    "how much": (
        {"prune": {"macs_ratio": None}, "target": {"budget": {"top1_drop": 0.1}}},
        ["nothing says how much to prune: set prune.macs_ratio = 0.5"],
    ),
}


@pytest.mark.parametrize("case", TABLES)
def test_a_wrong_key_is_named_with_its_file_and_what_is_allowed(
    case: str, project: Project
) -> None:
    tables, words = TABLES[case]
    path = project.recipe(**tables)
    project.refuses(2, f"{path}: ", *words)


@pytest.mark.parametrize("table", ["prune", "target"])
@pytest.mark.parametrize("ratio", [0, 1, 1.5, -0.5])
def test_a_macs_ratio_is_a_fraction(table: str, ratio: float, project: Project) -> None:
    keys: Table = {"macs_ratio": ratio} if table == "prune" else {"budget": {"macs_ratio": ratio}}
    path = project.recipe(**{table: keys})
    project.refuses(2, f"{path}: {table}.", "macs_ratio: Input should be ", f"(found {ratio})")


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"# caf\xe9\n", "not UTF-8 text, save it as UTF-8"),
        (b"[task\n", "at line 1"),
        (b"[prune]\nmacs_ratio = 0.5\nmacs_ratio = 0.6\n", "at line 3"),
        (b"\0", "at line 1"),
        (b"", "task: missing"),
        (b"task = 3\n", "task: Input should be an object"),
        (b"#" * ((1 << 20) + 1), "larger than it may be (1 MiB)"),
        (b"x = " + b"[" * 100_000, "recursion"),
    ],
)
def test_a_file_that_is_no_recipe_is_named(raw: bytes, says: str, project: Project) -> None:
    path = project.folder / "recipe.toml"
    path.write_bytes(raw)
    project.refuses(2, f"{path}: ", says)


def test_a_recipe_may_begin_with_a_byte_order_mark(project: Project) -> None:
    path = project.folder / "recipe.toml"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert project.slimgate("plan", path).code == 0


@pytest.mark.parametrize("verb", ["run", "plan"])
@pytest.mark.parametrize(
    ("recipe", "says"), [("none.toml", "No such file"), (".", "Is a directory"), ("/", "directory")]
)
def test_a_recipe_that_is_no_file_is_named(
    verb: str, recipe: str, says: str, project: Project
) -> None:
    path = project.folder / recipe
    project.slimgate(verb, path).says(2, f"{path}: cannot be read", says)


def test_a_recipe_of_the_current_folder_is_no_file(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.folder)
    project.slimgate("run", ".").says(2, ".: cannot be read (Is a directory)")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('engine = "ort"', "description: missing"),
        ('description = "x"\nengin = "ort"', "engin: unknown key; did you mean 'engine'?"),
        ('description = "x"\nthreads = 0', "threads: Input should be greater than 0 (found 0)"),
        (
            'description = "x"\nengine = "tensort"',
            "has the engine 'tensort', which is none of: coreml",
        ),
    ],
)
def test_a_wrong_device_file_is_named(text: str, says: str, project: Project) -> None:
    (project.folder / "mine.toml").write_text(text)
    project.recipe(target={"device": "mine.toml"})
    project.refuses(2, "target.device", "mine.toml", says)


def test_a_device_without_a_budget_needs_one_in_the_recipe(project: Project) -> None:
    (project.folder / "mine.toml").write_text('description = "x"')
    project.recipe(target={"device": "mine.toml", "budget": None})
    project.refuses(2, "target.budget: missing, and mine.toml has no default")


def test_batches_need_an_engine_that_takes_any_number(project: Project) -> None:
    (project.folder / "mine.toml").write_text('description = "x"\nbatch = 4')
    project.recipe(target={"device": "mine.toml"})
    project.refuses(2, "mine.toml runs batches of 4: set export.dynamic_batch = true")


def test_two_targets_of_one_name_are_refused(project: Project) -> None:
    path = project.recipe(target=None)
    path.write_text(path.read_text() + '[[target]]\ndevice = "host"\n' * 2)
    project.refuses(2, "target: two targets have one name; give each a `name`")


def test_init_does_not_touch_what_is_there(project: Project) -> None:
    path = project.folder / "recipe.toml"
    before = path.read_bytes()
    project.slimgate("init", path).says(2, f"{path}: not written (File exists)")
    assert path.read_bytes() == before
    project.slimgate("init", Path("nowhere") / "recipe.toml").says(2, "No such file")


@pytest.mark.parametrize("arguments", [["runn"], ["run"], ["run", "a.toml", "--ot", "b"]])
def test_a_wrong_command_line_ends_with_2(arguments: list[str], project: Project) -> None:
    outcome = project.slimgate(arguments[0], *arguments[1:])
    assert outcome.code == 2
    assert "Usage: slimgate" in outcome.err
