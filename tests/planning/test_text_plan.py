"""What a search on texts is refused for before anything runs; no Ray is started."""

import pytest

from ray_tl import api
from ray_tl.errors import InvalidInput
from ray_tl.search_space import SearchFile
from tests.models.pretrained_texts import write_transformer
from tests.models.smallest import VECTORS_FILE
from tests.training.tiny_text import FILM, PRODUCT, sentences


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """Twelve labelled texts and six without labels; beside them a tokenizer with a BERT, and one with a GPT-2."""
    folder = tmp_path_factory.mktemp("texts")
    labels = [number % 2 for number in range(12)]
    rows = [f"{text},{'ab'[label]}" for text, label in zip(sentences(labels, FILM, 0), labels, strict=True)]
    (folder / "source.csv").write_text("\n".join(["text,label", *rows]))
    (folder / "target.csv").write_text("\n".join(["text", *sentences(labels[:6], PRODUCT, 1)]))
    for kind in ("bert", "gpt2"):
        write_transformer(folder / kind, kind)
    return folder


def plan(tables, home, data=None, **trees):
    data = {"modality": "text", "tokenizer": str(tables / "bert"), "max_length": 12, **(data or {})}
    file = SearchFile(data=data, trial={"backbone": "tiny_bert", **trees})
    return api.plan_search(file, str(tables / "source.csv"), str(tables / "target.csv"), name="planned", home=home)


def test_a_search_over_texts_is_planned_with_everything_that_images_have(tables, tmp_path):
    found = plan(
        tables,
        tmp_path,
        features={"choice": {"last": None, "multi_scale": {"num_taps": 2}}},
        domain_norm={"choice": ["shared", "separate"]},
        augmentation={"choice": {"none": None, "word_dropout": {"rate": "auto"}}},
        freeze_depth={"int": [0, 4]},
    )
    assert (found.pair.modality, found.store.spec.classes, len(found.pair.target)) == ("text", ("a", "b"), 6)


def test_weights_from_a_folder_fit_their_own_tokenizer(tables, tmp_path):
    bert = {"bert": {"weights": str(tables / "bert"), "pooling": "auto"}}
    found = plan(tables, tmp_path, backbone=bert, freeze_depth=5)
    assert found.store.spec.first[0].backbone.name == "bert"


def test_word_vectors_are_planned_with_probes_and_trained_heads(tables, tmp_path):
    vectors = {"word_vectors": {"weights": VECTORS_FILE, "pooling": "auto"}}
    methods = {"choice": {"source_only": None, "random_forest": {"num_trees": "auto"}, "knn": {"k": 3}, "mcc": None}}
    data = {"tokenizer": VECTORS_FILE}
    found = plan(
        tables, tmp_path, data, backbone=vectors, method=methods, adaptor="bottleneck", freeze_depth="head_only"
    )
    assert found.store.spec.first[0].backbone.params == {"weights": VECTORS_FILE, "pooling": "mean"}
    assert any("pretrained features classify" in advice.reason for advice in found.store.spec.advice)


@pytest.mark.parametrize(
    ("trees", "said"),
    [
        ({"backbone": "resnet18"}, "backbone 'resnet18' reads images, and data.modality is 'text'"),
        ({"augmentation": {"choice": ["none", "color"]}}, "augmentation 'color' changes images, and data.modality is"),
        ({"freeze_depth": 5}, "freeze_depth=5 is deeper than 'tiny_bert', which has 4 stages"),
        ({"backbone": {"tiny_bert": {"hidden_size": 30}}}, "tiny_bert.hidden_size=30 is not a multiple of 4"),
        ({"backbone": {"minilm": None}}, "data.tokenizer is not that of 'minilm' with weights 'minilm'"),
        ({"backbone": {"word_vectors": {"weights": VECTORS_FILE}}}, f"set data.tokenizer: {VECTORS_FILE}, or choose"),
        (
            {"backbone": {"word_vectors": {"weights": "a.vec"}}},
            "word_vectors.weights='a.vec' is no file; give the path",
        ),
        (
            {"data": {"tokenizer": "a.vec"}},
            "data.tokenizer='a.vec' is no file; give the path of a file of word vectors",
        ),
        ({"mixing": "mixup"}, "mixing='mixup' is for images, and data.modality is 'text'; choose none"),
        ({"test_time_augmentation": "flips"}, "test_time_augmentation='flips' is for images, and data.modality is"),
        ({"data": {"max_length": 600}}, "data.max_length=600 is more than 'tiny_bert' has positions; choose 512"),
        ({"data": {"tokenizer": "/no/such"}}, "data.tokenizer='/no/such' is no folder"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(tables, tmp_path, trees, said):
    with pytest.raises(InvalidInput) as raised:
        plan(tables, tmp_path, **trees)
    (line,) = str(raised.value).splitlines()
    assert said in line
    assert not (tmp_path / "studies" / "planned").exists()


def test_a_column_that_both_tables_lack_is_named_for_both(tables, tmp_path):
    with pytest.raises(InvalidInput, match=r"source=.*no column 'txt'; did you mean 'text'.*\n.*target=.*no column"):
        plan(tables, tmp_path, data={"text_column": "txt"})
    assert not (tmp_path / "studies" / "planned").exists()


def test_texts_are_refused_where_images_are_meant(tables, tmp_path):
    file = SearchFile(trial={"backbone": "tiny_bert"})
    with pytest.raises(InvalidInput, match=r"backbone 'tiny_bert' reads text, and data.modality is 'images'"):
        api.plan_search(file, "digits:mnist", "digits:optdigits", name="planned", home=tmp_path)
