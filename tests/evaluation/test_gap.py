"""The gap between domains: it sees what was put there, says it in words, and is the same for whoever asks."""

import json
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import injerto
from injerto.basics.errors import InjertoError
from injerto.compute.inference import Embedder
from injerto.evaluation.verdict import choose_alignment, judge_all, judge_pair

Cli = Any


@pytest.fixture(scope="module")
def lights(tmp_path_factory: pytest.TempPathFactory, data_writers: SimpleNamespace) -> Path:
    """Two domains drawn from one distribution (every second picture of each class) and a dark one."""
    root = tmp_path_factory.mktemp("data") / "lights"
    made = data_writers.pictures(root / "all", per_class=40, domains=("day", "dusk", "dark", "night"))
    for label in data_writers.classes:
        for number in range(40):
            name = "even" if number % 2 else "odd"
            (root / name / label).mkdir(parents=True, exist_ok=True)
            shutil.copy(made / "day" / label / f"{number}.png", root / name / label / f"{number}.png")
    shutil.copytree(made / "night", root / "night")
    shutil.rmtree(root / "all")
    return root


@pytest.fixture(scope="module")
def found(lights: Path, tiny_timm: Path) -> dict[str, Any]:
    return injerto.measure_gap(lights, backbone=tiny_timm, threads=1).content


def pair_of(content: dict[str, Any], a: str, b: str) -> dict[str, Any]:
    return next(pair for pair in content["pairs"] if {pair["a"], pair["b"]} == {a, b})


def test_equal_domains_are_the_same_and_a_dark_one_is_apart(found: dict[str, Any]) -> None:
    same, apart = pair_of(found, "even", "odd"), pair_of(found, "even", "night")
    assert same["p_value"] > 0.05 and same["a_distance"] < 0.6 and same["level"] == "same"
    assert apart["p_value"] < 0.05 and apart["a_distance"] > 1 and apart["level"] in ("close", "far")
    assert apart["mmd2"] > 5 * abs(same["mmd2"]) and apart["frechet"] > 5 * same["frechet"]
    assert apart["mmd2_low"] < apart["mmd2"] < apart["mmd2_high"]


def test_what_both_hold_does_not_hide_a_difference(lights: Path, tiny_timm: Path, tmp_path: Path) -> None:
    data = tmp_path / "overlap"
    shutil.copytree(lights / "even", data / "even")
    shutil.copytree(lights / "even", data / "more")  # the same pictures, and dark ones beside them
    for label in (lights / "night").iterdir():
        for file in label.iterdir():
            shutil.copy(file, data / "more" / label.name / f"dark-{file.name}")
    (pair,) = injerto.measure_gap(data, backbone=tiny_timm, threads=1).content["pairs"]
    assert pair["in_both"] == len(list((lights / "even").rglob("*.png")))
    assert pair["p_value"] < 0.05 and pair["mmd2_low"] > 0 and pair["level"] != "same"
    shutil.rmtree(data / "more")
    shutil.copytree(lights / "even", data / "twin")
    (pair,) = injerto.measure_gap(data, backbone=tiny_timm, threads=1).content["pairs"]
    assert pair["level"] == "same" and pair["p_value"] > 0.05


def test_the_cause_that_was_planted_is_found_first_and_named(found: dict[str, Any]) -> None:
    apart = pair_of(found, "even", "night")
    cause = {entry["what"]: entry for entry in apart["causes"]}["brightness"]
    assert cause["large"] and cause["b"] < cause["a"] - 0.15 and cause["effect"] < -2
    assert "'night' is" in apart["says"] and "darker" in apart["says"]
    assert not any(entry["large"] for entry in pair_of(found, "even", "odd")["causes"])


def test_labels_of_both_show_how_a_probe_travels(found: dict[str, Any]) -> None:
    for entry in pair_of(found, "even", "odd")["transfer"]:
        assert entry["oracle"] and entry["home"] > 0.8 and entry["away"] > 0.8
    assert pair_of(found, "even", "night")["label_shift"] == {"value": 0.0, "estimated": False}


def test_names_and_their_order_change_no_number(lights: Path, tiny_timm: Path, tmp_path: Path) -> None:
    """'even' comes first under one name and last under the other."""
    shutil.copytree(lights / "even", tmp_path / "data" / "zz é'<b>")
    shutil.copytree(lights / "night", tmp_path / "data" / "night")
    renamed = injerto.measure_gap(tmp_path / "data", backbone=tiny_timm, threads=1).content["pairs"][0]
    plain = injerto.measure_gap(lights, on=["even", "night"], backbone=tiny_timm, threads=1).content["pairs"][0]
    for what in ("mmd2", "a_distance", "frechet", "p_value"):
        assert renamed[what] == pytest.approx(plain[what], rel=1e-3, abs=2e-2 if what == "a_distance" else 1e-6)
    assert (renamed["a"], renamed["b"]) == ("night", "zz é'<b>")


def test_a_second_look_computes_nothing(
    lights: Path, tiny_timm: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = injerto.measure_gap(lights, backbone=tiny_timm, threads=1).content
    monkeypatch.setattr(Embedder, "_run", lambda *given: pytest.fail("embedded again"))
    assert injerto.measure_gap(lights, backbone=tiny_timm, threads=1).content == first


def test_a_run_reads_what_the_gap_embedded(
    pictures: Path, tiny_timm: Path, own_cache: Path, quick: dict[str, Any], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    injerto.measure_gap(pictures, backbone=tiny_timm, threads=1, precision="fp32")
    monkeypatch.setattr(Embedder, "_run", lambda *given: pytest.fail("embedded again"))
    settings = {"source": "day", "backbone": tiny_timm, "tuning": "head", "head": "probe"} | quick
    injerto.fit(pictures, out=tmp_path / "run", **settings)


def test_a_domain_of_one_example_is_named_and_left_out(lights: Path, tiny_timm: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(lights, tmp_path / "data"))
    (data / "lone" / "red").mkdir(parents=True)
    shutil.copy(data / "even" / "red" / "1.png", data / "lone" / "red" / "1.png")
    content = injerto.measure_gap(data, backbone=tiny_timm, threads=1).content
    assert len(content["pairs"]) == 3 and content["domains"]["lone"]["n"] == 1
    for number in range(20):  # copies are one example
        shutil.copy(data / "even" / "red" / "1.png", data / "lone" / "red" / f"copy{number}.png")
    alone = injerto.measure_gap(data, on=["lone", "even"], backbone=tiny_timm, threads=1).content
    assert alone["pairs"] == [] and "too few" in alone["verdict"]


def test_a_domain_without_labels_has_its_classes_estimated(
    tiny_timm: Path, tmp_path: Path, data_writers: SimpleNamespace
) -> None:
    data = data_writers.pictures(tmp_path / "data", per_class=40, domains=("day", "skewed"))
    for label, kept in (("blue", 36), ("green", 4), ("red", 0)):
        for number in range(40):
            path = data / "skewed" / label / f"{number}.png"
            if number < kept:
                path.rename(data / "skewed" / f"{label}{number}.png")
    shutil.rmtree(data / "skewed" / "blue")
    shutil.rmtree(data / "skewed" / "green")
    shutil.rmtree(data / "skewed" / "red")
    shift = injerto.measure_gap(data, backbone=tiny_timm, threads=1).content["pairs"][0]["label_shift"]
    assert shift["estimated"] and shift["from"] == "day"
    assert shift["value"] == pytest.approx(0.9 - 1 / 3, abs=0.2)


def test_texts_have_words_and_lengths(reviews: Path, tiny_bert: Path) -> None:
    pair = injerto.measure_gap(reviews, backbone=tiny_bert, threads=1).content["pairs"][0]
    assert {entry["what"] for entry in pair["causes"]} == {"length", "capitals", "marks"}
    assert 0.8 < pair["words"]["of_b_in_a"] < 1  # all words but 'film'


def test_another_language_is_named() -> None:
    pair = {"a": "here", "b": "allá", "p_value": 0.01, "mmd2": 0.3, "a_distance": 2.0, "causes": [], "transfer": []}
    says = judge_pair({**pair, "label_shift": None}, {"here": {"en": 0.9}, "allá": {"es": 1.0}})["says"]
    assert "the language is another one (en, es)" in says


def pairs_of(**levels: str) -> list[dict[str, Any]]:
    """Pairs such as ab=far."""
    size = {"same": 0.0, "close": 0.03, "far": 0.3}
    return [
        {"a": names[0], "b": names[1], "level": level, "mmd2": size[level], "label_shift": None, "causes": []}
        for names, level in levels.items()
    ]


def test_the_verdict_over_all_pairs() -> None:
    domains = {name: {"labelled": 10, "classes": 2} for name in "abc"}
    odd = judge_all(pairs_of(ab="close", ac="far", bc="far"), domains, "d", {})
    assert odd["verdict"].startswith("'c' is far from all others")
    assert "--source a --target c" in odd["advice"][0]["command"] and "mmd" in odd["advice"][0]["command"]
    same = judge_all(pairs_of(ab="same", ac="same", bc="same"), domains, "d", {})
    assert same["verdict"] == "the domains look the same" and len(same["advice"]) == 1
    assert "--source a --source b --source c" in same["advice"][0]["command"]
    two = judge_all(pairs_of(ab="far"), {name: domains[name] for name in "ab"}, "d", {})
    assert two["verdict"] == "far apart: 'a' and 'b'"
    few = judge_all(pairs_of(ab="same"), domains, "d", {})
    assert few["verdict"] == "the domains look the same ('c' not measured: too few examples)"
    assert "--source c" not in few["advice"][0]["command"]  # it may not even have a train example
    domains["d"] = {"labelled": 10, "classes": 2}
    many = judge_all(pairs_of(ab="far", ac="far", ad="far", bc="far", bd="far", cd="close"), domains, "d", {})
    assert many["verdict"].endswith("and 1 pairs more")


def test_an_estimated_shift_is_told_only_where_it_can_be_trusted() -> None:
    numbers = {"a": "a", "b": "b", "p_value": 0.005, "a_distance": 1.0, "causes": []}
    for mmd2, estimated, told in ((0.05, True, True), (0.3, True, False), (0.3, False, True)):
        pair = {**numbers, "mmd2": mmd2, "label_shift": {"value": 0.4, "estimated": estimated}}
        assert ("distributed differently" in judge_pair(pair, {})["says"]) == told
    pair = {**numbers, "mmd2": 0.05, "level": "close", "label_shift": {"value": 0.4, "estimated": True}}
    assert [choose_alignment(pair, kind)[0] for kind in ("text", "image")] == ["mcc", "mmd"]
    pair["label_shift"]["estimated"] = False
    assert choose_alignment(pair, "image")[0] == "mcc"


def test_a_copy_from_elsewhere_needs_no_training_of_its_own() -> None:
    domains: dict[str, dict[str, Any]] = {name: {"labelled": 10, "classes": 2} for name in "ab"}
    domains["b"]["path"] = "else/where"
    advice = judge_all(pairs_of(ab="same"), domains, "d", {})["advice"]
    assert "what is learned from 'a' carries over" in advice[0]["why"] and "--source a" in advice[0]["command"]


def test_the_labelled_domain_is_the_source() -> None:
    domains: dict[str, dict[str, Any]] = {"a": {"labelled": 0, "classes": 0}, "b": {"labelled": 10, "classes": 3}}
    advice = judge_all(pairs_of(ab="far"), domains, "d", {})["advice"]
    assert "--source b --target a" in advice[0]["command"]
    domains["a"]["path"] = "else/where"
    advice = judge_all(pairs_of(ab="far"), domains, "d", {})["advice"]
    assert "--target a=else/where" in advice[0]["command"]
    none = judge_all(pairs_of(ab="far"), {**domains, "b": {"labelled": 10, "classes": 1}}, "d", {})
    assert none["advice"] == [] and none["verdict"].endswith(
        "nothing can be trained on them yet: none has labels of two classes"
    )


def test_commands_are_read_as_the_data_were_and_do_not_share_a_folder() -> None:
    domains = {name: {"labelled": 10, "classes": 2} for name in "ab"}
    given = {"input": "text", "max_length": 32, "skip_bad": True, "backbone": None, "image_size": None}
    pair = {**pairs_of(ab="far")[0], "causes": [{"what": "brightness", "large": True}]}
    commands = [shlex.split(one["command"]) for one in judge_all([pair], domains, "my data.csv", given)["advice"]]
    assert len(commands) == 3
    for words in commands:
        assert words[:3] == ["injerto", "fit", "my data.csv"] and "--backbone" not in words
        assert words[words.index("--input") + 1] == "text" and words[words.index("--max-length") + 1] == "32"
        assert "--skip-bad" in words
    assert len({words[words.index("--out") + 1] for words in commands}) == 3


def test_close_domains_are_aligned_where_a_probe_loses_much() -> None:
    domains = {name: {"labelled": 10, "classes": 2} for name in "ab"}
    for away in (0.85, 0.4):
        transfer = [{"from": "a", "to": "b", "home": 0.95, "away": away}]
        advice = judge_all([{**pairs_of(ab="close")[0], "transfer": transfer}], domains, "d", {})["advice"]
        assert ("--alignment mmd" in advice[0]["command"]) == (away < 0.5)
        assert "--alignment mmd" in advice[1]["command"] or away < 0.5


def test_the_command_goes_the_way_of_which_the_words_speak() -> None:
    domains = {name: {"labelled": 10, "classes": 2} for name in "ab"}
    transfer = [{"from": "a", "to": "b", "home": 1.0, "away": 0.99}, {"from": "b", "to": "a", "home": 1.0, "away": 0.8}]
    advice = judge_all([{**pairs_of(ab="far")[0], "transfer": transfer}], domains, "d", {})["advice"]
    assert all("--source b --target a" in one["command"] for one in advice)


def test_a_domain_from_elsewhere_is_measured(lights: Path, tiny_timm: Path, tmp_path: Path) -> None:
    shutil.copytree(lights / "night", tmp_path / "new" / "x")
    found = injerto.measure_gap(lights, on=["even", f"new={tmp_path / 'new'}"], backbone=tiny_timm, threads=1).content
    assert [(pair["a"], pair["b"]) for pair in found["pairs"]] == [("even", "new")]
    assert found["domains"]["new"]["path"] == str(tmp_path / "new")


def test_the_command_prints_a_table_a_verdict_and_commands(
    cli: Cli, lights: Path, tiny_timm: Path, tmp_path: Path
) -> None:
    shown = cli("gap", lights, "--backbone", tiny_timm, "--threads", 1, "--report", tmp_path / "gap.html")
    assert shown.code == 0 and (tmp_path / "gap.html").stat().st_size > 20_000
    for words in ("even - night", "verdict: ", "injerto fit ", "map and all numbers"):
        assert words in shown.out
    as_json = json.loads(cli("gap", lights, "--backbone", tiny_timm, "--threads", 1, "--json").out)
    assert {"a", "b", "mmd2", "p_value", "a_distance"} <= set(as_json["pairs"][0]) and as_json["verdict"]


def test_numbers_are_no_classes(lights: Path, tiny_bert: Path, tmp_path: Path, capsys: Any) -> None:
    rows = [f"text number {i} is {'good' if i % 3 else 'bad'},{i / 7:.3f},{'ab'[i % 2]}" for i in range(60)]
    (tmp_path / "n.csv").write_text("text,label,domain\n" + "\n".join(rows) + "\n")
    content = injerto.measure_gap(tmp_path / "n.csv", backbone=str(tiny_bert), threads=1).content
    assert "these are no classes" in capsys.readouterr().err
    assert content["pairs"][0]["transfer"] == [] and content["domains"]["a"]["labelled"] == 0


def test_a_misspelt_keyword_is_told_in_words(lights: Path) -> None:
    for call in (injerto.measure_gap, injerto.advise):
        with pytest.raises(InjertoError, match="unknown setting 'lable'; did you mean 'label'"):
            call(lights, lable="x")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--on", "even"], "between two domains"),
        (["--on", "eve"], "did you mean 'even'"),
        (["--report", "."], "is a folder"),
        (["--report", "gap.txt"], "a name that ends in .html"),
        (["--on", "even", "--on", "=x"], "--on =x: the name is missing"),
        (["--backbone", "packaged:minilm-l6"], "takes texts"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_a_line(
    cli: Cli, lights: Path, tiny_timm: Path, arguments: list[str], message: str
) -> None:
    backbone = [] if "--backbone" in arguments else ["--backbone", tiny_timm]
    shown = cli("gap", lights, *backbone, *arguments)
    assert shown.code == 2 and message in shown.err and shown.err.strip().count("error:") == 1


def test_only_one_domain_is_an_error(tiny_timm: Path, pictures: Path) -> None:
    with pytest.raises(InjertoError, match="only"):
        injerto.measure_gap(pictures / "day", backbone=tiny_timm)
