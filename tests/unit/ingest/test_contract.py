from __future__ import annotations

import re
from pathlib import Path

import pytest

from libs.common.errors import InvalidInputError
from services.ingest.core import contract as contracts
from services.ingest.core.contract import CONTRACT_BYTES_MAX, parse
from services.ingest.core.violation import REASONS
from tests.support.upstream import CONTRACT

REFERENCE = Path(__file__).parents[3] / "docs/reference/data-contract.md"
SMALL = "name: scans\ncolumns:\n  - {name: width, type: float}\n"


def refusal(text: str) -> str:
    with pytest.raises(InvalidInputError) as refused:
        parse(text)
    assert refused.value.next_step or refused.value.which
    return str(refused.value)


def test_a_contract_says_what_its_records_keep_to() -> None:
    contract = parse(CONTRACT)

    assert contract.keys == ("scan",)
    assert contract.label_column == "finding"
    width = contract.column("width")
    assert width is not None
    assert (width.type, width.unit, width.minimum, width.required) == ("float", "mm", 0, True)


def test_roles_name_the_key_and_the_label_as_well() -> None:
    contract = parse(
        "name: scans\ncolumns:\n"
        "  - {name: scan, type: string, role: key}\n  - {name: found, type: boolean, role: label}\n"
    )

    assert (contract.keys, contract.label_column) == (("scan",), "found")


def test_the_example_of_the_reference_holds_and_every_reason_is_explained() -> None:
    text = REFERENCE.read_text()
    examples = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)

    assert examples
    for example in examples:
        assert parse(example).columns
    for reason in REASONS:
        assert f"`{reason}`" in text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: [", "line 1, column 8"),
        ("", "line 1: a contract is a mapping"),
        ("- a\n- b\n", "line 1: a contract is a mapping"),
        ("name: scans\n", "line 1: columns: field required"),
        ("name: Scans!\n" + SMALL.split("\n", 1)[1], "line 1: name"),
        (SMALL + "  - {name: width, type: float}\n", "column 'width' is named twice"),
        (SMALL + "  - {name: depth, type: number}\n", "line 4: columns[1].type: input should be"),
        (SMALL + "  - {name: depth, type: float, minimum: low}\n", "columns[1].minimum"),
        (SMALL + "  - {name: depth, type: float, minimum: .nan}\n", "columns[1].minimum"),
        (SMALL + "  - {name: depth, type: float, minimum: 2, maximum: 1}\n", "line 4: columns[1]"),
        (SMALL + "  - {name: depth, type: string, minimum: 2}\n", "a string column has no minimum"),
        (SMALL + "  - {name: depth, type: integer, allowed: [1, true]}\n", "allowed value True"),
        (SMALL + "  - {name: depth, type: float, size: 2}\n", "line 4: columns[1].size: extra"),
        (SMALL + "  - {name: _event, type: string}\n", "line 4: columns[1].name"),
        (SMALL + "colour: red\n", "line 4: colour: extra inputs are not permitted"),
        (SMALL + "key: [depth]\n", "'depth' is not one of the columns"),
        (SMALL + "key: [width]\n", "key column 'width' must be required, and no float"),
        (SMALL + "label: depth\n", "'depth' is not one of the columns"),
        (SMALL + "versioning: {every_rows: 0}\n", "line 4: versioning.every_rows"),
        (SMALL + "name: again\n", "line 4, column 1: 'name' is given twice"),
        (SMALL + "description: &a x\nlabel: *a\n", "line 5, column 8: aliases are not allowed"),
        (SMALL + "label: [[[[[[[[[]]]]]]]]]\n", "nested too deeply"),
        (SMALL + "label: !!python/name:os.system\n", "line 4, column 8: the YAML cannot be read"),
        (SMALL + "label: \x00\n", "the YAML cannot be read"),
        ("#" * (CONTRACT_BYTES_MAX + 1), f"over {CONTRACT_BYTES_MAX} bytes"),
    ],
)
def test_a_fault_is_named_with_its_line_and_field(text: str, said: str) -> None:
    assert said in refusal(text)


def test_a_contract_that_is_too_long_is_refused_with_advice() -> None:
    with pytest.raises(InvalidInputError) as raised:
        parse("#" * (CONTRACT_BYTES_MAX + 1))
    assert "fewer columns" in raised.value.next_step


def test_all_faults_are_named_at_once_up_to_a_limit() -> None:
    columns = "".join(f"  - {{name: c{number}, type: no}}\n" for number in range(20))

    message = refusal(f"name: scans\ncolumns:\n{columns}")

    assert message.count("columns[") == contracts.ERRORS_SHOWN_MAX
    assert "and 10 more" in message


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ("{name: width, type: string}", "was float and would be string"),
        ("{name: width, type: float, unit: cm}", "was in no unit and would be in cm"),
        ("{name: width, type: float}\n  - {name: new, type: float}", "is new and required"),
    ],
)
def test_what_accepted_rows_could_not_follow_is_refused(column: str, said: str) -> None:
    new = parse(f"name: scans\ncolumns:\n  - {column}\n")

    with pytest.raises(InvalidInputError, match=said):
        contracts.check_change(parse(SMALL), new, rows_accepted=True)
    contracts.check_change(parse(SMALL), new, rows_accepted=False)


def test_what_accepted_rows_can_follow_is_allowed() -> None:
    new = parse(
        "name: scans\ncolumns:\n  - {name: width, type: float, minimum: 3}\n"
        "  - {name: note, type: string, required: false}\n"
    )

    contracts.check_change(parse(SMALL), new, rows_accepted=True)
