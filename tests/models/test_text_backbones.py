"""Backbones that read texts keep the promises of `StagedBackbone`, and compute what transformers computes."""

import shutil
import socket
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from ray_tl.config import Component
from ray_tl.data.text import load_text_preprocessing
from ray_tl.errors import InvalidInput
from ray_tl.hub import model_folder
from ray_tl.models import sequences
from ray_tl.models.backbones import BackboneContext, build_backbone, dimensions
from ray_tl.models.stages import StagedBackbone
from ray_tl.tokens import mark_missing
from tests.models.pretrained_texts import CONFIGS, write_network, write_transformer
from tests.models.smallest import TEXT, smallest
from tests.training.tiny_text import tiny_preprocessing

CONTEXT = BackboneContext(vocabulary=tiny_preprocessing().vocabulary, max_length=10)
TEXTS = ["the film was great", "the plot was dull the actor weak", "fine"]
EXACT = {"rtol": 0, "atol": 0}
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
every_backbone = pytest.mark.parametrize("name", TEXT)
every_kind = pytest.mark.parametrize("kind", CONFIGS)


def build(name: str) -> StagedBackbone:
    torch.manual_seed(0)
    return build_backbone(smallest(name), CONTEXT)


def rows() -> torch.Tensor:
    return torch.from_numpy(tiny_preprocessing().encode(TEXTS))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """By kind, a folder and the network in it."""
    root = tmp_path_factory.mktemp("transformers")
    return {kind: (root / kind, write_transformer(root / kind, kind)) for kind in CONFIGS}


def from_folder(folder, kind: str, **params: object) -> tuple[StagedBackbone, BackboneContext]:
    preprocessing = load_text_preprocessing(str(folder), 10)
    context = BackboneContext(vocabulary=preprocessing.vocabulary, max_length=10)
    component = Component.model_validate({"name": kind, "params": {"weights": str(folder), **params}})
    return build_backbone(component, context).eval(), context


@every_backbone
@pytest.mark.parametrize("training", [False, True])
def test_split_is_exact_at_every_depth(name, training):
    backbone = build(name).train(training)
    tokens = backbone.entry(rows())
    for depth in range(backbone.num_stages + 1):
        split = backbone(backbone(tokens, stop=depth), start=depth)
        assert_close(split, backbone(tokens), **EXACT)


@every_backbone
def test_what_a_cache_holds_goes_on_as_if_it_had_never_been_there(name):
    backbone = build(name).eval()
    whole = backbone(backbone.entry(rows()))
    for depth in range(1, backbone.num_stages + 1):
        kept = backbone.entry.suspend(backbone(backbone.entry(rows()), stop=depth), rows())
        assert depth == backbone.num_stages or kept.shape[1] == rows().shape[1]
        assert_close(backbone(backbone.entry.resume(kept), start=depth), whole, **EXACT)


@every_backbone
def test_stages_hold_every_parameter_once_and_each_gets_a_gradient(name):
    backbone = build(name).train()
    in_stages = [id(parameter) for stage in backbone.stages for parameter in stage.parameters()]
    assert sorted(in_stages) == sorted(id(parameter) for parameter in backbone.parameters())
    backbone(backbone.entry(rows())).square().sum().backward()
    assert [key for key, parameter in backbone.named_parameters() if parameter.grad is None] == []


@every_backbone
def test_features_and_stages_are_as_declared_and_known_without_building(name):
    backbone = build(name).eval()
    assert backbone(backbone.entry(rows())).shape == (len(TEXTS), backbone.feature_dim)
    assert dimensions(smallest(name), CONTEXT) == (backbone.stage_sizes, backbone.feature_dim)
    assert len(set(backbone.names)) == backbone.num_stages


@every_backbone
def test_a_text_alone_has_the_features_that_it_has_beside_longer_ones(name):
    backbone = build(name).eval()
    together = backbone(backbone.entry(rows()))
    alone = torch.cat([backbone(backbone.entry(row[None])) for row in rows()])
    assert_close(alone, together, **CLOSE)


@every_backbone
def test_texts_of_a_batch_that_go_through_in_parts_give_features_and_gradients_of_the_whole(name, monkeypatch):
    words = " ".join(TEXTS).split()
    texts = [" ".join(words[start : start + 1 + start % 7]) for start in range(len(words))] * 4
    tokens, backbone = torch.from_numpy(tiny_preprocessing().encode(texts)), build(name).double().train()
    assert len(tokens) > 2 * sequences.ROWS_TOGETHER

    def features_and_gradients():
        backbone.zero_grad()
        features = backbone(backbone.entry(tokens))
        features.sin().sum().backward()
        return {"features": features} | {key: value.grad for key, value in backbone.named_parameters()}

    in_parts = features_and_gradients()
    monkeypatch.setattr(sequences, "ROWS_TOGETHER", len(tokens))
    assert_close(in_parts, features_and_gradients(), rtol=1e-9, atol=1e-9)


@every_backbone
def test_missing_words_are_masked_and_special_tokens_never(name):
    entry = build(name).entry
    everything = torch.ones_like(rows(), dtype=torch.bool)
    masked = entry(mark_missing(rows(), everything))
    assert masked[2].tolist() == [2, 4, 3, *[-1] * (masked.shape[1] - 3)]  # [CLS] [MASK] [SEP]
    assert_close(entry(mark_missing(rows(), ~everything)), entry(rows()), **EXACT)


def reference(model, pool: str) -> torch.Tensor:
    """Features of transformers' own network, padded and masked as its tokenizer says."""
    real = (rows() >= 0).long()
    hidden = model(input_ids=rows().clamp_min(0).long(), attention_mask=real).last_hidden_state
    last = real.sum(1) - 1
    pooled = {
        "mean": (hidden * real[..., None]).sum(1) / real.sum(1, keepdim=True),
        "cls": hidden[:, 0],
        "last": hidden[range(len(TEXTS)), last],
    }
    return pooled[pool].detach()


@pytest.mark.parametrize(("kind", "pool"), [("bert", "mean"), ("bert", "cls"), ("roberta", "mean"), ("gpt2", "last")])
def test_features_are_those_of_transformers_on_the_same_folder(folders, kind, pool):
    folder, model = folders[kind]
    backbone, _ = from_folder(folder, kind, **({} if pool == "last" else {"pooling": pool}))
    assert_close(backbone(backbone.entry(rows())).detach(), reference(model, pool), **CLOSE)


def test_packaged_minilm_is_that_of_transformers():
    from transformers import AutoModel, AutoTokenizer

    folder = model_folder("minilm", (), "weights")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    hidden, real = model(**batch).last_hidden_state, batch["attention_mask"][..., None]
    preprocessing = load_text_preprocessing("minilm", 32)
    backbone = build_backbone(Component(name="minilm"), BackboneContext(vocabulary=preprocessing.vocabulary)).eval()
    features = backbone(backbone.entry(torch.from_numpy(preprocessing.encode(TEXTS))))
    assert_close(features, (hidden * real).sum(1) / real.sum(1), **CLOSE)


def test_chinese_bert_reads_characters_with_nothing_but_a_vocabulary_beside_its_weights(tmp_path):
    from transformers import AutoModel, AutoTokenizer

    texts = ["这部电影很好看！", "手机电池 bad，不好", "龘"]  # the last character is in no vocabulary
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(set("".join(texts[:2])) - set(" bad")), "bad"]
    write_network(tmp_path, "bert", vocab_size=len(words))
    (tmp_path / "vocab.txt").write_text("\n".join(words), encoding="utf-8")  # as bert-base-chinese was published
    tokenizer, model = AutoTokenizer.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path).eval()
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    assert batch["attention_mask"].sum(1).tolist() == [8 + 2, 8 + 2, 1 + 2]  # a character a token, "bad" is one
    preprocessing = load_text_preprocessing(str(tmp_path), 12)
    component = Component.model_validate({"bert": {"weights": str(tmp_path), "pooling": "cls"}})
    context = BackboneContext(vocabulary=preprocessing.vocabulary, max_length=12)
    backbone = build_backbone(component, context).eval()
    features = backbone(backbone.entry(torch.from_numpy(preprocessing.encode(texts))))
    assert_close(features, model(**batch).last_hidden_state[:, 0], **CLOSE)


@every_kind
def test_the_first_layers_alone_are_those_of_the_whole(folders, kind):
    folder, _ = folders[kind]
    (short, _), (whole, _) = from_folder(folder, kind, num_layers=2), from_folder(folder, kind)
    assert short.num_stages == whole.num_stages - 1
    tokens = whole.entry(rows())
    assert_close(short(tokens, stop=3), whole(tokens, stop=3), **EXACT)


@every_kind
def test_a_recorded_architecture_builds_the_network_without_its_folder(folders, kind, tmp_path):
    folder, _ = folders[kind]
    shutil.copytree(folder, tmp_path / "moved")
    first, context = from_folder(tmp_path / "moved", kind)
    shutil.rmtree(tmp_path / "moved")
    component = Component.model_validate({"name": kind, "params": {"weights": str(tmp_path / "moved")}})
    again = build_backbone(component, replace(context, load_weights=False, architecture=first.architecture)).eval()
    again.load_state_dict(first.state_dict())
    assert_close(again(again.entry(rows())), first(first.entry(rows())), **EXACT)


def test_another_vocabulary_is_refused(folders):
    component = Component(name="bert", params={"weights": str(folders["bert"][0])})
    with pytest.raises(InvalidInput, match=r"data\.tokenizer is not that of 'bert'.*set data\.tokenizer: "):
        dimensions(component, CONTEXT)  # the same tokens under a name of their own


@pytest.mark.parametrize(
    ("params", "changes", "said"),
    [
        ({}, {"max_length": 17}, "data.max_length=17 is more than 'bert' has positions; choose 16 or less"),
        ({"num_layers": 4}, {}, r"bert.num_layers=4 is out of range; choose 1..3"),
        ({}, {"vocabulary": None}, "backbone 'bert' reads text, and data.modality is 'images'"),
    ],
)
def test_what_does_not_fit_is_refused_before_weights_are_read(folders, params, changes, said):
    folder, _ = folders["bert"]
    _, context = from_folder(folder, "bert")
    component = Component.model_validate({"name": "bert", "params": {"weights": str(folder), **params}})
    with pytest.raises(InvalidInput, match=said):
        dimensions(component, replace(context, **changes))


def test_a_network_of_another_kind_is_refused(folders):
    with pytest.raises(InvalidInput, match=r"holds a network of the kind 'gpt2', and 'bert' is bert"):
        from_folder(folders["gpt2"][0], "bert")


def test_backbones_of_images_refuse_texts():
    with pytest.raises(InvalidInput, match=r"backbone 'tiny_cnn' reads images, and data\.modality is 'text'"):
        dimensions(Component(name="tiny_cnn"), CONTEXT)


def test_weights_that_lack_a_tensor_are_refused(folders, tmp_path):
    shutil.copytree(folders["bert"][0], tmp_path / "half")
    stored = load_file(tmp_path / "half" / "model.safetensors")
    kept = {name: value for name, value in stored.items() if "layer.1.output.dense" not in name}
    save_file(kept, tmp_path / "half" / "model.safetensors", {"format": "pt"})
    with pytest.raises(InvalidInput, match=r"lacks 2 tensors of the network \(encoder\.layer\.1\.output"):
        from_folder(tmp_path / "half", "bert")


def test_an_unreachable_hub_names_the_ways_out(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    component = Component(name="bert", params={"weights": "bert-base-chinese"})
    with pytest.raises(InvalidInput, match=r"'bert-base-chinese'.*hub.*give its folder, or copy it into"):
        dimensions(component, CONTEXT)


def no_network(*arguments, **options):
    raise socket.gaierror("no network")
