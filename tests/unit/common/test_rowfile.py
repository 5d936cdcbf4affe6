"""CSV: the same rows as the standard library reads of what is well-formed, and faults that end at
their line."""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.rowfile import CsvError, CsvReader, Record, split

LINE_MAX = 1_000


def reader(content: bytes, record_max: int = LINE_MAX) -> CsvReader:
    return CsvReader(io.BytesIO(content), LINE_MAX, record_max)


def rows(content: bytes, line_ends: frozenset[int] = frozenset()) -> list[Record]:
    return list(reader(content).rows(lambda _: True, line_ends))


def taken(content: bytes) -> list[list[str]]:
    return [each.fields for each in rows(content) if not each.fault and each.fields]


def held(content: bytes) -> list[int]:
    """The numbers of the lines that hold no row."""
    return [each.number for each in rows(content) if each.fault]


FIELD = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.lists(FIELD, min_size=3, max_size=3), min_size=1, max_size=20))
def test_what_is_well_formed_is_read_as_everybody_reads_it(table: list[list[str]]) -> None:
    out = io.StringIO()
    csv.writer(out, quoting=csv.QUOTE_ALL).writerows([["a", "b", "c"], *table])
    content = out.getvalue().encode()
    # Every column may have line ends: nothing is in doubt.
    read = CsvReader(io.BytesIO(content), 10**6, 10**6)
    found = list(read.rows(lambda _: True, frozenset({0, 1, 2})))
    assert [each.fields for each in found] == table
    assert read.header_lines + sum(each.lines for each in found) == content.count(b"\n")


@settings(deadline=None, max_examples=500)
@given(st.text('a",\r\n', max_size=200), st.text('a1",', max_size=8))
def test_every_line_is_told_once_whatever_the_file(text: str, more: str) -> None:
    content = b"x,y\n" + text.encode() + more.encode()
    found = rows(content)
    lines = io.BytesIO(content).readlines()
    assert 1 + sum(each.lines for each in found) == len(lines)
    numbers = [each.number for each in found]
    assert numbers == sorted(set(numbers))
    # What is taken has the header's width, and is what the standard library reads of these bytes.
    for each in found:
        if not each.fault and each.fields:
            (plain,) = csv.reader(io.StringIO(each.raw.decode(), newline=""), strict=True)
            assert each.fields == plain
            assert len(plain) == 2


def test_an_open_quotation_mark_is_a_fault_of_its_line_alone() -> None:
    lines = [f"{n},text {n}" for n in range(2_000)]
    lines[9] = '9,"text 9'
    content = "id,text\n" + "\n".join(lines) + "\n"
    assert held(content.encode()) == [11]
    assert len(taken(content.encode())) == 1_999


@pytest.mark.parametrize("far", [12, 500])
def test_a_later_text_of_several_lines_does_not_close_it(far: int) -> None:
    lines = [f"{n},text {n}" for n in range(1_000)]
    lines[9] = '9,"text 9'
    lines[far] = f'{far},"text\nof several\nlines"'
    content = ("id,text\n" + "\n".join(lines) + "\n").encode()
    assert held(content) == [11]
    assert [str(far), "text\nof several\nlines"] in taken(content)
    assert len(taken(content)) == 999


def test_two_of_them_put_all_lines_between_in_doubt() -> None:
    content = b'id,text\n1,a\n2,"b\n3,c\n4,d\n5,e"\n6,f\n'
    found = rows(content)
    assert taken(content) == [["1", "a"], ["6", "f"]]
    doubtful = [each for each in found if each.doubtful]
    assert [each.raw for each in doubtful] == [b'2,"b', b"3,c", b"4,d", b'5,e"']
    # What is a row can be taken as it is, once somebody has looked.
    assert [each.fields for each in doubtful] == [[], ["3", "c"], ["4", "d"], []]
    assert "from line 3 to line 6" in doubtful[0].fault


def test_a_column_may_have_line_ends() -> None:
    content = b'id,text\n2,"b\n3,c\n4,d\n5,e"\n'
    (row,) = rows(content, frozenset({1}))
    assert (row.fields, row.lines) == (["2", "b\n3,c\n4,d\n5,e"], 4)
    # Another column's text is still in doubt.
    assert all(each.doubtful for each in rows(content, frozenset({0})))


def test_lines_that_are_no_rows_by_themselves_are_text() -> None:
    content = b'id,text\n1,"a letter\n\nwith lines, and commas, too\n""quoted"""\n2,b\n'
    assert taken(content) == [
        ["1", 'a letter\n\nwith lines, and commas, too\n"quoted"'],
        ["2", "b"],
    ]


def test_what_could_not_be_a_row_of_the_contract_is_text() -> None:
    content = b'id,text\n1,"dear all,\nyours, me\n"\n'
    is_row = lambda fields: fields[0].isdigit()  # noqa: E731
    (row,) = reader(content).rows(is_row)
    assert row.fields == ["1", "dear all,\nyours, me\n"]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b'1,5" pipe', "field 2 has a quotation mark"),
        (b'1,"a"b', "field 2 has a quotation mark"),
        (b'1, "a"', "field 2 has a quotation mark"),
        (b'"1" ,a', "field 1 has a quotation mark"),
        (b"1,a\rb", "carriage return"),
        (b'"1",a\rb', "carriage return"),
        (b"1,\xff", "not UTF-8"),
        (b'"\xff",1', "not UTF-8"),
        (b"1,\0", "NUL"),
        (b"1", "1 fields, but the header names 2"),
        (b"1,2,3", "3 fields, but the header names 2"),
        (b"1,2,", "3 fields, but the header names 2"),
        (b'"1","2",', "3 fields, but the header names 2"),
        (b"\xef\xbb\xbf1,2,3", "3 fields"),
    ],
)
def test_a_fault_is_said_and_ends_at_its_line(line: bytes, fault: str) -> None:
    found = rows(b"id,text\n0,x\n" + line + b"\n2,y\n")
    assert [each.fields for each in found if not each.fault] == [["0", "x"], ["2", "y"]]
    (wrong,) = (each for each in found if each.fault)
    assert (wrong.number, wrong.raw) == (3, line)
    assert fault in wrong.fault


def test_only_the_first_line_has_a_byte_order_mark() -> None:
    content = b"\xef\xbb\xbfid,text\n\xef\xbb\xbf1,a\n"
    assert reader(content).header == ["id", "text"]
    assert taken(content) == [["\ufeff1", "a"]]


def test_empty_lines_are_no_rows_and_are_counted() -> None:
    found = rows(b"id,text\r\n\r\n1,a\r\n\n")
    assert [(each.fields, each.fault) for each in found] == [([], ""), (["1", "a"], ""), ([], "")]


def test_a_line_that_is_too_long_is_told_by_its_beginning() -> None:
    content = b"id,text\n1,a\n2," + b"x" * 5_000 + b'"\n3,"b\n4,c\n'
    found = rows(content)
    assert [each.number for each in found if each.too_long] == [3]
    assert held(content) == [4]
    assert taken(content) == [["1", "a"], ["4", "c"]]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "empty"),
        (b"\n1,2\n", "empty"),
        (b"\xff\xfei\0d\0", "UTF-16"),
        (b'id,"text\n', "header"),
        (b"id,te\xffxt\n", "header"),
        (b"x" * (LINE_MAX + 2), "over"),
        (b"id,text\r1,a\r2,b\r", "carriage return"),
    ],
)
def test_a_file_without_a_header_is_refused(content: bytes, why: str) -> None:
    with pytest.raises(CsvError, match=why):
        reader(content)


def test_a_header_may_have_quotation_marks_and_lines() -> None:
    read = reader(b'"id","the\ntext"\n1,a\n')
    assert (read.header, read.header_lines) == (["id", "the\ntext"], 2)
    assert [each.fields for each in read.rows(lambda _: True)] == [["1", "a"]]


HARD = {
    "one open quotation mark": b'1,"a\n' + b"2,b\n" * 100_000,
    "only open quotation marks": b'1,"a\n' * 100_000,
    "every other line is open": b'1,"a\n2,b\n' * 50_000,
    "open at every hundredth": (b'1,"a\n' + b"2,b\n" * 99) * 1_000,
    "a record full of quotation marks": b'1,"' + b'""' * 200_000 + b'"\n',
    "fields that never end": (b'1,"' + b'""' * 300 + b"x\n") * 500,
    "empty lines after an open one": b'1,"a\n' + b"\n" * 400_000,
}


@pytest.mark.parametrize("kind", HARD)
def test_time_follows_the_size_of_the_file(kind: str) -> None:
    """Steps are counted, not seconds: how often a line is looked at."""
    content, looked = b"id,text\n" + HARD[kind], 0
    read = CsvReader(io.BytesIO(content), 1 << 20, 1 << 20)
    ahead = read._looking_ahead  # pyright: ignore[reportPrivateUsage]

    def counting() -> Iterator[Any]:
        nonlocal looked
        for line in ahead():
            looked += 1
            yield line

    read._looking_ahead = counting  # pyright: ignore
    found = list(read.rows(lambda _: True))
    lines = content.count(b"\n")
    assert looked <= 2 * lines + 2
    assert sum(each.lines for each in found) == lines - 1


def test_rows_are_the_same_however_they_are_cut() -> None:
    """Random damage: what is taken is always a row that some line, or lines, of the file hold."""
    order = random.Random(7)  # noqa: S311 - to be repeated, not secret.
    good = [b"1,a", b'2,"b"', b'3,"c\nd"', b'4,"e ""f"""']
    for _ in range(300):
        lines = order.choices(good, k=12)
        damaged = bytearray(b"id,text\n" + b"\n".join(lines) + b"\n")
        for _ in range(order.randint(1, 3)):
            damaged.insert(order.randrange(8, len(damaged)), ord('"'))
        for each in rows(bytes(damaged)):
            if not each.fault and each.fields:
                assert split(each.raw) == each.fields
