"""Every domain left out in turn: the numbers are the runs' own, and no label of what is left out decides anything."""

import csv
import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import injerto
import tiny
from injerto import api
from injerto.basics.errors import InjertoError
from injerto.reporting.words import headline, verdict
from injerto.statistics.bootstrap import nested_draws, percentiles
from injerto.statistics.significance import holm, p_value
from injerto.studies.choice import choose

NAMES = ["day", "dusk", "night"]


@pytest.fixture(scope="module")
def settings(tiny_timm: Path, quick: dict[str, Any]) -> dict[str, Any]:
    given = {"backbone": tiny_timm, "steps": 2, "augment": "none", "head_lr": 1e-2, "group": r"(\d+)\.png"}
    return given | {"grid": {"tuning": ["head"], "alignment": ["none", "mmd"]}, "seeds": 2} | quick


@pytest.fixture(scope="module")
def done(pictures: Path, settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every domain left out in turn: two strategies and one beside the grid, two seeds; pictures of one number are one
    group, in every domain."""
    out = tmp_path_factory.mktemp("rotation") / "done"
    injerto.compare(pictures, leave_one_out=True, rows=[{"tuning": "norm", "alignment": "mmd"}], out=out, **settings)
    return out


def content_of(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / "results.json").read_text())
    return content


def predictions(out: Path, row: dict[str, Any], name: str) -> tuple[list[float], list[str]]:
    """Right or wrong and group of the test examples of a domain."""
    with (out / row["run"] / "predictions.csv").open(newline="") as stream:
        lines = [line for line in csv.DictReader(stream) if (line["domain"], line["split"]) == (name, "test")]
    return [float(line["label"] == line["predicted"]) for line in lines], [line["group"] for line in lines]


def runs_of(content: dict[str, Any], axes: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Runs of a strategy with a domain left out, by seed."""
    wanted = {**axes, "source": [other for other in NAMES if other != name]}
    return sorted((row for row in content["rows"] if row["axes"] == wanted), key=lambda row: row["seed"])


def test_every_strategy_is_there_once_for_each_domain_that_it_does_not_see(done: Path) -> None:
    content = content_of(done)
    assert content["left_out"]["domains"] == content["source"] == NAMES and content["target"] == []
    labels = [row["row"] for row in content["left_out"]["rows"]]
    assert labels == ["tuning=head alignment=none", "tuning=head alignment=mmd", "tuning=norm alignment=mmd"]
    assert len(content["rows"]) == 3 * 3 * 2 and {row["status"] for row in content["rows"]} == {"ok"}
    splits: dict[tuple[int, str], set[str]] = {}
    for row in content["left_out"]["rows"]:
        for name in NAMES:
            for run in runs_of(content, row["axes"], name):
                assert {n: entry["role"] for n, entry in run["domains"].items() if n == name} == {name: "unseen"}
                splits.setdefault((run["seed"], name), set()).add(run["splits"])
    assert len(splits) == 6 and all(len(own) == 1 for own in splits.values())  # rows of one seed share them


def test_the_numbers_are_computed_from_the_predictions(done: Path) -> None:
    content = content_of(done)
    rows = content["left_out"]["rows"]

    def asked(axes: dict[str, Any]) -> list[tuple[np.ndarray, list[str], np.ndarray]]:
        """Per seed: right or wrong, group and domain of every unseen test example."""
        found = []
        for seed in (0, 1):
            said = [predictions(done, runs_of(content, axes, name)[seed], name) for name in NAMES]
            domain = np.repeat(np.arange(3), [len(right) for right, _ in said])
            found.append(
                (
                    np.concatenate([right for right, _ in said]),
                    [group for _, groups in said for group in groups],
                    domain,
                )
            )
        return found

    p = []
    for row in rows:
        own, base = asked(row["axes"]), asked(rows[0]["axes"])
        groups, labels = [part[1] for part in own], [part[2] for part in own]
        assert all(len(set(group)) < len(group) for group in groups)  # groups reach over domains
        mean, draws = nested_draws([part[0] for part in own], groups, labels=labels)
        figures = row["mean"]
        assert (figures["accuracy"], figures["low"], figures["high"]) == (mean, *percentiles(draws))
        each = [row["domains"][name]["accuracy"] for name in NAMES]
        assert mean == pytest.approx(np.mean(each))
        for name in NAMES:
            rights = [np.mean(predictions(done, run, name)[0]) for run in runs_of(content, row["axes"], name)]
            assert row["domains"][name]["accuracy"] == pytest.approx(np.mean(rights))
        if row["baseline"] is None:
            assert "gain" not in figures and row["row"] == rows[0]["row"]
            continue
        assert row["baseline"] == rows[0]["row"]
        gain, draws = nested_draws([part[0] for part in own], groups, [part[0] for part in base], labels=labels)
        assert (figures["gain"], figures["gain_low"], figures["gain_high"]) == (gain, *percentiles(draws))
        assert figures["p"] == p_value(draws)
        p.append(figures["p"])
        assert gain == pytest.approx(np.mean([row["domains"][name]["gain"] for name in NAMES]))
    assert [row["mean"].get("p_adjusted") for row in rows[1:]] == holm(p)


def test_the_choice_is_by_source_val_for_each_domain(done: Path) -> None:
    found = content_of(done)["left_out"]
    content = content_of(done)
    reached = []
    for name in NAMES:
        scores = {}
        for row in found["rows"]:
            runs = runs_of(content, row["axes"], name)
            vals = [
                np.mean([run["domains"][other]["splits"]["val"]["accuracy"] for other in NAMES if other != name])
                for run in runs
            ]
            scores[row["row"]] = float(np.mean(vals))
        assert found["choice"]["scores"][name] == pytest.approx(scores)
        best = max(found["choice"]["scores"][name].items(), key=lambda item: item[1])[0]
        assert found["choice"]["rows"][name] == best
        reached.append(next(row for row in found["rows"] if row["row"] == best)["domains"][name]["accuracy"])
    assert found["choice"]["accuracy"] == pytest.approx(np.mean(reached))


def test_labels_of_what_is_left_out_decide_nothing(pictures: Path, settings: dict[str, Any], tmp_path: Path) -> None:
    """With other labels of day, what is chosen while it is left out goes by the same numbers."""
    shuffled = Path(shutil.copytree(pictures, tmp_path / "shuffled"))
    turned = {"blue": "green", "green": "red", "red": "blue"}
    for label in turned:
        (shuffled / "day" / label).rename(shuffled / "day" / f"was-{label}")
    for label, other in turned.items():
        (shuffled / "day" / f"was-{label}").rename(shuffled / "day" / other)
    changes = {"source": ["day", "dusk"], "seeds": 1, "grid": {"tuning": ["head", "last:1"]}}
    contents = [
        injerto.compare(data, leave_one_out=True, out=tmp_path / f"out-{data.name}", **(settings | changes))
        for data in (pictures, shuffled)
    ]
    before, after = (content["left_out"] for content in contents)
    assert before["choice"]["scores"]["day"] == after["choice"]["scores"]["day"]
    assert before["choice"]["rows"]["day"] == after["choice"]["rows"]["day"]
    accuracies = [[row["domains"]["day"]["accuracy"] for row in found["rows"]] for found in (before, after)]
    assert accuracies[0] != accuracies[1]  # they were other labels


def test_the_command_does_the_same_and_nothing_twice(
    done: Path, tmp_path: Path, cli: Callable[..., SimpleNamespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    copy, content = Path(shutil.copytree(done, tmp_path / "copy")), content_of(done)
    words = shlex.split(content["command"])
    assert words.count("--source") == 3 and "--leave-one-out" in words and "source" not in " ".join(words[-8:])
    words[words.index("--out") + 1] = str(copy)
    monkeypatch.setattr(api, "fit", lambda *_, **__: pytest.fail("a run was done again"))
    result = cli(*words[1:], "--no-report")
    assert result.code == 0, result.err
    again = content_of(copy)
    assert tiny.timeless(again) == tiny.timeless(content)
    heading = next(line.split() for line in result.out.splitlines() if line.split()[:1] == ["tuning"])
    assert heading[:5] == ["tuning", "alignment", "seeds", "mean*", "gain"]
    assert {"day*", "dusk*", "night*"} <= set(heading)
    assert "chosen by accuracy on source val for each domain left out: day: " in result.out
    text = (copy / "results.md").read_text()
    row = content["left_out"]["rows"][1]
    assert f"| head | mmd | 2 | {100 * row['mean']['accuracy']:.1f} % |" in text
    assert f"mean accuracy with what is chosen so: {100 * content['left_out']['choice']['accuracy']:.1f} %" in text


def test_a_seed_counts_once_all_domains_were_left_out_with_it(
    done: Path, pictures: Path, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(done, tmp_path / "copy"))
    gone = runs_of(content_of(done), {"tuning": "head", "alignment": "mmd"}, "dusk")[1]["run"]
    shutil.rmtree(copy / gone)

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    original = api.fit
    monkeypatch.setattr(api, "fit", stop)
    with pytest.raises(KeyboardInterrupt):
        injerto.compare(pictures, leave_one_out=True, out=copy, **settings)
    found = content_of(copy)["left_out"]
    assert [row["seeds"] for row in found["rows"]] == [[0, 1], [0], [0, 1]]
    assert found["rows"][1]["mean"]["gain_seeds"] == [0]
    monkeypatch.setattr(api, "fit", original)
    again = injerto.compare(pictures, leave_one_out=True, out=copy, **settings)
    wanted, without = content_of(done)["left_out"], ("seconds",)
    for mine, own in zip(again["left_out"]["rows"], wanted["rows"], strict=True):
        assert {k: v for k, v in mine.items() if k not in without} == {k: v for k, v in own.items() if k not in without}


def test_the_page_has_the_strategies_and_says_what_is_chosen(done: Path, tmp_path: Path) -> None:
    page = injerto.report(done, tmp_path / "page.html", examples=False).read_text()
    told = json.loads(re.search(r"const DATA = (\{.*\});\n", page).group(1))  # type: ignore[union-attr]
    assert [row["short"] for row in told["leftOut"]["rows"]] == [
        "head \u00b7 none",
        "head \u00b7 mmd",
        "norm \u00b7 mmd",
    ]
    assert {domain["role"] for domain in told["domains"]} == {"rotating"}
    assert all(domain["oracle"] for domain in told["domains"]) and "on average" in told["headline"]
    assert "Chosen by accuracy on source val" in told["verdict"][0]


def left_out(chosen: list[str], gain: float, low: float, p: float) -> dict[str, Any]:
    """A comparison of two strategies on two domains."""
    means = [
        {"accuracy": 0.5},
        {"accuracy": 0.5 + gain, "gain": gain, "gain_low": low, "gain_high": 2 * gain, "p_adjusted": p},
    ]
    rows = [
        {"row": f"alignment={name}", "axes": {"alignment": name}, "baseline": base, "seeds": [0], "mean": mean}
        for name, base, mean in zip(("none", "mmd"), (None, "alignment=none"), means, strict=True)
    ]
    choice = {"rows": dict(zip("ab", chosen, strict=True)), "accuracy": 0.625}
    return {"kind": "comparison", "summary": [], "rows": [], "planned": 0, "grid": {"alignment": ["none", "mmd"], "source": [["a"], ["b"]]},
            "left_out": {"domains": ["a", "b"], "rows": rows, "choice": choice}}  # fmt: skip


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            left_out(["alignment=mmd"] * 2, 0.2, 0.1, 0.01),
            "Take mmd: 70.0 % on average on domains left out, +20.0 points",
        ),
        (left_out(["alignment=mmd"] * 2, 0.2, 0.1, 0.2), "its gain over the same without alignment is not sure"),
        (left_out(["alignment=none"] * 2, 0.2, 0.1, 0.01), "The plain way is chosen: no alignment reaches 50.0 %"),
        (left_out(["alignment=none", "alignment=mmd"], 0.2, 0.1, 0.01), "strategies reach 62.5 % on average"),
    ],
)
def test_words_are_about_the_average_over_domains(content: dict[str, Any], says: str) -> None:
    assert says in headline(content)
    assert any("without looking at the domain left out" in line for line in verdict(content))


def test_what_does_not_fit_is_refused_before_the_first_run(
    pictures: Path, done: Path, settings: dict[str, Any], tmp_path: Path
) -> None:
    for message, changes in {
        "--leave-one-out has no target": {"target": "night"},
        "needs two domains with labels, better three; 'day' is the only one": {"source": "day"},
        "leave the axis source out": {"grid": {"source": ["day", "dusk"]}},
        "has no target: what": {"grid": {"target": ["day", "dusk"]}},
        "no domain 'dawn'": {"source": ["day", "dawn"]},
        "named twice": {"source": ["day", "day"]},
    }.items():
        with pytest.raises(InjertoError, match=message):
            injerto.compare(pictures, leave_one_out=True, out=tmp_path / "out", **(settings | changes))
    assert not (tmp_path / "out").exists()
    with pytest.raises(InjertoError, match="runs with other sources"):
        injerto.compare(pictures, leave_one_out=True, out=done, **(settings | {"source": ["day", "dusk"]}))


def plain(label: str, value: float | None, seed: int = 0, sources: tuple[str, ...] = ("day",)) -> dict[str, Any]:
    """A run without a target."""
    splits = {} if value is None else {"val": {"accuracy": value}}
    return {"row": label, "seed": seed, "status": "ok", "validators": {}, "domains": {
        **{name: {"role": "source", "splits": splits} for name in sources},
        "dusk": {"role": "unseen", "splits": {"test": {"accuracy": 1 - (value or 0)}}}}}  # fmt: skip


def test_without_a_target_source_val_decides_among_rows_with_the_same_sources() -> None:
    found = choose([plain("a", 0.8), plain("a", 0.6, 1), plain("b", 0.5), plain("b", 1.0, 1)])
    assert found is not None and found["rule"] == "source val" and "validator" not in found
    assert found["row"] == "b" and found["scores"] == {"a": 0.7, "b": 0.75} and found["seeds"] == [0, 1]
    assert choose([plain("a", 0.8), plain("b", 0.8)])["row"] == "a"  # type: ignore[index]
    assert choose([plain("a", 0.8), plain("b", 0.9, sources=("day", "night"))]) is None
    assert choose([plain("a", 0.8), plain("b", None)]) is None
    assert choose([plain("a", 0.8)]) is None
