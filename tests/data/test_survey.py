"""All domains of a study together: layouts, copies between domains, what is left out, and the report of it."""

import io

import numpy as np
import pytest
from PIL import Image

from ray_tl.data.load import check_data, load_data, load_pair
from ray_tl.data.places import Places
from ray_tl.errors import InvalidInput
from ray_tl.search_space import DataOptions
from tests.models.pretrained_texts import write_tokenizer

OPTIONS = DataOptions(image_size=16, channels=3, holdout_fraction=0.5)


def pixels(seed: int) -> np.ndarray:
    """A soft picture of its own, as photographs are: a few large shapes."""
    coarse = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return np.asarray(coarse.resize((48, 48), Image.Resampling.BICUBIC))


def save(path, seed, kind="PNG"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(seed)).save(path, kind, **({"quality": 85} if kind == "JPEG" else {}))


@pytest.fixture
def root(tmp_path):
    """Twelve images of two classes, five of a target, and three that are held out of it; all different."""
    for number in range(12):
        save(tmp_path / "source" / ("cat" if number % 2 else "dog") / f"{number}.png", number)
    for number in range(5):
        save(tmp_path / "target" / f"{number}.png", 100 + number)
    for number in range(3):
        save(tmp_path / "test" / f"{number}.png", 200 + number)
    return tmp_path


def places(root, **changed):
    names = {"source": "source", "target": "target", "target_test": "test"} | changed
    return Places(**{field: str(root / name) for field, name in names.items() if name is not None})


def load(root, options=None, **changed):
    return load_data(places(root, **changed), OPTIONS.model_copy(update=options or {}), 0)


def problems(root, **changed):
    return check_data(places(root, **changed), OPTIONS, 0)[1]


# layouts


def test_splits_one_level_up_are_no_classes(root):
    (root / "all").mkdir()
    for split in ("train", "val"):
        save(root / "all" / split / "cat" / "1.png", 1)
    with pytest.raises(InvalidInput, match=r"train and val look like parts of a data set.*give .*/all/train\."):
        load(root, source="all")


def test_a_class_may_be_called_train(root):
    save(root / "source" / "train" / "1.png", 50)
    save(root / "source" / "train" / "2.png", 51)
    assert load(root).pair.source.classes == ("cat", "dog", "train")


def test_a_folder_around_the_class_folders_is_named(root):
    (root / "source").rename(root / "images")
    (root / "outer").mkdir()
    (root / "images").rename(root / "outer" / "images")
    with pytest.raises(
        InvalidInput, match=r"holds the folders cat, dog; if these are the classes, give .*outer/images"
    ):
        load(root, source="outer")


@pytest.mark.parametrize("field", ["target", "target_test"])
def test_a_domain_inside_the_source_is_refused(root, field):
    save(root / "source" / "new" / "1.png", 60)
    save(root / "source" / "new" / "2.png", 61)
    with pytest.raises(InvalidInput, match=rf"{field}='.*source/new' is inside source='.*source'"):
        load(root, **{field: "source/new"})


def test_a_target_of_a_single_image_is_refused(root):
    save(root / "one" / "1.png", 60)
    with pytest.raises(InvalidInput, match=r"target='.*one' has 1 image that can be used, and adapting .* needs 2"):
        load(root, target="one")


# copies between domains


@pytest.mark.parametrize("other", ["source", "target"])
def test_what_is_scored_on_may_not_be_what_is_trained_on(root, other):
    with pytest.raises(
        InvalidInput, match=rf"images of {other} are in target_test too, \d+ exact copies.*--on-overlap"
    ):
        load(root, target_test=other)


def test_a_near_copy_of_a_scored_image_is_refused_too(root):
    save(root / "target" / "again.jpg", 200, "JPEG")
    with pytest.raises(
        InvalidInput, match=r"1 image of target is in target_test too, 1 near copy \(again.jpg is 0.png\)"
    ):
        load(root)


def test_copies_of_scored_images_can_be_left_out_of_training(root):
    save(root / "target" / "again.jpg", 200, "JPEG")
    save(root / "source" / "cat" / "same.png", 201)
    loaded = load(root, {"on_overlap": "skip"})
    assert loaded.pair.target.ids == tuple(f"{number}.png" for number in range(5))
    assert "cat/same.png" not in {*loaded.pair.source.ids, *loaded.pair.source_holdout.ids}
    assert [dict(each.left_out) for each in loaded.summary.domains[:2]] == [{"of which target_test has a copy": 1}] * 2


def test_a_target_that_is_all_scored_on_leaves_nothing(root):
    with pytest.raises(InvalidInput, match=r"target='.*' has nothing but copies of target_test"):
        load(root, {"on_overlap": "skip"}, target_test="target")


def scratched(number: int, is_scratched: bool) -> np.ndarray:
    """What a camera that never moves sees of a part, with noise, and perhaps a scratch."""
    noise = np.random.default_rng(number).normal(0, 4, (48, 48, 3))
    part = pixels(999).astype(float) + noise
    part[20:22, 10:30] += 60 if is_scratched else 0
    return part.clip(0, 255).astype(np.uint8)


def test_where_near_copies_are_of_different_classes_exact_ones_count_alone(tmp_path):
    for number in range(40):
        folder = {0: "source/good", 1: "source/bad", 2: "target", 3: "test"}[number % 4]
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(scratched(number, number % 4 == 1))
        image.save(tmp_path / folder / f"{number}.png")
    loaded = load(tmp_path)
    assert len(loaded.pair.target) == len(loaded.pair.target_test) == 10
    assert any("near copies" in line for line in loaded.summary.overlaps)


def test_near_copies_can_be_examples_of_their_own(root):
    save(root / "target" / "again.jpg", 200, "JPEG")
    assert len(load(root, {"on_overlap": "exact"}).pair.target) == 6
    save(root / "target" / "same.png", 200)
    with pytest.raises(InvalidInput, match=r"2 images of target are in target_test too, 1 exact and 1 near"):
        load(root, {"on_overlap": "exact"})


def test_a_target_of_which_one_image_is_left_is_too_small(root):
    for number in range(4):
        save(root / "test" / f"leak{number}.png", 100 + number)
    with pytest.raises(InvalidInput, match=r"target='.*' has 1 image that can be used, and adapting"):
        load(root, {"on_overlap": "skip"})


def test_a_check_goes_on_where_skipping_leaves_nothing(root):
    _, found = check_data(places(root, target_test="target"), OPTIONS.model_copy(update={"on_overlap": "skip"}), 0)
    assert [line.split("' ")[1] for line in found] == [
        "has nothing but copies of target_test; hold out other examples for that."
    ]


def test_copies_elsewhere_are_counted(root):
    save(root / "target" / "same.png", 3)
    assert load(root).summary.overlaps == ("1 image of target is in source too, 1 exact copy (same.png is cat/3.png)",)


def test_one_image_in_two_classes_is_said(root):
    save(root / "source" / "dog" / "twin.png", 3)
    (line,) = load(root).summary.overlaps
    assert "2 images of the source are copies with different labels (cat/3.png, dog/twin.png" in line


# the hold-out


@pytest.mark.parametrize("seed", range(4))
def test_exact_copies_are_on_one_side_of_the_hold_out(root, seed):
    for number in range(3):
        save(root / "source" / "cat" / f"again{number}.png", 3)
    pair = load_pair(*(str(root / name) for name in ("source", "target", "test")), OPTIONS, seed)
    copies = {"cat/3.png", "cat/again0.png", "cat/again1.png", "cat/again2.png"}
    assert copies <= set(pair.source.ids) or copies <= set(pair.source_holdout.ids)


def test_near_copies_on_both_sides_are_counted_and_split_by_group_keeps_them_together(root):
    for number in range(12):
        save(root / "source" / ("cat" if number % 2 else "dog") / f"{number}.jpg", number, "JPEG")
    (line,) = load(root).summary.overlaps
    assert "of the hold-out" in line
    assert line.endswith("--split-by group keeps copies on one side.")
    grouped = load(root, {"split_by": "group"})
    held_out = {name.partition(".")[0] for name in grouped.pair.source_holdout.ids}
    assert held_out.isdisjoint(name.partition(".")[0] for name in grouped.pair.source.ids)
    assert grouped.summary.overlaps == ()


def test_images_of_a_folder_stay_together(root):
    for patient in range(6):
        for number in range(2):
            save(
                root / "scans" / ("ill" if patient % 2 else "well") / f"p{patient}" / f"{number}.png",
                300 + 2 * patient + number,
            )
    pair = load(root, {"split_by": "folder"}, source="scans").pair
    sides = [{name.rsplit("/", 1)[0] for name in part.ids} for part in (pair.source, pair.source_holdout)]
    assert sides[0].isdisjoint(sides[1])
    assert all(sides)


def test_a_column_means_nothing_for_folders(root):
    with pytest.raises(InvalidInput, match=r"split_by='patient' names a column, and source=.* is a folder"):
        load(root, {"split_by": "patient"})


@pytest.fixture
def texts(tmp_path):
    """Twelve labelled texts of four authors on twelve days."""
    write_tokenizer(tmp_path / "tokenizer")
    rows = [
        f"film {'great' * (row % 2)} {'dull ' * row},{'ab'[row % 2]},author{row // 3},2026-01-{row + 1:02}"
        for row in range(12)
    ]
    (tmp_path / "source.csv").write_text("\n".join(["text,label,author,date", *rows]))
    (tmp_path / "target.csv").write_text("text\nbattery\nbox\n")
    return tmp_path


def read(texts, **options):
    data = {"modality": "text", "tokenizer": str(texts / "tokenizer"), "max_length": 64, **options}
    return load_pair(str(texts / "source.csv"), str(texts / "target.csv"), None, DataOptions(**data), 0)


def test_rows_that_are_equal_in_a_column_stay_together(texts):
    pair = read(texts, split_by="author")
    sides = [{(int(row) - 1) // 3 for row in part.ids} for part in (pair.source, pair.source_holdout)]
    assert sides[0].isdisjoint(sides[1])


def test_the_latest_rows_are_held_out(texts):
    assert read(texts, split_by_time="date", holdout_fraction=0.25).source_holdout.ids == ("10", "11", "12")


@pytest.mark.parametrize(
    ("options", "said"),
    [({"split_by": "writer"}, "has no column 'writer'"), ({"split_by": "folder"}, "is for folders of images")],
)
def test_a_table_is_split_by_its_columns_alone(texts, options, said):
    with pytest.raises(InvalidInput, match=said):
        read(texts, **options)


def test_two_ways_to_hold_out_are_refused():
    with pytest.raises(ValueError, match="another way to hold out than split_by='a'; leave one of the two out"):
        DataOptions(split_by="a", split_by_time="b")


# the report


def test_the_summary_counts_what_was_read(root):
    (root / "target" / ".DS_Store").write_bytes(b"mac")
    (root / "target" / "notes.txt").write_text("to do")
    save(root / "source" / "cat" / "more.png", 80)
    assert load(root).summary.lines() == [
        "source: 13 images in 2 classes, 6 (dog) to 7 (cat) each, 7 held out",
        "target: 5 images; left out: hidden files (1), other files .txt (1)",
        "target_test: 3 images",
    ]


def test_a_hold_out_without_a_class_and_dark_images_are_noted(texts, root):
    rows = [f"film {row},{'ab'[row > 8]},{12 - row}" for row in range(12)]
    (texts / "source.csv").write_text("\n".join(["text,label,date", *rows]))
    data = {
        "modality": "text",
        "tokenizer": str(texts / "tokenizer"),
        "split_by_time": "date",
        "holdout_fraction": 0.25,
    }
    places = Places(str(texts / "source.csv"), str(texts / "target.csv"))
    (line,) = load_data(places, DataOptions(**data), 0).summary.notes
    assert line == "the hold-out has no example of b; the accuracy there stays unknown."
    for number in range(2):
        Image.fromarray(np.full((8, 8), 4000 + number, np.uint16)).save(root / "test" / f"dark{number}.png")
    (root / "dark").mkdir()
    for path in (root / "test").glob("dark*"):
        path.rename(root / "dark" / path.name)
    assert (
        load(root, target_test="dark").summary.notes[0].startswith("no pixel of target_test is brighter than 16 of 255")
    )


def test_very_unequal_classes_come_with_the_remedy(root):
    for number in range(30):
        save(root / "source" / "cat" / f"more{number}.png", 400 + number)
    summary = load(root).summary
    assert summary.lines()[-1].startswith("unequal classes: 'cat' has 6 times as many images as 'dog'; add")
    assert len(summary.lines(is_balanced=True)) == 3


def test_a_check_names_every_fault_at_once(root):
    source = root / "source"
    for seed, folder in enumerate(("Cat", "nan", "eel"), 1000):
        save(source / folder / "1.png", seed)
    save(source / "loose.png", 90)
    (source / "cat" / "broken.jpg").write_bytes(b"half")
    (source / "cat" / "loop").symlink_to("..")
    save(root / "test" / "leak.png", 3)
    save(root / "source" / "dog" / "few" / "cat" / "1.png", 91)
    found = "\n".join(problems(root, target_labelled="source/dog/few"))
    for said in [
        "classes 'Cat' and 'cat' differ by case",
        "a folder 'nan', whose name stands for a missing label",
        "class 'eel' has 1 image",
        "1 image (loose.png) outside any class",
        "1 image can't be used (cat/broken.jpg: is not PNG",
        "is inside source=",
        "1 image of source is in target_test too",
    ]:
        assert said in found


def test_a_check_of_sound_data_finds_nothing_and_reports_what_a_search_reads(root):
    summary, found = check_data(places(root), OPTIONS, 0)
    assert (summary, found) == (load(root).summary, [])


def test_a_domain_that_is_missing_does_not_hide_the_faults_of_another(root):
    save(root / "source" / "eel" / "1.png", 70)
    found = problems(root, target="nowhere")
    assert [line.split("'")[0] for line in found] == ["source=", "target="]


def test_image_bytes_in_a_table_are_compared_with_files(root, tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(pixels(200)).save(buffer, "PNG")
    (tmp_path / "leak.png").write_bytes(buffer.getvalue())
    (tmp_path / "target.csv").write_text("image\nleak.png\ntarget/0.png\n")
    with pytest.raises(InvalidInput, match=r"1 row of target is in target_test too, 1 exact copy \(1 is 0.png\)"):
        load(root, target="target.csv")
