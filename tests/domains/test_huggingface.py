import io
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, IterableDatasetDict, Value
from PIL import Image as Pillow

from injerto.basics.errors import InjertoError
from injerto.domains.load import load_domains


def picture(level: int) -> bytes:
    stream = io.BytesIO()
    Pillow.new("L", (4, 4), level).save(stream, "PNG")
    return stream.getvalue()


def pictures(count: int = 4, start: int = 0) -> Dataset:
    features = Features({"image": Image(), "label": ClassLabel(names=["cat", "dog"]), "domain": Value("string")})
    rows = {
        "image": [{"bytes": picture(start + index), "path": None} for index in range(count)],
        "label": [index % 3 - 1 for index in range(count)],
        "domain": ["ab"[index % 2] for index in range(count)],
    }
    return Dataset.from_dict(rows, features=features)


def test_pictures_classes_and_domains() -> None:
    domains = load_domains(pictures())
    assert domains.modality == "image" and domains.name == "dataset"
    found = {item: label for d in domains.values() for item, label in zip(d.inputs, d.labels, strict=True)}
    assert found == {picture(0): None, picture(1): "cat", picture(2): "dog", picture(3): None}
    assert {name: len(domain) for name, domain in domains.items()} == {"a": 2, "b": 2}
    assert domains.check() is not None


def test_a_selected_and_shuffled_data_set() -> None:
    assert set(load_domains(pictures(6).shuffle(seed=0).select([0, 1]))) <= {"a", "b"}
    assert sum(map(len, load_domains(pictures(6).select([5, 1])).values())) == 2


def test_saved_data_sets_and_picture_paths(tmp_path: Path) -> None:
    (tmp_path / "p.png").write_bytes(picture(7))
    data = Dataset.from_dict({"image": [str(tmp_path / "p.png")], "label": ["x"]}).cast_column("image", Image())
    data.save_to_disk(tmp_path / "saved")
    domains = load_domains(tmp_path / "saved")
    assert domains["saved"].labels == ("x",)
    assert domains["saved"].contents == load_domains(data)["dataset"].contents
    DatasetDict(train=pictures(4), validation=pictures(2, 10), test=pictures(2, 20)).save_to_disk(tmp_path / "dict")
    domains = load_domains(tmp_path / "dict")
    given = [side for domain in domains.values() for side in domain.given]
    assert {side: given.count(side) for side in ("train", "val", "test")} == {"train": 4, "val": 2, "test": 2}
    next((tmp_path / "saved").glob("*.arrow")).write_bytes(b"broken")
    with pytest.raises(InjertoError, match="as a saved data set") as error:
        load_domains(tmp_path / "saved")
    assert "\n" not in str(error.value)


def test_keys_are_splits_or_domains() -> None:
    def texts(*words: str) -> Dataset:
        return Dataset.from_dict({"text": list(words), "label": [1] * len(words)})

    imdb = load_domains(DatasetDict(train=texts("a", "b"), test=texts("c"), unsupervised=texts("d")))["dataset"]
    rows = {text: (label, side) for text, label, side in zip(imdb.inputs, imdb.labels, imdb.given, strict=True)}
    assert rows == {"a": ("1", "train"), "b": ("1", "train"), "c": ("1", "test"), "d": (None, "train")}
    assert set(load_domains(DatasetDict(books=texts("a"), films=texts("b")))) == {"books", "films"}
    assert load_domains(DatasetDict(train=texts("a", "b")))["dataset"].given == (None, None)
    with pytest.raises(InjertoError, match="'extra' beside 'train' is no split"):
        load_domains(DatasetDict(train=texts("a"), extra=texts("b")))


def test_a_stream_is_refused_in_a_sentence() -> None:
    stream = pictures().to_iterable_dataset()
    for data in (stream, IterableDatasetDict(train=stream)):
        with pytest.raises(InjertoError, match="without streaming=True"):
            load_domains(data)
