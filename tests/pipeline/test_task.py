"""A user's Python file says what the network is: a function that builds it, or its class."""

from user_project import TASK, Project

from pipeline.task import is_cross_entropy


def test_a_class_of_networks_is_a_function_that_builds_one(project: Project) -> None:
    source = TASK.replace("import network", "import Net").replace("network=network", "network=Net")
    project.task_recipe(source)
    assert project.prune().code == 0


def test_another_loss_is_no_cross_entropy() -> None:
    assert not is_cross_entropy(lambda outputs, targets: outputs.sum())
