"""What a file says: read as it stands, or refused with the key and what is allowed."""

import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import PositiveFloat, ValidationError

from profiles.errors import ConfigError
from profiles.spec import MAX_CONFIG_BYTES, Spec, read_spec


class Inner(Spec):
    width: int = 1
    rate: PositiveFloat = 0.5


class Outer(Spec):
    name: str
    inner: Inner = Inner()
    either: Inner | None = None
    sizes: tuple[int, ...] = ()
    loud: bool = False


def read(folder: Path, text: str, suffix: str = ".toml") -> Outer:
    path = folder / f"spec{suffix}"
    path.write_text(text)
    return read_spec(path, Outer)


def test_a_file_is_read_as_it_stands(tmp_path: Path) -> None:
    want = Outer(name="a", inner=Inner(width=3, rate=2), sizes=(1, 2), loud=True)
    text = 'name = "a"\nsizes = [1, 2]\nloud = true\n[inner]\nwidth = 3\nrate = 2'
    assert read(tmp_path, text) == want
    assert read(tmp_path, want.model_dump_json(), ".json") == want


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('nane = "a"', ["nane: unknown key", "did you mean 'name'?", "name: missing"]),
        ('name = "a"\nzzz = 1', ["zzz: unknown key", "known keys: either, inner, loud, name"]),
        ('name = "a"\n[inner]\nwitdh = 1', ["inner.witdh", "did you mean 'width'?"]),
        ('name = "a"\n[either]\nwitdh = 1', ["witdh", "did you mean 'width'?"]),
        ("sizes = [1]", ["name: missing"]),
        ("name = 1", ["name: ", "valid string", "(found 1)"]),
        ('name = "a"\n[inner]\nwidth = "1"', ["inner.width: ", "valid integer", "(found '1')"]),
        ('name = "a"\n[inner]\nwidth = 1.0', ["inner.width: "]),
        ('name = "a"\n[inner]\nwidth = true', ["inner.width: "]),
        ('name = "a"\n[inner]\nwidth = 2020-01-01', ["inner.width: "]),
        ('name = "a"\n[inner]\nrate = "fast"', ["inner.rate: "]),
        ('name = "a"\n[inner]\nrate = nan', ["inner.rate: "]),
        ('name = "a"\n[inner]\nrate = inf', ["inner.rate: "]),
        ('name = "a"\n[inner]\nrate = -inf', ["inner.rate: "]),
        ('name = "a"\n[inner]\nrate = 1e400', ["inner.rate: "]),
        ('name = "a"\n[inner]\nrate = 0', ["inner.rate: ", "greater than 0"]),
        ('name = "a"\n[inner]\nrate = -0.0', ["inner.rate: "]),
        ('name = "a"\nloud = 1', ["loud: "]),
        ('name = "a"\nloud = "yes"', ["loud: "]),
        ('name = "a"\nsizes = 1', ["sizes: "]),
        ('name = "a"\nsizes = [1, "2"]', ["sizes.1: "]),
        ('name = "a"\ninner = 1', ["inner: "]),
        ('name = "a"\nname = "b"', ["spec.toml: "]),
        ('name = "a"\n[inner]\n[inner]', ["spec.toml: "]),
        ('name = "a', ["spec.toml: "]),
        ("x = 1\ny = = 2", ["spec.toml: ", "line 2"]),
        ("name", ["spec.toml: "]),
        (f"name = {'[' * 5000}", ["spec.toml: "]),
        (f"name = {'9' * 5000}", ["spec.toml: "]),
    ],
)
def test_what_is_wrong_is_named_with_its_file(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        read(tmp_path, text)
    for word in [str(tmp_path / "spec.toml"), *words]:
        assert word in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '"name"',
        '{"name": "a", "inner": {"rate": NaN}}',
        '{"name": "a", "inner": {"rate": Infinity}}',
        '{"name": "a", "inner": {"rate": 1e400}}',
        '{"name": "a", "inner": {"width": 1, "width": 2}}',
        '{"name": "a", "name": "a"}',
        '{"name": "\\ud800"}',
        "[" * 100_000,
    ],
)
def test_json_that_is_broken_or_says_a_thing_twice_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"spec\.json"):
        read(tmp_path, text, ".json")


def test_every_wrong_key_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        read(tmp_path, "name = 1\nzzz = 1\n[inner]\nwidth = 0.5")
    assert len(str(refused.value).splitlines()) == 3


def test_a_file_that_is_not_there_or_no_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path, tmp_path / "a\0.toml", tmp_path / ("x" * 999)):
        with pytest.raises(ConfigError, match="cannot be read"):
            read_spec(path, Outer)


def test_bytes_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "spec.toml"
    path.write_bytes(b'name = "\xff"')
    with pytest.raises(ConfigError, match="UTF-8"):
        read_spec(path, Outer)


def test_a_file_of_the_largest_size_is_read_and_one_byte_more_is_refused(tmp_path: Path) -> None:
    text = 'name = "a"\n#'
    assert read(tmp_path, text.ljust(MAX_CONFIG_BYTES, "x")).name == "a"
    with pytest.raises(ConfigError, match="1 MiB"):
        read(tmp_path, text.ljust(MAX_CONFIG_BYTES + 1, "x"))


def test_a_file_without_end_is_not_read_to_its_end() -> None:
    if not Path("/dev/zero").exists():
        pytest.skip("no endless file here")
    with pytest.raises(ConfigError, match="1 MiB"):
        read_spec(Path("/dev/zero"), Outer)


def test_a_spec_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Inner().width = 2  # type: ignore[misc]


def read_twice(path: Path, content: bytes) -> bool:
    """Whether it is read, and then the same again from what was read; else it is refused."""
    path.write_bytes(content)
    try:
        found = read_spec(path, Outer)
    except ConfigError:
        return False
    again = path.with_suffix(".json")
    again.write_text(found.model_dump_json())
    assert read_spec(again, Outer) == found
    return True


def test_any_text_is_read_the_same_twice_or_refused(tmp_path: Path) -> None:
    reached = set()

    @settings(deadline=None)
    @example('name = "a"', ".toml")
    @example('{"name": "a"}', ".json")
    @given(st.text(max_size=80), st.sampled_from([".toml", ".json"]))
    def holds(text: str, suffix: str) -> None:
        content = text.encode(errors="surrogatepass")
        reached.add((suffix, read_twice(tmp_path / f"spec{suffix}", content)))

    holds()
    assert reached == {(suffix, was_read) for suffix in (".toml", ".json") for was_read in (0, 1)}


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
VALUES = st.recursive(
    LEAVES,
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=5), v, max_size=3),
    max_leaves=6,
)


def test_any_json_is_read_the_same_twice_or_refused(tmp_path: Path) -> None:
    reached = set()

    @settings(deadline=None)
    @example({"name": "a", "inner": {"rate": 2}, "sizes": [1, 2], "loud": True})
    @given(
        st.dictionaries(st.sampled_from(sorted(Outer.model_fields)) | st.text(max_size=5), VALUES)
    )
    def holds(value: dict[str, object]) -> None:
        reached.add(read_twice(tmp_path / "spec.json", json.dumps(value).encode()))

    holds()
    assert reached == {True, False}
