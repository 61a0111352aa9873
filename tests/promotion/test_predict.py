import pytest

from ray_tl.errors import BrokenBundle, InvalidInput, UnknownName
from ray_tl.promotion.bundle import WEIGHTS, load_bundle
from ray_tl.promotion.predict import images_of, predict


@pytest.fixture
def root(folder):
    return folder.parent.parent


@pytest.fixture
def gallery(tmp_path, images):
    gallery = tmp_path / "gallery"
    (gallery / "deep" / "er").mkdir(parents=True)
    for name, image in zip(["b.png", "a.PNG", "deep/er/c.png"], images, strict=False):
        (gallery / name).write_bytes(image)
    (gallery / "notes.txt").write_text("not an image")
    return gallery


def test_files_get_what_the_bundle_says_in_their_order(root, folder, gallery, images):
    answers = predict("pets", [gallery / "b.png", gallery / "a.PNG"], root)
    expected = load_bundle(folder).predict_images(images[:2])
    assert [(each.label, each.probabilities) for each in answers] == [(e.label, e.probabilities) for e in expected]
    assert [each.file.name for each in answers] == ["b.png", "a.PNG"]
    assert {each.version for each in answers} == {"v1"}


def test_a_folder_stands_for_all_images_in_it(root, gallery):
    answers = predict("pets@v1", [gallery], root)
    assert [str(each.file.relative_to(gallery)) for each in answers] == ["a.PNG", "b.png", "deep/er/c.png"]


def test_missing_files_and_empty_folders_are_named_at_once(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInput, match=r"2 problems\n.*gone\.png does not exist.*\n.*empty has no image"):
        images_of([tmp_path / "gone.png", tmp_path / "empty"])


def test_a_missing_file_is_found_before_a_model_is_looked_for(tmp_path):
    with pytest.raises(InvalidInput, match=r"gone\.png does not exist"):
        predict("no-such-model", [tmp_path / "gone.png"], tmp_path)


def test_a_broken_image_is_named(root, gallery):
    (gallery / "half.png").write_bytes(b"not an image")
    with pytest.raises(InvalidInput, match=r"half\.png: .*is not PNG.*--on-broken skip"):
        predict("pets", [gallery / "a.PNG", gallery / "half.png"], root)


def test_broken_images_can_be_left_out(root, gallery, caplog):
    (gallery / "half.png").write_bytes(b"not an image")
    (gallery / "cut.png").write_bytes((gallery / "b.png").read_bytes()[:60])
    answers = predict("pets", [gallery], root, on_broken="skip")
    assert [each.file.name for each in answers] == ["a.PNG", "b.png", "c.png"]
    assert "half.png" in caplog.text
    assert "cut.png" in caplog.text


def test_an_unknown_model_is_named(root, gallery):
    with pytest.raises(UnknownName, match="choose from pets"):
        predict("cars", [gallery], root)


def test_a_broken_version_answers_nothing(root, folder, gallery):
    (folder / WEIGHTS).unlink()
    with pytest.raises(BrokenBundle, match="is missing"):
        predict("pets", [gallery], root)
