"""What a board says is read as what it should be, or refused."""

import io
import json

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

pytest.importorskip("asyncssh")

from pipeline.measure.board import read_answer, read_outputs
from profiles.errors import DeviceError, IntegrityError, SlimgateError


def test_the_result_of_an_answer_comes_back() -> None:
    assert json.loads(read_answer(b'{"nonce": "n", "result": {"a": [1, 2.5]}}\n', "n")) == {
        "a": [1, 2.5]
    }


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"nonsense",
        b"[]",
        b"null",
        b'{"nonce": "n"}',
        b'{"nonce": "n", "result": {}, "more": 1}',
        b'{"nonce": "n", "result": NaN}',
        b'{"nonce": "n", "result": {"a": -Infinity}}',
        b'{"nonce": "n", "result": {"a": 1e999}}',
        b'{"nonce": "n", "result": {"a": 1, "a": 2}}',
        b'{"nonce": "n", "result": {}} {"nonce": "n", "result": {}}',
        b'{"nonce": "n", "result": ' + b"[" * 100_000,
        b'{"nonce": "n", "result": ' + b"9" * 5_000 + b"}",
        '{"nonce": "n", "result": {}}'.encode("utf-16"),
        b'{"nonce": "n", "result": "\xff"}',
    ],
)
def test_an_answer_that_is_none_is_a_fault_of_the_device(raw: bytes) -> None:
    with pytest.raises(DeviceError, match="could not be parsed"):
        read_answer(raw, "n")


def test_the_answer_to_another_job_is_refused() -> None:
    for nonce in ('"m"', "1", "null", '["n"]'):
        with pytest.raises(IntegrityError, match="another job"):
            read_answer(f'{{"nonce": {nonce}, "result": {{}}}}'.encode(), "n")


def npy(array: npt.ArrayLike) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


WHOLE = np.arange(12, dtype=np.float32).reshape(3, 4)


def test_whatever_comes_there_is_a_result_or_one_of_our_errors() -> None:
    reached = set()

    @example(b'{"nonce": "n", "result": {"a": 1}}')
    @example(npy(WHOLE))
    @given(st.binary(max_size=200))
    def holds(raw: bytes) -> None:
        try:
            json.loads(read_answer(raw, "n"))
            reached.add("an answer")
        except SlimgateError:
            reached.add("no answer")
        try:
            found = read_outputs(raw, 3)
            assert found.dtype == np.dtype(np.float32)
            assert len(found) == 3
            reached.add("outputs")
        except SlimgateError:
            reached.add("no outputs")

    holds()
    assert reached == {"an answer", "no answer", "outputs", "no outputs"}


def test_outputs_come_back_as_they_were_written_and_may_be_written_to() -> None:
    found = read_outputs(npy(WHOLE), 3)
    np.testing.assert_array_equal(found, WHOLE)
    found[0] = 0


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"nonsense",
        npy(WHOLE)[:-1],
        npy(WHOLE) + b"?",
        npy(WHOLE[:2]),
        npy(WHOLE[:, 0]),
        npy(WHOLE.astype(np.float64)),
        npy(np.asfortranarray(WHOLE)),
        npy(np.array([[None] * 4] * 3)),
        npy(WHOLE).replace(b"(3, 4)", b"(3, 1)"),
        npy(WHOLE).replace(b"(3, 4), }         ", b"(3, 9999999999), }"),
        npy(WHOLE).replace(b"(3, 4), }         ", b"(3, -4, -1), }    "),
        npy(WHOLE).replace(b"(3, 4), }", b"(), }    "),
    ],
)
def test_outputs_that_are_not_the_array_they_should_be_are_refused(raw: bytes) -> None:
    with pytest.raises(DeviceError, match="its outputs are"):
        read_outputs(raw, 3)
