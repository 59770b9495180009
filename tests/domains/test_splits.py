import hashlib
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from injerto.basics.errors import InjertoError
from injerto.basics.files import sha256
from injerto.domains.domain import Domain, Domains
from injerto.domains.load import load_domains
from injerto.domains.splits import split_domains

Row = tuple[str, str, str | None]  # domain, text, label


def table(folder: Path, rows: Sequence[Row], **options: str) -> Domains:
    path = folder / "t.csv"
    path.write_text("domain,text,label\n" + "".join(f"{d},{t},{label or ''}\n" for d, t, label in rows))
    return load_domains(path, **options)  # type: ignore[arg-type]


def random_rows(count: int = 400) -> list[Row]:
    chance = random.Random(0)
    return [(chance.choice("abc"), f"text {index} g{index % 97}", chance.choice("xyz")) for index in range(count)]


def by_id(domains: Mapping[str, Domain], sides: Mapping[str, np.ndarray]) -> dict[tuple[str, str], str]:
    return {(name, key): side for name in domains for key, side in zip(domains[name].ids, sides[name], strict=True)}


def test_sources_are_cut_per_class_by_rank_of_hash(tmp_path: Path) -> None:
    rows = [
        ("s", f"{label}{index}", label) for label, count in (("x", 50), ("y", 7), ("z", 1)) for index in range(count)
    ]
    domains = table(tmp_path, rows)
    sides = split_domains(domains, ["s"], 3)["s"]
    for label, count in (("x", 50), ("y", 7), ("z", 1)):
        ranked = sorted(
            (sha256(3, group), side)
            for group, side, has in zip(domains["s"].groups, sides, domains["s"].labels, strict=True)
            if has == label
        )
        train, val = max(1, int(0.6 * count + 0.5)), int(0.8 * count + 0.5)
        expected = ["train"] * train + ["val"] * (max(val, train) - train) + ["test"] * (count - max(val, train))
        assert [side for _, side in ranked] == expected


def test_other_domains_fall_by_the_hash_alone(tmp_path: Path) -> None:
    domains = table(tmp_path, [("s", "a", "x"), *(("t", f"t{index}", "x") for index in range(500))])
    sides = split_domains(domains, ["s"], 0)["t"]
    for group, side in zip(domains["t"].groups, sides, strict=True):
        u = int(sha256(0, group), 16) / 2**256
        assert side == ("train" if u < 0.6 else "val" if u < 0.8 else "test")
    assert abs(np.mean(sides == "train") - 0.6) < 0.07


def test_poisoned_target_labels_change_nothing(tmp_path: Path) -> None:
    rows = random_rows()
    target = [index for index, row in enumerate(rows) if row[0] != "a"]
    for options in ({}, {"group": r"g(\d+)"}):
        clean = table(tmp_path, rows, **options)
        labels = [rows[index][2] for index in target]
        random.Random(1).shuffle(labels)
        poisoned = list(rows)
        for index, label in zip(target, labels, strict=True):
            poisoned[index] = (*rows[index][:2], label)
        dirty = table(tmp_path, poisoned, **options)
        for name in "bc":
            assert dirty[name].labels != clean[name].labels
        for name in "abc":
            for column in ("ids", "contents", "groups", "sources", "given", "inputs"):
                assert getattr(clean[name], column) == getattr(dirty[name], column)
        first, second = split_domains(clean, ["a"], 5), split_domains(dirty, ["a"], 5)
        assert all((first[name] == second[name]).all() for name in "abc")


def test_poisoned_class_folders_change_nothing(tmp_path: Path) -> None:
    from PIL import Image

    names = [f"{index}.png" for index in range(30)]
    for variant in ("clean", "poisoned"):
        chance = random.Random(variant)
        for index, name in enumerate(names):
            for domain in "st":
                label = "xy"[index % 2] if domain == "s" or variant == "clean" else chance.choice("xy")
                path = tmp_path / variant / domain / label / name
                path.parent.mkdir(parents=True, exist_ok=True)
                # every third target picture is byte-identical to its neighbour
                level = index - (index % 3 == 1) if domain == "t" else 100 + index
                Image.new("L", (4, 4), level).save(path)
    for group in (None, r"(\d+)\.png"):
        clean, dirty = (load_domains(tmp_path / variant, group=group) for variant in ("clean", "poisoned"))
        assert clean["t"].labels != dirty["t"].labels
        for column in ("ids", "contents", "groups"):
            assert getattr(clean["t"], column) == getattr(dirty["t"], column)
        assert [path.rpartition("/")[2] for path in clean["t"].sources] == [
            path.rpartition("/")[2] for path in dirty["t"].sources
        ]
        first, second = split_domains(clean, ["s"], 1), split_domains(dirty, ["s"], 1)
        assert all((first[name] == second[name]).all() for name in "st")


def test_order_of_rows_and_of_sources_is_irrelevant(tmp_path: Path) -> None:
    rows = random_rows()
    one = table(tmp_path, rows, group=r"g(\d+)")
    random.Random(2).shuffle(rows)
    two = table(tmp_path, rows, group=r"g(\d+)")
    for name in "abc":
        assert (one[name].ids, one[name].groups) == (two[name].ids, two[name].groups)
    assert by_id(one, split_domains(one, ["a", "b"], 0)) == by_id(two, split_domains(two, ["b", "a"], 0))


def test_a_group_is_on_one_side_in_all_domains(tmp_path: Path) -> None:
    domains = table(tmp_path, random_rows(), group=r"g(\d+)")
    assert {group for domain in domains.values() for group in domain.groups} == {str(index) for index in range(97)}
    for sources in (["a"], ["a", "b"], ["c"]):
        sides: dict[str, set[str]] = defaultdict(set)
        for name, split in split_domains(domains, sources, 0).items():
            for group, side in zip(domains[name].groups, split, strict=True):
                sides[group].add(side)
        assert all(len(found) == 1 for found in sides.values())


def test_another_seed_splits_otherwise(tmp_path: Path) -> None:
    domains = table(tmp_path, random_rows())
    assert (split_domains(domains, ["a"], 0)["a"] != split_domains(domains, ["a"], 1)["a"]).any()


def test_same_content_is_one_group_and_joins_keys(tmp_path: Path) -> None:
    rows = [("s", "one", "x"), ("s", "one", "y"), ("t", "one", "y"), ("t", "two", "x")]
    domains = table(tmp_path, rows)
    content = hashlib.sha256(b"one").hexdigest()
    assert set(domains["s"].ids) == {content, sha256(content, 2)}
    assert domains["s"].contents == (content, content) and set(domains["s"].groups) == {content}
    assert domains["t"].ids.count(content) == 1
    path = tmp_path / "g.csv"
    path.write_text("domain,text,g\ns,one,k2\nt,one,k1\ns,two,k2\nt,three,k3\ns,four,\n")
    joined = load_domains(path, group="g")
    groups = {
        text: group for domain in joined.values() for text, group in zip(domain.inputs, domain.groups, strict=True)
    }
    four = hashlib.sha256(b"four").hexdigest()
    assert groups == {"one": "k1", "two": "k1", "three": "k3", "four": four}


def test_a_group_of_several_classes_counts_under_its_most_frequent(tmp_path: Path) -> None:
    # 10 groups of class x; group m has two x and one y; y alone would put its only group into train
    rows = [("s", f"text{index} g{index}", "x") for index in range(10)]
    rows += [("s", "p m", "x"), ("s", "q m", "x"), ("s", "r m", "y"), ("s", "p tie", "y"), ("s", "q tie", "x")]
    domains = table(tmp_path, rows, group=r"(g\d+|m|tie)$")
    groups = sorted({*domains["s"].groups}, key=lambda group: sha256(0, group))
    sides = dict(zip(domains["s"].groups, split_domains(domains, ["s"], 0)["s"], strict=True))
    assert [sides[group] for group in groups] == ["train"] * 7 + ["val"] * 3 + ["test"] * 2


def test_given_splits_win_and_the_group_follows(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    lines = [f"a,a{i} g{i},x,{('Train', 'dev', 'TEST', '')[i % 4]}" for i in range(40)] + [
        f"b,b{i} g{i},x," for i in range(50)
    ]
    path.write_text("domain,text,label,part\n" + "\n".join(lines))
    domains = load_domains(path, split_column="part", group=r"g(\d+)")
    assert set(domains["b"].given) == {None}
    sides = split_domains(domains, ["b"], 0)
    expected = {str(i): ("train", "val", "test", "")[i % 4] for i in range(40)}
    for group, side in zip(domains["a"].groups, sides["a"], strict=True):
        assert side == expected[group]
    for group, side in zip(domains["b"].groups, sides["b"], strict=True):
        assert side == expected.get(group) or not expected.get(group)
        assert side in ("train", "val", "test")


def test_a_missing_val_is_a_quarter_of_train_and_unlabeled_is_train(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(
        "\n".join(
            f'{{"text": "t{i}", "label": "{"xy"[i % 2]}", "split": "{"test" if i < 20 else "train"}"}}'
            for i in range(100)
        )
        + '\n{"text": "u", "label": "x", "split": "unlabeled"}'
    )
    domains = load_domains(path, split_column="split")
    domain = domains["t"]
    sides = split_domains(domains, ["t"], 0)["t"]
    assert domain.labels[domain.inputs.index("u")] is None and domain.given[domain.inputs.index("u")] == "train"
    for label in "xy":
        of_class = [side for side, has in zip(sides, domain.labels, strict=True) if has == label]
        assert {side: of_class.count(side) for side in ("train", "val", "test")} == {"train": 30, "val": 10, "test": 10}
    assert all((side == "test") == (given == "test") for side, given in zip(sides, domain.given, strict=True))
    as_target = split_domains(domains, [], 0)["t"]
    assert {*as_target} == {"train", "val", "test"}


def test_unknown_split_and_unknown_source(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("text,split\na,train\nb,hold-out\n")
    with pytest.raises(InjertoError, match="column 'split' holds 'hold-out', which is no split"):
        load_domains(path, split_column="split")
    with pytest.raises(InjertoError, match="no domain 'u'; known: t"):
        split_domains(load_domains(path), ["u"], 0)


def test_overlap_of_given_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "t.csv"
    path.write_text("text,split\nsame,train\nother,train\nsame,test\n")
    with pytest.raises(InjertoError, match=r"overlap: t.csv:\d \(\w+\) and t.csv:\d \(\w+\) share the same content"):
        load_domains(path, split_column="split")
    path.write_text("text,split,who\na,train,kim\nb,test,kim\n")
    with pytest.raises(InjertoError, match="share the group 'kim'"):
        load_domains(path, split_column="split", group="who")
    # over domains, test keeps its content and the others lose it
    path.write_text("domain,text,split\nd,same,train\nd,more,train\ne,same,test\ne,rest,train\n")
    domains = load_domains(path, split_column="split")
    assert dict(zip(domains["d"].inputs, domains["d"].given, strict=True)) == {"same": "", "more": "train"}
    assert dict(zip(domains["e"].inputs, domains["e"].given, strict=True)) == {"same": "test", "rest": "train"}
    assert "1 examples are in test or val of another domain" in capsys.readouterr().err


def test_split_file(tmp_path: Path) -> None:
    from PIL import Image

    for index, name in enumerate(("a/x/1.png", "a/x/2.png", "a/y/3.png", "b/x/1.png", "b/x/4.png")):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), index).save(path)
    split = tmp_path / "split.csv"

    def given(lines: str) -> dict[str, str | None]:
        split.write_text("path,split\n" + lines)
        domains = load_domains(tmp_path / "data", split_file=split)
        return {s: g for domain in domains.values() for s, g in zip(domain.sources, domain.given, strict=True)}

    expected = {"a/x/1.png": "train", "a/x/2.png": "test", "a/y/3.png": "", "b/x/1.png": None, "b/x/4.png": None}
    assert given("a/x/1.png,train\na/x/2.png,test\n") == expected
    assert given("wrap/a/x/1.png,train\n./x/2.png,test\n") == expected  # unique ends
    for lines, message in {
        "a/x/1.png,train\na/x/1.png,test\n": r"overlap, 'a/x/1.png' is in train and in test",
        "a/x/1.jpg,train\n": "1 paths are no examples, first: 'a/x/1.jpg'",
        "1.png,train\n": "several examples end in '1.png'",
        "a/x/1.png,fold1\n": "'fold1' .* is no split",
    }.items():
        with pytest.raises(InjertoError, match=message):
            given(lines)
    split.write_text("file,part\n")
    with pytest.raises(InjertoError, match="holds no rows"):
        load_domains(tmp_path / "data", split_file=split)
    with pytest.raises(InjertoError, match="no split file"):
        load_domains(tmp_path / "data", split_file=tmp_path / "none.csv")
