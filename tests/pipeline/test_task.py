"""A user's Python file says what the network is: a function that builds it, or its class."""

from user_project import TASK, Project

from pipeline.task import FileTask, is_cross_entropy


def test_a_class_of_networks_is_a_function_that_builds_one(project: Project) -> None:
    source = TASK.replace("import network", "import Net").replace("network=network", "network=Net")
    (project.folder / "task.py").write_text(source)
    task = FileTask(file="task.py:task").load(project.folder)
    assert type(task.network()).__name__ == "Net"


def test_another_loss_is_no_cross_entropy() -> None:
    assert not is_cross_entropy(lambda outputs, targets: outputs.sum())
