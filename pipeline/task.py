"""The user's network, data, loss and metric: from configuration alone, or one Python file."""

import difflib
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self, cast

import numpy as np
from pydantic import (
    AfterValidator,
    Discriminator,
    PositiveFloat,
    PositiveInt,
    Tag,
    model_validator,
)

from pipeline.data.arrays import FloatArray, Split, Targets
from pipeline.data.digest import one_file, path_files
from pipeline.data.images import Preprocessing, load_images
from pipeline.data.imported_files import check_imports, code_files, imported_files
from pipeline.data.input_files import InputFiles, input_files
from pipeline.data.origin import TaskOrigin
from pipeline.data.user_code import user_code, user_function
from profiles.errors import ConfigError, MissingExtra
from profiles.machine.facts import versions
from profiles.spec import Spec

if TYPE_CHECKING:
    from torch import Tensor, nn


def _matching(form: str, pattern: str) -> AfterValidator:
    """A validator of strings that match `pattern`; its message names the `form` in words."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(f"give {form}")
        return value

    return AfterValidator(check)


def cross_entropy(outputs: "Tensor", targets: "Tensor") -> "Tensor":
    """Mean cross entropy of logits [n, classes] and labels [n]."""
    from torch.nn import functional

    return functional.cross_entropy(outputs, targets)


def is_cross_entropy(loss: "Callable[[Tensor, Tensor], Tensor]") -> bool:
    """Whether a loss is the cross entropy of logits: ours, torch's function, or torch's module."""
    from torch import nn
    from torch.nn import functional

    known = loss in (cross_entropy, functional.cross_entropy)
    return known or isinstance(loss, nn.CrossEntropyLoss)


def top1(outputs: FloatArray, targets: Targets) -> FloatArray:
    """1 where the largest logit is the label's, else 0, for each sample."""
    hits: FloatArray = np.equal(outputs.argmax(axis=1), targets).astype(np.float32)
    return hits


@dataclass(frozen=True)
class Task:
    """What slimgate needs to know of a trained network.

    `network()` builds it, always the same architecture. `train` and `validation` are map-style
    datasets. `loss(outputs, targets)` is a mean over the batch; `metric(outputs, targets)` one
    score in [0, 1] a sample, larger is better.
    """

    network: Callable[[], "nn.Module"]
    train: Split
    validation: Split
    loss: Callable[["Tensor", "Tensor"], "Tensor"] = cross_entropy
    metric: Callable[[FloatArray, Targets], FloatArray] = top1
    preprocessing: Preprocessing | None = None


class ConfiguredTask(Spec):
    """Classification without a line of code."""

    network: Annotated[
        str,
        _matching(
            "torchvision:NAME, timm:NAME or FILE.py:FUNCTION", r"(torchvision|timm):.+|.+\.py:\w+"
        ),
    ]
    """`torchvision:NAME`, `timm:NAME` or `FILE.py:FUNCTION`."""
    classes: PositiveInt | None = None
    """Number of outputs, where it is not the model's default."""
    weights: str
    data: str
    mean: tuple[float, ...]
    std: tuple[PositiveFloat, ...]
    size: PositiveInt
    resize: PositiveInt | None = None
    class_names: str | None = None
    """A file of class names, one a line, in the order of the outputs; for folders of images."""
    allow_missing_classes: bool = False

    @model_validator(mode="after")
    def _preprocessing_is_valid(self) -> Self:
        self.preprocessing()
        return self

    def preprocessing(self) -> Preprocessing:
        """What is done to an image before the network sees it."""
        return Preprocessing(mean=self.mean, std=self.std, size=self.size, resize=self.resize)

    def load(self, base: Path) -> Task:
        """The task, its paths relative to `base`."""
        names = self.class_names
        lines = _read_lines(base / names) if names else []
        if names and (not lines or len(set(lines)) < len(lines)):
            raise ConfigError(f"{base / names}: must name each class once, one a line")
        if names and self.classes and len(lines) != self.classes:
            raise ConfigError(f"{base / names}: {len(lines)} names for {self.classes} classes")
        train, validation = load_images(
            base / self.data, self.preprocessing(), lines, self.allow_missing_classes
        )
        build = network_builder(self.network, self.classes, base)
        return Task(build, train, validation, preprocessing=self.preprocessing())

    def origin(self, base: Path) -> TaskOrigin:
        """Everything a result can depend on, its files as they are now."""
        source, _, _ = self.network.rpartition(":")
        is_code = source.endswith(".py")
        rest = self.model_dump(mode="json", exclude={"weights", "data", "class_names"})
        return TaskOrigin(
            fields=rest,
            files={
                **({"code": code_inputs(base / source)} if is_code else {}),
                "weights": input_files(base / self.weights, one_file),
                "data": input_files(base / self.data, path_files),
                **(
                    {"class_names": input_files(base / self.class_names, one_file)}
                    if self.class_names
                    else {}
                ),
            },
            environment={} if is_code else versions((source,)),
        )


class FileTask(Spec):
    """A function of yours, `FILE.py:FUNCTION`, that returns a pipeline.task.Task."""

    file: Annotated[str, _matching("FILE.py:FUNCTION", r".+\.py:\w+")]
    weights: str | None = None
    """safetensors for the network; without it, `network()` returns a trained one."""
    inputs: tuple[str, ...] = ()
    """Files and folders the function reads; a change in one makes results anew."""

    def load(self, base: Path) -> Task:
        """The task, its paths relative to `base`."""
        with user_code(self.file):
            task = user_function(self.file, base)()
        if not isinstance(task, Task):
            raise ConfigError(f"{self.file} returned {type(task).__name__}, not pipeline.task.Task")
        is_network = hasattr(task.network, "state_dict") and not isinstance(task.network, type)
        if not callable(task.network) or is_network:
            raise ConfigError(f"{self.file}: Task.network must be a function that builds a network")
        with user_code(f"{self.file}: the length of the data"):
            least = min(len(task.train), len(task.validation))
        if least == 0:
            raise ConfigError(f"{self.file}: training and validation data must not be empty")
        inputs = [base / name for name in self.inputs]
        source = base / self.file.rpartition(":")[0]
        return replace(task, network=with_known_imports(task.network, source, inputs))

    def origin(self, base: Path) -> TaskOrigin:
        """The function, its file, what that imports, and every input named, as they are now."""
        source = base / self.file.rpartition(":")[0]
        named = {f"input {number}": name for number, name in enumerate(self.inputs, 1)}
        files = {
            "code": code_inputs(source),
            **{key: input_files(base / name, path_files) for key, name in named.items()},
        }
        if self.weights:
            files["weights"] = input_files(base / self.weights, one_file)
        return TaskOrigin(fields={"file": self.file}, files=files, environment={})


def _kind_of_task(value: object) -> str:
    has_file = "file" in value if isinstance(value, dict) else isinstance(value, FileTask)
    return "file" if has_file else "configured"


TaskSpec = Annotated[
    Annotated[ConfiguredTask, Tag("configured")] | Annotated[FileTask, Tag("file")],
    Discriminator(_kind_of_task),
]


def network_builder(name: str, classes: int | None, base: Path) -> Callable[[], "nn.Module"]:
    """A function that builds the network `name`, untrained.

    Raises ConfigError for a model the library does not have, with the nearest names.
    """
    source, _, model = name.rpartition(":")
    if source.endswith(".py"):
        build = cast("Callable[[], nn.Module]", user_function(name, base))
        return with_known_imports(build, base / source, ())
    if source == "torchvision":
        from torchvision import models

        _check_model_exists(model, models.list_models(), source)
        outputs = {} if classes is None else {"num_classes": classes}
        return lambda: models.get_model(model, weights=None, **outputs)
    try:
        import timm
    except ImportError as error:
        raise MissingExtra("timm", "timm") from error
    _check_model_exists(model, timm.list_models(), source)
    if classes is None:
        return lambda: timm.create_model(model)
    return lambda: timm.create_model(model, num_classes=classes)


def with_known_imports(
    build: Callable[[], "nn.Module"], source: Path, inputs: Collection[Path]
) -> Callable[[], "nn.Module"]:
    """`build`, held to load nothing of its folder that the digest of `source` does not cover.

    Raises ConfigError where it did so already.
    """
    known = (*imported_files(source), *inputs)
    check_imports(source, known)

    def network() -> "nn.Module":
        built = build()
        check_imports(source, known)
        return built

    return network


def _check_model_exists(model: str, models: list[str], source: str) -> None:
    if model not in models:
        near = ", ".join(difflib.get_close_matches(model, models, n=3)) or "none like it"
        raise ConfigError(f"{source} has no model {model!r}; nearest: {near}")


def code_inputs(source: Path) -> InputFiles:
    """A Python file and what it imports; running it may change where imports are looked for."""
    files = code_files(source)
    return input_files(source, lambda _: files)


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{path}: cannot be read ({why})") from error
