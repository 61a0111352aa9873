from ray_tl.scoring.matching import GivenLabels, match


def given(classes, names, contents=(), by="path"):
    return GivenLabels("labels='x'", by, "rows", classes, names, contents)


def test_a_label_belongs_to_every_row_of_equal_contents():
    found = match(given(["cat", "dog"], [None, None], ["a", "b"], "text"), ["1", "2", "3"], ["b", "a", "b"])
    assert found.classes == {0: ("dog",), 1: ("cat",), 2: ("dog",)}
    assert found.used == {0, 1}


def test_names_decide_between_copies():
    found = match(given(["cat", "dog"], ["x/1.png", "x/2.png"], ["a", "a"], "pixels"), ["1.png", "2.png"], ["a", "a"])
    assert found.classes == {0: ("cat",), 1: ("dog",)}


def test_copies_of_different_classes_contradict_each_other_where_no_name_decides():
    found = match(given(["cat", "dog", "cat"], ["x", "y", "z"], ["a", "a", "b"], "pixels"), ["1", "2"], ["a", "b"])
    assert found.contradictions == {0: ("cat", "dog")}


def test_an_equal_name_means_nothing_where_contents_differ():
    assert match(given(["cat"], ["1.png"], ["a"], "pixels"), ["1.png"], ["b"]).classes == {}


def test_a_path_belongs_to_the_row_that_it_ends_as():
    found = match(given(["cat", "dog"], ["/data/new/x/1.png", "./x/2.png"], ()), ["x/1.png", "x/2.png"], ())
    assert found.classes == {0: ("cat",), 1: ("dog",)}


def test_a_bare_file_name_belongs_to_a_row_if_a_single_path_ends_so():
    found = match(given(["cat", "dog"], ["1.png", "2.png"]), ["x/1.png", "y/1.png", "y/2.png"], ())
    assert found.classes == {2: ("dog",)}
    assert found.used == {1}


def test_the_same_class_twice_is_no_contradiction():
    found = match(given(["cat", "cat"], ["1", "1"], by="id"), ["1"], ())
    assert (found.classes, found.contradictions) == ({0: ("cat",)}, {})
