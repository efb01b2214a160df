import pytest

from shoal.observe.exposition import Document, merged
from support.metrics import samples, total

A = '# HELP x X.\n# TYPE x counter\nx_total{a="1"} 1\n# HELP y Y.\n# TYPE y gauge\ny 2\n'
B = '# HELP y Y.\n# TYPE y gauge\ny 3\n# HELP x X.\n# TYPE x counter\nx_total{a="2"} 4\n'


def test_families_stay_in_one_piece_with_one_head():
    text = merged([A, B])
    assert text.count("# TYPE x") == text.count("# HELP y") == 1
    assert text.index('a="2"') < text.index("# HELP y")
    assert (total(text, "x_total"), total(text, "y")) == (5, 5)


@pytest.mark.parametrize(
    ("line", "labels"),
    [
        ("y 1", {}),
        ("y{} 1", {}),
        ('y{engine="0"} 1', {"dp_rank": "0"}),
        ('y{a="x,engine=",engine="}"} 1', {"a": "x,engine=", "dp_rank": "}"}),
        (r'y{a="\",engine=\"1\"",engine="0"} 1', {"a": '",engine="1"', "dp_rank": "0"}),
        ('y{a="b c"} 1e-3', {"a": "b c"}),
    ],
)
def test_labels_are_added_and_renamed_whatever_the_values(line, labels):
    document = Document()
    document.add(f"# TYPE y gauge\n{line}\n", {"node": 'n"\\', "engine": "e"}, rename={"engine": "dp_rank"})
    (sample,) = samples(document.text(), "y")
    assert sample.labels == {"node": 'n"\\', "engine": "e", **labels}


def test_families_may_be_left_out_and_empty_ones_are():
    document = Document()
    document.add(A + "# HELP z Z.\n# TYPE z gauge\n", wanted=lambda name: name != "x")
    assert document.text() == "# HELP y Y.\n# TYPE y gauge\ny 2\n"
