"""The page of a comparison or a run: its numbers are the runs' own, and nothing in the data becomes part of it."""

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import injerto
from injerto.basics.checksums import write_sealed
from injerto.evaluation.calibration import reliability
from injerto.reporting.evidence import evidence_of
from injerto.reporting.words import headline, verdict
from injerto.studies.choice import in_hindsight


def data_of(page: Path) -> dict[str, Any]:
    text = page.read_text(encoding="utf-8")
    assert text.count("</script>") == 1 and "innerHTML" not in text
    assert not re.search(r"""(src|href)\s*=\s*["']?https?:|@import|url\(""", text)
    found: dict[str, Any] = json.loads(re.search(r"const DATA = (\{.*\});\n", text).group(1))  # type: ignore[union-attr]
    return found


@pytest.fixture(scope="module")
def page(comparison: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return injerto.report(comparison, tmp_path_factory.mktemp("page") / "page.html")


def test_the_numbers_are_the_comparisons(comparison: Path, page: Path) -> None:
    content, told = json.loads((comparison / "results.json").read_text()), data_of(page)
    assert [row["row"] for row in told["rows"]] == [row["row"] for row in content["summary"]]
    for mine, own in zip(told["rows"], content["summary"], strict=True):
        assert mine["domains"] == own["domains"]
        assert mine["seconds"] == min(row["seconds"] for row in content["rows"] if row["row"] == own["row"])
        assert len(mine["runs"]) == 2
    assert [domain["role"] for domain in told["domains"]] == ["source", "target", "unseen"]
    assert told["chosen"] == content["choice"]["row"]
    assert {example["domain"] for example in told["map"]["examples"]} == {"day", "dusk", "night"}
    assert all(example["is"].startswith("data:image/webp;base64,") for example in told["map"]["examples"])


def test_the_evidence_is_counted_from_the_predictions(comparison: Path, page: Path) -> None:
    told = data_of(page)
    row = next(row for row in told["rows"] if row["axes"] == {"tuning": "last:1", "alignment": "mmd"})
    classes, domain = (told["evidence"][row["row"]][name] for name in ("classes", "domains"))
    domain = domain["dusk"]
    lines: list[dict[str, str]] = []
    per_run = []
    for run in row["runs"]:
        with (comparison / run / "predictions.csv").open(newline="") as stream:
            own = [line for line in csv.DictReader(stream) if (line["domain"], line["split"]) == ("dusk", "test")]
        per_run.append(own)
        lines += own
    counts = [[sum(ln["label"] == a and ln["predicted"] == b for ln in lines) for b in classes] for a in classes]
    assert domain["confusion"]["counts"] == counts
    right = [line["label"] == line["predicted"] for line in lines]
    sure = [float(line["confidence"]) for line in lines]
    assert domain["reliability"]["ece"] == pytest.approx(
        sum(
            abs(sum(r for r, s in zip(right, sure, strict=True) if b < s * 10 <= b + 1)
                - sum(s for s in sure if b < s * 10 <= b + 1))
            for b in range(10)
        ) / len(lines)
    )  # fmt: skip
    wrong = [line for line in per_run[0] if line["label"] != line["predicted"]]
    most = sorted((float(line["confidence"]) for line in wrong), reverse=True)[:12]
    assert [one["sure"] for one in domain["mistakes"]] == most
    assert all(one["example"] in told["examples"] for one in domain["mistakes"])


def test_confidences_are_the_models_own(image_run: Path, pictures: Path) -> None:
    run, domains = injerto.load(image_run), injerto.load_domains(pictures)
    with (image_run / "predictions.csv").open(newline="") as stream:
        lines = {(line["domain"], line["content"]): line for line in csv.DictReader(stream)}
    night = domains["night"]
    chances = run.predict_proba(list(night.inputs))
    checked = 0
    for content, row in zip(night.contents, chances, strict=True):
        if line := lines.get(("night", content)):
            assert float(line["confidence"]) == pytest.approx(row.max(), abs=2e-5)
            assert line["predicted"] == run.labels[int(row.argmax())]
            checked += 1
    assert checked
    found = evidence_of([image_run])["domains"]["night"]["reliability"]
    keep = [i for i, content in enumerate(night.contents) if ("night", content) in lines]
    labels = np.asarray([run.labels.index(str(night.labels[i])) for i in keep])
    assert found["ece"] == pytest.approx(reliability(chances[keep], labels, 10).ece, abs=1e-4)


def test_the_command_of_a_row_fits_the_same_again(comparison: Path, page: Path, tmp_path: Path, cli: Callable) -> None:
    import shlex

    row = next(row for row in data_of(page)["rows"] if row["axes"] == {"tuning": "head", "alignment": "dann"})
    words = shlex.split(row["command"])
    words[words.index("--out") + 1] = str(tmp_path / "again")
    assert cli(*words[1:]).code == 0
    before = (comparison / row["runs"][0] / "predictions.csv").read_text()
    assert (tmp_path / "again" / "predictions.csv").read_text() == before


def test_without_examples_no_example_is_in_the_page(comparison: Path, tmp_path: Path) -> None:
    told = data_of(injerto.report(comparison, tmp_path / "bare.html", examples=False))
    assert told["examples"] == {} and all(example["is"] == "" for example in told["map"]["examples"])
    assert "data:image" not in (tmp_path / "bare.html").read_text()


def test_the_page_is_the_same_each_time(comparison: Path, page: Path, tmp_path: Path) -> None:
    assert injerto.report(comparison, tmp_path / "again.html").read_bytes() == page.read_bytes()


def test_a_run_has_a_page_too(image_run: Path, tmp_path: Path, cli: Callable) -> None:
    found = cli("report", image_run, "--out", tmp_path / "run.html", "--json")
    assert found.code == 0 and json.loads(found.out) == {"page": str(tmp_path / "run.html")}
    told, metrics = data_of(tmp_path / "run.html"), json.loads((image_run / "metrics.json").read_text())
    assert told["kind"] == "run" and len(told["rows"]) == 1
    shown = told["rows"][0]["domains"]["night"]["splits"]["test"]["accuracy"]
    assert shown == metrics["domains"]["night"]["splits"]["test"]["accuracy"]
    assert f"{100 * metrics['domains']['dusk']['splits']['test']['accuracy']:.1f} % on dusk" in told["headline"]
    assert [view["name"] for view in told["map"]["views"]] == ["pretrained", "last:1 \u00b7 none"]


def test_data_that_are_gone_leave_a_page_without_them(comparison: Path, tmp_path: Path) -> None:
    gone = Path(shutil.copytree(comparison, tmp_path / "gone"))
    for recipe in gone.glob("runs/*/recipe.yaml"):
        text = recipe.read_text()
        recipe.write_text(re.sub(r"(?m)^data: .*$", "data: /nowhere/pictures", text))
    told = data_of(injerto.report(gone))
    assert told["map"] is None and "/nowhere/pictures" in told["without"]
    assert told["evidence"] and (gone / "report.html").exists()


def test_what_is_no_folder_of_ours_is_refused(tmp_path: Path, refused: Callable, comparison: Path) -> None:
    assert "no folder" in refused("report", tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    assert "neither results.json nor metrics.json" in refused("report", tmp_path / "empty")
    (tmp_path / "empty" / "results.json").write_text("{}")
    assert "is damaged" in refused("report", tmp_path / "empty")
    assert "ends in .html" in refused("report", comparison, "--out", tmp_path / "page.txt")
    assert not (tmp_path / "page.txt").exists()
    assert "--seed must be 0 or more" in refused("report", comparison, "--seed", -1)
    torn = Path(shutil.copytree(comparison, tmp_path / "torn"))
    next(iter(sorted(torn.glob("runs/*/metrics.json")))).unlink()
    assert "metrics.json is missing; the same compare does the run again" in refused("report", torn)


# --- words ------------------------------------------------------------------------------------------------------------


def content_of(gain: float, low: float, high: float, p: float | None, chosen: str | None = "b") -> dict[str, Any]:
    def row(name: str, accuracy: float, base: str | None, **more: Any) -> dict[str, Any]:
        test = {"accuracy": accuracy, "low": accuracy - 0.05, "high": accuracy + 0.05, **more}
        domains = {"shop": {"role": "target", "oracle": True, "splits": {"test": test}}}
        return {"row": name, "axes": {"alignment": {"a": "none", "b": "mmd"}[name]}, "baseline": base, "seeds": [0],
                "failed": [], "domains": domains}  # fmt: skip

    more = {"gain": gain, "gain_low": low, "gain_high": high, "p_adjusted": p}
    summary = [row("a", 0.5, None), row("b", 0.5 + gain, "a", **more)]
    rows = [{**one, "seed": 0, "status": "ok"} for one in summary]
    choice = {"row": chosen, "validator": "infomax", "scores": {"a": 0.1, "b": 0.2}, "turned_away": []}
    grid = {"alignment": ["none", "mmd"]}
    found = {"kind": "comparison", "summary": summary, "rows": rows, "planned": 2, "grid": grid, "fairness": []}
    return {**found, "choice": choice if chosen else None}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (content_of(0.2, 0.1, 0.3, 0.01), "Take mmd: 70.0 % on shop, +20.0 points over the same without alignment"),
        (content_of(0.02, 0.001, 0.05, 0.2), "its gain over the same without alignment is not sure"),
        (content_of(0.02, -0.01, 0.05, None), "its gain over the same without alignment is not sure"),
        (content_of(0.2, 0.1, 0.3, 0.01, "a"), "The plain way is chosen: no alignment reaches 50.0 % on shop"),
        (content_of(0.2, 0.1, 0.3, 0.01, None), "With hindsight, mmd is best on shop: 70.0 %"),
    ],
)
def test_a_gain_is_claimed_only_where_it_is_sure(content: dict[str, Any], says: str) -> None:
    assert says in headline(content)


def test_the_verdict_tells_a_loss_and_what_hindsight_would_take() -> None:
    lines = verdict(content_of(-0.2, -0.3, -0.1, 0.01))
    assert any("-20.0 points [-30.0, -10.0]" in line and line.endswith("a loss.") for line in lines)
    assert any("With hindsight (oracle) no alignment is better on shop by 20.0 points" in line for line in lines)
    assert any("without looking at a label" in line for line in lines)


def test_hindsight_knows_only_seeds_that_both_have() -> None:
    content = content_of(0.0, 0.0, 0.0, None, "a")
    harder = {"shop": {"role": "target", "oracle": True, "splits": {"test": {"accuracy": 0.3}}}}
    content["rows"].append({**content["rows"][0], "seed": 1, "domains": harder})  # the other row lacks the hard seed
    assert in_hindsight(content["rows"], "a", "shop") is None
    assert not any("hindsight" in line for line in verdict(content))


def test_where_the_guard_lets_nobody_pass_it_says_so() -> None:
    content = content_of(0.2, 0.1, 0.3, 0.01)
    content["choice"]["turned_away"] = ["a", "b"]
    assert headline(content) == "No strategy passed the guard; mmd, best on the source, reaches 70.0 % on shop"
    assert any("turned all 2 strategies away" in line for line in verdict(content))


def test_an_unfinished_comparison_says_so() -> None:
    assert "Not finished: 2 of 6 runs are there." in verdict({**content_of(0.2, 0.1, 0.3, 0.01), "planned": 6})


# --- in a browser -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "dark"), [(1200, False), (390, True)])
def test_it_is_whole_and_accessible(page: Path, opened: Callable[..., Any], width: int, dark: bool) -> None:
    from axe_playwright_python.sync_playwright import Axe

    shown = opened(page, width, dark)
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    assert shown.locator("#strategies tbody tr").count() == 6
    assert shown.locator("#map canvas").count() >= 3 and shown.locator("#detail svg").count() >= 3
    found = Axe().run(shown).response["violations"]
    assert [one["id"] for one in found if one["impact"] in ("serious", "critical")] == []


def test_domains_that_are_left_out_in_turn_have_a_table(
    comparison: Path, tmp_path: Path, opened: Callable[..., Any]
) -> None:
    copy = Path(shutil.copytree(comparison, tmp_path / "copy"))
    content = json.loads((copy / "results.json").read_text())
    mean = {"accuracy": 0.5, "gain": 0.125, "gain_low": 0.0625, "gain_high": 0.25, "p_adjusted": 0.01}
    row = {"row": "r", "axes": {"tuning": "head"}, "baseline": None, "seeds": [0], "mean": mean}
    content["left_out"] = {"domains": ["day", "dusk"], "rows": [{**row, "domains": {"day": mean, "dusk": None}}],
                           "choice": None}  # fmt: skip
    write_sealed(copy / "results.json", content)
    shown = opened(injerto.report(copy, examples=False))
    assert shown.said == []
    assert shown.locator("#left-out thead th").all_inner_texts() == ["strategy", "mean*", "day*", "dusk*"]
    cells = [text.split("\n") for text in shown.locator("#left-out tbody td, #left-out tbody th").all_inner_texts()]
    assert cells == [["head"], ["50.0 %", "+12.5 [+6.2, +25.0]"], ["50.0 %", "+12.5 [+6.2, +25.0]"], ["\u2013"]]


def test_headings_sort_and_back(page: Path, opened: Callable[..., Any]) -> None:
    shown = opened(page)
    shown.get_by_role("button", name=re.compile(r"^dusk\*")).click()
    column = 1 + shown.locator("#strategies thead th").all_inner_texts().index("dusk*")
    cells = shown.locator(f"#strategies tbody tr > :nth-child({column})")
    values = [float(text.split(" ")[0]) for text in cells.all_inner_texts()]
    assert values == sorted(values, reverse=True) and len(values) == 6
    assert shown.locator("#strategies th[aria-sort=descending]").count() == 1
    shown.get_by_role("button", name=re.compile(r"^dusk\*")).click()
    assert [float(text.split(" ")[0]) for text in cells.all_inner_texts()] == sorted(values)


def test_pointing_shows_an_example_and_a_name_hides_it(page: Path, opened: Callable[..., Any]) -> None:
    shown = opened(page)
    canvas = shown.locator("#map canvas").first
    canvas.scroll_into_view_if_needed()
    box, told = canvas.bounding_box(), data_of(page)
    x, y = told["map"]["views"][0]["layouts"]["t-SNE"][0]
    place = (box["x"] + 14 + x * (box["width"] - 28), box["y"] + 14 + (1 - y) * (box["height"] - 28))
    shown.mouse.move(*place)
    assert shown.locator("#tip").is_visible() and shown.locator("#tip img").count() == 1
    for name in ("day", "dusk", "night"):
        shown.locator("#map .bar button", has_text=name).first.click()
    shown.mouse.move(place[0] + 1, place[1])
    assert not shown.locator("#tip").is_visible()


def test_another_strategy_is_shown_in_detail(page: Path, opened: Callable[..., Any]) -> None:
    shown = opened(page)
    shown.locator("#row").select_option("tuning=head alignment=none")
    shown.locator("#domain").select_option("night")
    assert shown.locator("#detail h3").first.inner_text() == "Confusion on night"
    assert "--tuning head --alignment none" in shown.locator("#detail code").inner_text()
    shown.locator("#cost").select_option("trainable")
    shown.locator("#cost-domain").select_option("night")
    label = shown.locator("#cost-plot svg").get_attribute("aria-label")
    assert label.startswith("trained parameters against accuracy on night")


def test_html_in_the_data_is_shown_and_not_run(evil: Path, tmp_path: Path, opened: Callable[..., Any]) -> None:
    page = injerto.report(evil, tmp_path / "evil.html")
    data_of(page)
    shown = opened(page)
    assert shown.title().startswith("Comparison:")
    assert shown.locator("main img[src=x]").count() == 0 and shown.locator("main i", has_text="films").count() == 0
    assert "<i>films</i>" in shown.locator("#about").inner_text()
    assert "<b>bad</b></script><i" in shown.locator("#confusion").inner_text()


def test_nothing_is_cut_off_in_print(page: Path, opened: Callable[..., Any]) -> None:
    shown = opened(page, 794)
    shown.emulate_media(media="print")
    assert not shown.locator("#row").is_visible()
    assert shown.evaluate("getComputedStyle(document.querySelector('.wide')).overflowX") == "visible"


def test_the_gap_page_is_accessible(
    tmp_path: Path, opened: Callable[..., Any], pictures: Path, tiny_timm: Path
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = injerto.report_gap(injerto.measure_gap(pictures, backbone=tiny_timm, threads=1), tmp_path / "gap.html")
    for width, dark in ((1200, False), (390, True)):
        shown = opened(page, width, dark)
        assert shown.evaluate("document.documentElement.scrollWidth") <= width
        found = Axe().run(shown).response["violations"]
        assert [one["id"] for one in found if one["impact"] in ("serious", "critical")] == []
