from quantize.report.pareto import pareto_front

from .conftest import file_facts


def test_a_file_that_is_larger_and_worse_is_not_on_the_front(files):
    front = pareto_front(files[:3])
    assert [file.name for file in front] == ["student-Q4_K_M", "student-F16"]


def test_each_model_has_its_own_front(files):
    marked = {file.name: file.on_pareto_front for file in files}
    assert marked == {
        "student-F16": True,
        "student-Q8_0": False,
        "student-Q4_K_M": True,
        "teacher-F16": True,
    }


def test_of_equal_files_one_is_on_the_front():
    alike = [file_facts("student-Q5_0", 10, 0.1), file_facts("student-Q5_K_M", 10, 0.1)]
    assert pareto_front(alike) == alike[:1]


def test_without_files_there_is_no_front():
    assert pareto_front([]) == []
