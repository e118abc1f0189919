"""Charts of a report."""

import pytest

pytest.importorskip("torch")

from vertebra.train._charts import confusion_chart


def test_a_few_classes_are_a_table_with_their_names():
    chart = confusion_chart(["cat", "<dog>"], [[3, 1], [0, 2]])
    assert "<table>" in chart
    assert "&lt;dog&gt;" in chart
    assert "<b>3</b>" in chart
    assert "<td>1</td>" in chart


def test_many_classes_are_a_picture():
    names = [f"class {i}" for i in range(30)]
    confusion = [[9 if i == j else int(j == i + 1) for j in range(30)] for i in range(30)]
    chart = confusion_chart(names, confusion)
    assert chart.startswith("<svg")
    assert chart.count("<rect") == 59
    assert "class 3 taken for class 4: 1" in chart
