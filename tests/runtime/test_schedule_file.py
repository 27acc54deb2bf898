"""Schedules in CSV files: read, written, proven, and refused with the place of what is wrong."""

import re

import pytest

from ringlet.runtime.pipeline.price import price
from ringlet.runtime.pipeline.prove import prove
from ringlet.runtime.pipeline.schedule_file import (
    ScheduleFileError,
    load_schedule,
    read_schedule,
    write_schedule,
)
from ringlet.runtime.pipeline.schedules import (
    SCHEDULES,
    make_forward,
    make_schedule,
    placement_of,
    recipe_of,
)

PLAIN = "0F0,0F1,0B0,0B1\n1F0,1B0,1F1,1B1\n"


@pytest.mark.parametrize("transfers", [False, True])
@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("name", SCHEDULES)
def test_what_is_written_is_read_again(name, ranks, transfers):
    schedule = make_schedule(name, ranks, 4)
    read = read_schedule(write_schedule(schedule, transfers))
    assert read.compute == schedule.compute
    assert [read.rank_of(stage) for stage in range(read.stages)] == [
        schedule.rank_of(stage) for stage in range(schedule.stages)
    ]
    assert (read.ranks, read.chunks, read.micro_batches) == (ranks, schedule.chunks, 4)
    assert prove(read) == prove(schedule)
    assert price(read).makespan == price(schedule).makespan


SAME = {
    "with blanks, waits and a mark": "\ufeff 0F0 ,0F1,,0B0,,0B1\r\n,1F0,1B0,1F1,1B1\r\n\r\n,,\r\n",
    "with transfers": (
        "0F0,0SEND_F0,0F1,0SEND_F1,0RECV_B0,0B0,0RECV_B1,0B1\n"
        "1RECV_F0,1F0,1B0,1SEND_B0,1RECV_F1,1F1,1B1,1SEND_B1"
    ),
    "with shards": "0UNSHARD,0F0,0F1,0B0,0B1,0REDUCE_GRAD,0RESHARD\n1UNSHARD,1F0,1B0,1F1,1B1",
    "with overlap": "0F0,(0F1;0B0)OVERLAP_F_B,0B1\n1F0,(1B0;1F1)OVERLAP_F_B,1B1",
    "in older letters": "0F0,0F1,0BW0,0BW1\n1F0,1BW0,1F1,1BW1",
}


@pytest.mark.parametrize("case", SAME)
def test_other_forms_of_the_same(case, tmp_path):
    path = tmp_path / "schedule.csv"
    path.write_text(SAME[case], newline="", encoding="utf-8")
    assert load_schedule(path) == PLAIN


def test_in_older_files_w_follows_b():
    read = read_schedule("0F0,0F1,0BW0,0B1,0W1\n1F0,1B0,1W0,1F1,1BW1\n")
    assert write_schedule(read) == "0F0,0F1,0B0,0I1,0W1\n1F0,1I0,1W0,1F1,1B1\n"


def test_stages_may_be_anywhere():
    text = "1F0,2F0,2B0,1B0\n0F0,3F0,3B0,0B0\n"
    read = read_schedule(text)
    assert read.placement == placement_of(text, 2, 2) == (1, 0, 0, 1)
    assert prove(read).sent == (2, 2)
    forward = make_forward(text, 2, 3)
    assert write_schedule(forward) == "1F0,1F1,1F2,2F0,2F1,2F2\n0F0,0F1,0F2,3F0,3F1,3F2\n"


def test_a_file_is_for_its_own_numbers_only():
    assert recipe_of(PLAIN).fits == (2, 2)
    assert not recipe_of(PLAIN).splits
    assert make_schedule(PLAIN, 2, 2) == read_schedule(PLAIN)
    for ranks, micro_batches in ((3, 2), (2, 4)):
        with pytest.raises(ValueError, match="has 2 rows, one for each rank, and 2 micro-batches"):
            make_schedule(PLAIN, ranks, micro_batches)
    with pytest.raises(ValueError, match="the schedule file has 1 chunk on each rank, not 2"):
        make_schedule(PLAIN, 2, 2, 2)


WRONG = {
    "nothing": ("\n,,\n", "there are no actions; there should be a row for each rank"),
    "a word": ("0F0,0X0\n", "row 1, column 2: '0X0' is no action; an action is a stage, a kind a"),
    "a long word": ("0F0," + "x" * 99, f"row 1, column 2: '{'x' * 40}' is no action"),
    "another order": ("F0.0,B0.0\n", "row 1, column 1: 'F0.0' is no action"),
    "more": ("0F0,0B0x\n", "row 1, column 2: '0B0x' is no action"),
    "a sign": ("0F0,-1B0", "row 1, column 2: '-1B0' is no action"),
    "other digits": ("0F0,0B\u0663", "row 1, column 2: '0B\u0663' is no action"),
    "in an overlap": ("0F0,(0F1;0Q0)OVERLAP_F_B", "row 1, column 2: '0Q0' is no action"),
    "half an overlap": ("0F0,(0F1;)OVERLAP_F_B", "row 1, column 2: '' is no action"),
    "no micro-batch": ("0F0,0B\n", "row 1, column 2: 0B has no micro-batch; one has 0B0"),
    "twice": ("0F0,0F0,0B0", "row 1, column 2: 0F0 is in row 1, column 1 already"),
    "on two ranks": ("0F0,0B0,1F0,1B0\n1F1,1B1", "row 2, column 1: stage 1 is in row 1"),
    "no row's": ("0F0,0B0\n2F0,2B0", "no row has forwards of stage"),
    "fewer stages": ("0F0,1F0,1B0,0B0\n2F0,2B0", "row 2: there are forwards of 1 stage, and of 2"),
    "an empty row": ("0F0,0B0\n\n1F0,1B0", "row 2: there are forwards of 0 stages, and of 1"),
    "no forwards": ("0B0", "row 1: there are no forwards, such as 0F0"),
    "a gap": ("0F0,0F2,0B0,0B2\n1F0,1F2,1B0,1B2", "row 1: 0F1 is missing"),
    "a large gap": ("0F0,0F999999999,0B0\n", "row 1: 0F1 is missing"),
    "a backward too many": ("0F0,0B0,0B7", "row 1: 0F1 is missing"),
    "no backward": ("0F0,0F1,0B0\n1F0,1F1,1B0,1B1", "row 1: 0B1: it is missing"),
    "no weights": ("0F0,0I0", "row 1: 0W0: it is missing"),
    "both kinds": ("0F0,0B0,0I0,0W0", "row 1, column 2: 0B0: its backward is also listed in t"),
    "swapped": ("0F0,0B0\n1B0,1F0", "row 2, column 1: 1B0: 1F0 must come before it"),
    "backwards": ("0F0,0F1,0B1,0B0", "row 1, column 4: 0B0: micro-batch 1 was before it; grad"),
    "another's": ("0F0,0B0,1B0\n1F0", "row 1, column 3: 1B0: stage 1 is on rank 1"),
    "deadlock": (
        "0F0,0B0,0F1,0B1\n1F0,1F1,1B0,1B1",
        "the schedule deadlocks: rank 0 waits at 0RECV_B0 for rank 1; rank 1 waits at 1RECV_F1 for "
        "rank 0 (rank 0 is row 1)",
    ),
    "no receive": ("0F0,0SEND_F0,0RECV_B0,0B0\n1F0,1B0,1SEND_B0", "row 2, column 1: 1F0: 1RECV_F0"),
    "no send": ("0F0,0RECV_B0,0B0\n1RECV_F0,1F0,1B0,1SEND_B0", "the schedule deadlocks: rank 0 wa"),
    "an open quote": ('"0F0,0B0\n', "is no action"),
    "a zero byte": ("0F0,\0", "is no action"),
    "too long a cell": ("0F0," + "1" * 200_000, "this is not CSV: field larger than field limit"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_one_line_with_its_place(case, tmp_path):
    text, reason = WRONG[case]
    with pytest.raises(ScheduleFileError, match=re.escape(reason)) as caught:
        read_schedule(text)
    assert "\n" not in str(caught.value)
    path = tmp_path / "wrong.csv"
    path.write_text(text, newline="", encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(f"{path}: ")):
        make_schedule(str(path), 2, 2)


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "binary.csv").write_bytes(b"0F0,\xff\xfe")
    for name, reason in (
        ("gone.csv", "cannot read .*gone.csv: No such file"),
        (".", "cannot read .*: not a regular file"),
        ("binary.csv", "binary.csv is not a text file"),
        ("/dev/zero", "cannot read /dev/zero: not a regular file"),
    ):
        with pytest.raises(ScheduleFileError, match=reason):
            load_schedule(tmp_path / name)
