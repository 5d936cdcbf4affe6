"""REST's tensors to messages and back; the refusals are in tests/contract/gateway."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.errors import BasaltError, InvalidInputError
from libs.common.pb.inference import grpc_inference_service_pb2 as pb
from services.gateway.core.datatypes import DTYPES
from services.gateway.inbound.tensors import Wanted, answer_of, request_of

JSON_ONLY = Wanted(binary=False, names={})


def body(**tensor: Any) -> bytes:
    return json.dumps({"inputs": [{"name": "x", **tensor}]}).encode()


@pytest.mark.parametrize("datatype", sorted(DTYPES))
def test_every_datatype_comes_back_as_it_went(datatype: str) -> None:
    values: list[Any] = [True, False, True] if datatype == "BOOL" else [1, 0, 7]
    made, _ = request_of("m", "1", body(datatype=datatype, shape=[3, 1], data=values), None)
    raw = made.raw_input_contents[0]
    assert np.frombuffer(raw, DTYPES[datatype]).tolist() == values
    answer = pb.ModelInferResponse(model_name="m", raw_output_contents=[raw])
    answer.outputs.add(name="y", datatype=datatype, shape=[3, 1])
    content, header_bytes = answer_of(answer, JSON_ONLY)
    assert header_bytes is None
    assert json.loads(content)["outputs"][0]["data"] == values


def test_text_is_bytes_with_their_length() -> None:
    made, _ = request_of("m", "", body(datatype="BYTES", shape=[2], data=["ä", ""]), None)
    raw = made.raw_input_contents[0]
    assert raw == b"\x02\0\0\0\xc3\xa4\0\0\0\0"
    answer = pb.ModelInferResponse(raw_output_contents=[raw])
    answer.outputs.add(name="y", datatype="BYTES", shape=[2])
    content, _ = answer_of(answer, JSON_ONLY)
    assert json.loads(content)["outputs"][0]["data"] == ["ä", ""]


def test_numbers_that_json_does_not_know_become_null() -> None:
    raw = np.array([np.nan, np.inf, 1], np.float32).tobytes()
    answer = pb.ModelInferResponse(raw_output_contents=[raw])
    answer.outputs.add(name="y", datatype="FP32", shape=[3])
    content, _ = answer_of(answer, JSON_ONLY)
    assert json.loads(content)["outputs"][0]["data"] == [None, None, 1.0]


@pytest.mark.parametrize(
    ("datatype", "value", "said"),
    [
        ("FP16", 70_000, "70000 cannot be represented"),
        ("FP32", -1e60, "-1e\\+60 cannot be represented"),
        ("INT8", 300, "300 is outside -128 to 127"),
        ("INT8", 1.5, "1.5 cannot be represented"),
        ("INT64", 2.0**63, "e\\+18 cannot be represented"),
        ("UINT64", 2**64 + 2.0**20, "e\\+19 cannot be represented"),
        ("INT64", 2.0**53, "cannot be represented"),
        ("UINT64", -1, "-1 is outside 0 to"),
    ],
)
def test_a_number_that_its_datatype_cannot_hold_is_refused(
    datatype: str, value: float, said: str
) -> None:
    content = body(datatype=datatype, shape=[2], data=[1, value])
    with pytest.raises(InvalidInputError, match=f"input x are no {datatype}: .*{said}") as refused:
        request_of("m", "", content, None)
    assert refused.value.which == "x"


@pytest.mark.parametrize(("datatype", "value"), [("FP32", 3.4e38), ("INT64", 2**63 - 1)])
def test_the_largest_numbers_are_taken(datatype: str, value: float) -> None:
    made, _ = request_of("m", "", body(datatype=datatype, shape=[1], data=[value]), None)
    assert np.frombuffer(made.raw_input_contents[0], DTYPES[datatype])[0] == DTYPES[datatype].type(
        value
    )


@pytest.mark.parametrize(
    ("datatype", "values"),
    [
        ("INT64", [2**53 + 1, 1.0, -(2**63)]),
        ("UINT64", [2**64 - 1, 0, 2**63 + 1]),
        ("INT64", [2**63 - 1, 2**53 + 3, 4]),
        ("FP64", [0.1, 1e-300, 2**53]),
    ],
)
def test_numbers_are_exact_to_their_last_digit(datatype: str, values: list[float]) -> None:
    made, _ = request_of("m", "", body(datatype=datatype, shape=[3], data=values), None)
    (raw,) = made.raw_input_contents
    assert np.frombuffer(raw, DTYPES[datatype]).tolist() == values
    answer = pb.ModelInferResponse(raw_output_contents=[raw])
    answer.outputs.add(name="y", datatype=datatype, shape=[3])
    assert json.loads(answer_of(answer, JSON_ONLY)[0])["outputs"][0]["data"] == values


def test_single_precision_is_written_as_short_as_it_is() -> None:
    answer = pb.ModelInferResponse(raw_output_contents=[np.float32([0.1, 16777216]).tobytes()])
    answer.outputs.add(name="y", datatype="FP32", shape=[2])
    assert b'"data":[0.1,16777216.0]' in answer_of(answer, JSON_ONLY)[0]


@pytest.mark.parametrize("datatype", ["FP32", "INT8", "UINT64", "FP16"])
@pytest.mark.parametrize("value", [True, False, None, "1", {"a": 1}])
def test_what_is_no_number_is_refused_among_numbers(datatype: str, value: Any) -> None:
    for values in ([value], [1, value]):
        content = body(datatype=datatype, shape=[len(values)], data=values)
        with pytest.raises(InvalidInputError, match=f"input x are no {datatype}: .* was given"):
            request_of("m", "", content, None)


@pytest.mark.parametrize("value", [0, 1, 1.0, "true", None])
def test_what_is_no_boolean_is_refused_among_booleans(value: Any) -> None:
    with pytest.raises(InvalidInputError, match="are no BOOL"):
        request_of("m", "", body(datatype="BOOL", shape=[2], data=[True, value]), None)


@pytest.mark.parametrize(
    ("shape", "data"),
    [
        ([2, 2], [1, 2, 3, 4]),
        ([2, 2], [[1, 2], [3, 4]]),
        ([1, 2, 1], [[[1], [2]]]),
        ([0, 3], []),
        ([], 5),
        ([1], 5),
        ([4], [1, 2, 3, 4]),
    ],
)
def test_lists_are_flat_or_nested_as_the_shape_says(shape: list[int], data: Any) -> None:
    for datatype in ("FP32", "INT64"):
        made, _ = request_of("m", "", body(datatype=datatype, shape=shape, data=data), None)
        (raw,) = made.raw_input_contents
        expected = np.asarray(data, DTYPES[datatype]).reshape(-1)
        assert np.frombuffer(raw, DTYPES[datatype]).tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("shape", "data"),
    [
        ([2, 2], [[1, 2, 3, 4]]),
        ([2, 2], [[1], [2], [3], [4]]),
        ([2, 3], [[1, 2], [3, 4], [5, 6]]),
        ([2, 2], [[1, 2], [3]]),
        ([2, 2], [[1, 2], 3]),
        ([2, 2], [[[1], [2]], [[3], [4]]]),
        ([2], [1]),
        ([2], [1, 2, 3]),
        ([2], []),
        ([1, 1], [[[[[1]]]]]),
    ],
)
@pytest.mark.parametrize("datatype", ["FP32", "BYTES"])
def test_lists_that_are_not_as_the_shape_says_are_refused(
    datatype: str, shape: list[int], data: Any
) -> None:
    content = body(datatype=datatype, shape=shape, data=data)
    with pytest.raises(InvalidInputError, match=r"and its shape is \[") as refused:
        request_of("m", "", content, None)
    assert refused.value.which == "x"


def test_a_deeply_nested_list_is_refused_quickly() -> None:
    data = "[" * 900 + "1" + "]" * 900
    content = b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": %s}]}'
    with pytest.raises(InvalidInputError):
        request_of("m", "", content % data.encode(), None)


@pytest.mark.parametrize(
    ("given", "taken"), [({}, ""), ({"id": None}, ""), ({"id": "7"}, "7"), ({"id": ""}, "")]
)
def test_an_id_is_text_or_none(given: dict[str, Any], taken: str) -> None:
    assert request_of("m", "", json.dumps({"inputs": [], **given}).encode(), None)[0].id == taken


@pytest.mark.parametrize("given", [7, 1.5, True, ["a"], {"a": 1}])
def test_an_id_that_is_no_text_is_refused(given: Any) -> None:
    with pytest.raises(InvalidInputError, match="`id` is no text"):
        request_of("m", "", json.dumps({"inputs": [], "id": given}).encode(), None)


def test_parameters_that_are_null_are_not_given() -> None:
    tensor = {"name": "x", "datatype": "INT8", "shape": [1], "data": [1]}
    asked = {
        "inputs": [{**tensor, "parameters": {"a": None, "b": 1}}],
        "outputs": [{"name": "y", "parameters": {"a": None}}],
        "parameters": {"a": None, "priority": 3},
    }
    made, _ = request_of("m", "", json.dumps(asked).encode(), None)
    assert list(made.inputs[0].parameters) == ["b"]
    assert not made.outputs[0].parameters
    assert list(made.parameters) == ["priority"]


def test_a_byte_order_mark_is_passed_over() -> None:
    content = b"\xef\xbb\xbf" + body(datatype="INT8", shape=[1], data=[1])
    assert request_of("m", "", content, None)[0].raw_input_contents[0] == b"\x01"


def test_binary_tensors_lie_behind_the_header_in_their_order() -> None:
    inputs = [
        {
            "name": name,
            "datatype": "INT8",
            "shape": [size],
            "parameters": {"binary_data_size": size},
        }
        for name, size in (("a", 2), ("b", 3))
    ]
    asked = {
        "inputs": inputs,
        "outputs": [{"name": "y", "parameters": {"binary_data": True}}, {"name": "z"}],
        "parameters": {"priority": 3, "why": "test"},
    }
    header = json.dumps(asked).encode()
    made, wanted = request_of("m", "", header + b"\x01\x02\x03\x04\x05", len(header))
    assert list(made.raw_input_contents) == [b"\x01\x02", b"\x03\x04\x05"]
    # What is said of the form is not for Triton: such requests may be merged with others.
    assert not made.inputs[0].parameters
    assert not made.outputs[0].parameters
    assert made.parameters["priority"].int64_param == 3
    assert wanted.is_binary("y")
    assert not wanted.is_binary("z")

    answer = pb.ModelInferResponse(raw_output_contents=[b"\x07", b"\x08"])
    answer.outputs.add(name="y", datatype="INT8", shape=[1])
    answer.outputs.add(name="z", datatype="INT8", shape=[1])
    content, header_bytes = answer_of(answer, wanted)
    assert header_bytes is not None
    shown = json.loads(content[:header_bytes])["outputs"]
    assert shown[0]["parameters"] == {"binary_data_size": 1}
    assert shown[1]["data"] == [8]
    assert content[header_bytes:] == b"\x07"


@pytest.mark.parametrize("shape", [[2**64 - 1, 0], [2**63], [-1], [True], [1.0], ["1"], None])
def test_a_shape_that_cannot_be_is_refused(shape: Any) -> None:
    with pytest.raises(InvalidInputError, match="no shape of whole numbers"):
        request_of("m", "", body(datatype="FP32", shape=shape, data=[]), None)


@pytest.mark.parametrize("length", [0, 10_000])
def test_a_header_length_that_cannot_be_is_refused(length: int) -> None:
    with pytest.raises(InvalidInputError, match=f"Content-Length is {length}"):
        request_of("m", "", b"{}", length)


@pytest.mark.parametrize("length", [None, 0])
def test_an_empty_body_is_said_to_be_empty(length: int | None) -> None:
    with pytest.raises(InvalidInputError, match=r"body is empty.*Send the Open Inference Protocol"):
        request_of("m", "", b"", length)


@given(st.binary(max_size=200), st.none() | st.integers(0, 300))
def test_no_bytes_do_anything_but_be_refused(content: bytes, length: int | None) -> None:
    try:
        request_of("m", "", content, length)
    except BasaltError:
        return


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "shape", "datatype", "data", "parameters", "inputs"]), inner
        )
    ),
    max_leaves=12,
)


@given(
    st.fixed_dictionaries(
        {
            "inputs": st.lists(
                st.fixed_dictionaries(
                    {
                        "name": st.just("x") | json_values,
                        "datatype": st.sampled_from([*DTYPES, "BYTES", "BF16"]) | json_values,
                        "shape": st.just([2]) | json_values,
                        "data": json_values,
                    }
                )
            )
        },
        optional={"outputs": json_values, "parameters": json_values, "id": json_values},
    )
)
def test_no_json_does_anything_but_be_taken_or_refused(content: Any) -> None:
    try:
        request_of("m", "", json.dumps(content).encode(), None)
    except BasaltError:
        return
