"""What alignment gains and costs: with a target, over several sources, on pictures and texts.

    python benchmarks/studies/alignment.py emoji WORK
    python benchmarks/studies/alignment.py emoji-weights WORK
    python benchmarks/studies/alignment.py emoji-self-training WORK
    python benchmarks/studies/alignment.py emoji-full WORK
    python benchmarks/studies/alignment.py emoji-lora WORK
    python benchmarks/studies/alignment.py emoji-last WORK
    python benchmarks/studies/alignment.py pacs WORK --data PACS.tar
    python benchmarks/studies/alignment.py pacs-unseen WORK --data PACS.tar
    python benchmarks/studies/alignment.py pacs-full WORK --data PACS.tar
    python benchmarks/studies/alignment.py sentiment WORK
    python benchmarks/studies/alignment.py sentiment-full WORK
    python benchmarks/studies/alignment.py sentiment-terms WORK
    python benchmarks/studies/alignment.py reviews WORK --data FDU.jsonl.xz
    python benchmarks/studies/alignment.py reviews-lora WORK --data FDU.jsonl.xz
    python benchmarks/studies/alignment.py reviews-full WORK --data FDU.jsonl.xz

Every table comes out of `injerto compare`, one comparison per shift, in the folder WORK: a stopped study goes on. Rows
of a comparison share splits, steps, augmentation, rates and the rule that a step is chosen by (the last). Gains are
paired differences to `alignment=none` of the same tuning, 95 % intervals over seeds and test groups. "Labelled target"
is the same tuning and steps trained on the target's own labels: what a perfect adaptation might reach.

Writes `alignment-<study>.json` and `.md` beside this file, after every comparison; with `--keep`, those that are in the
file already are not done again.
"""

import argparse
import csv
import io
import json
import lzma
import tarfile
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

import injerto
from injerto.basics.files import sha256, write_text
from injerto.basics.progress import note
from injerto.cli.show import percent
from injerto.studies.tables import gain_text

HERE = Path(__file__).parent
EMOJI = [("noto", "openmoji-line"), ("fluent-3d", "openmoji-line"), ("openmoji-line", "noto")]
PACS = ("art_painting", "cartoon", "photo", "sketch")
SENTIMENT = ("movies", "news", "products", "tweets")
REVIEWS = ("books", "dvd", "electronics", "kitchen_housewares")
CYCLE = list(zip(REVIEWS, REVIEWS[1:] + REVIEWS[:1], strict=True))
MOST = 1500
LITE0 = {"backbone": "packaged:efficientnet-lite0"}
MINILM = {"backbone": "packaged:minilm-l6"}


def shifts(
    pairs: list[tuple[str, str]], grid: dict[str, list[str]], seeds: int, own_seeds: int | None = None, **settings: Any
) -> list[dict[str, Any]]:
    """A comparison per shift, and one per target on its own labels (with `own_seeds` where they are fewer)."""
    found = [
        {"source": source, "target": target, "grid": grid, "seeds": seeds, "settings": settings}
        for source, target in pairs
    ]
    for target in dict.fromkeys(target for _, target in pairs):
        own = {"tuning": grid["tuning"]}
        known = own_seeds or seeds
        found.append({"source": target, "target": None, "grid": own, "seeds": known, "settings": settings})
    return found


STUDIES: dict[str, list[dict[str, Any]]] = {
    "emoji": shifts(
        EMOJI,
        {
            "tuning": ["head"],
            "alignment": [
                "none", "mmd", "lmmd", "coral", "dann", "cdan", "cdan-e", "mcc", "self-training", "mmd+mcc",
                "mmd+self-training", "mmd(frequencies=estimated)",
            ],
        },
        5, steps=300, image_size=128, neck="256", select="last", **LITE0,
    ),
    "emoji-weights": shifts(  # too heavy: published collapses of label-free selection (skada-bench) came about this way
        EMOJI[:1],
        {
            "tuning": ["head"],
            "alignment": ["none", "mmd", "mmd:10", "mmd:100", "mmd:1000", "dann", "dann:30", "dann:1000"],
        },
        5, steps=300, image_size=128, neck="256", select="last", **LITE0,
    ),
    "emoji-self-training": shifts(  # with a strong view that is strong, and new in every cycle
        EMOJI, {"tuning": ["head"], "alignment": ["none", "mmd", "self-training", "mmd+self-training"]},
        5, steps=300, image_size=128, neck="256", select="last", **LITE0,
    ),
    "emoji-full": shifts(
        EMOJI[:1], {"tuning": ["full"], "alignment": ["none", "mmd", "dann", "mmd+mcc"]}, 3,
        steps=200, image_size=128, select="last", **LITE0,
    ),
    "emoji-lora": shifts(
        EMOJI[:1], {"tuning": ["lora:last:2"], "alignment": ["none", "mmd", "dann", "mcc", "mmd+mcc"]}, 5,
        steps=200, image_size=128, select="last", **LITE0,
    ),
    "emoji-last": shifts(
        EMOJI[:1], {"tuning": ["last:2"], "alignment": ["none", "mmd"]}, 5, own_seeds=2,
        steps=200, image_size=128, select="last", **LITE0,
    ),
    "pacs": shifts(
        [("photo", name) for name in ("art_painting", "cartoon", "sketch")],
        {"tuning": ["last:2", "lora:last:2"], "alignment": ["none", "mmd", "dann"]}, 5, own_seeds=3,
        steps=300, image_size=128, select="last", **LITE0,
    ),
    "pacs-unseen": [
        {
            "source": [name for name in PACS if name != unseen], "target": None, "seeds": 3,
            "grid": {"tuning": ["last:2", "lora:last:2"], "alignment": ["none", "coral", "dann"]},
            "settings": {"steps": 300, "image_size": 128, "select": "last", "split_file": unseen, **LITE0},
        }
        for unseen in PACS
    ],
    "pacs-full": shifts(
        [("photo", "sketch")], {"tuning": ["full"], "alignment": ["none", "mmd", "dann"]}, 3,
        steps=200, image_size=128, select="last", **LITE0,
    ),
    "sentiment": shifts(
        list(permutations(SENTIMENT, 2)), {"tuning": ["head", "lora:last:2"], "alignment": ["none", "mmd", "dann"]},
        3, steps=100, batch_size=16, neck="256", select="last", **MINILM,
    ),
    "sentiment-terms": shifts(
        list(permutations(SENTIMENT, 2)),
        {
            "tuning": ["head"],
            "alignment": [
                "none", "mmd", "mmd:0.1", "mmd(frequencies=estimated)", "lmmd", "coral", "dann", "cdan", "mcc",
                "mmd+mcc",
            ],
        },
        3, steps=100, batch_size=16, neck="256", select="last", **MINILM,
    ),
    "sentiment-full": shifts(
        list(permutations(SENTIMENT, 2)), {"tuning": ["full"], "alignment": ["none", "mmd", "dann"]},
        1, steps=100, batch_size=16, neck="256", select="last", **MINILM,
    ),
    "reviews": shifts(
        CYCLE, {"tuning": ["head", "lora:last:2"], "alignment": ["none", "mmd", "dann"]},
        2, steps=100, batch_size=16, neck="256", select="last", max_length=128, **MINILM,
    ),
    "reviews-lora": [  # what `injerto advise` is judged on: the better tuning, with more seeds and what it may name
        {
            "source": source, "target": target, "seeds": 5,
            "grid": {
                "tuning": ["lora:last:2"],
                "alignment": ["none", "mmd", "dann", *(["mcc"] if target in ("books", "dvd") else [])],
            },
            "settings": {
                "steps": 100, "batch_size": 16, "neck": "256", "select": "last", "max_length": 128, **MINILM
            },
        }
        for source, target in CYCLE
    ],
    "reviews-full": shifts(
        CYCLE, {"tuning": ["full"], "alignment": ["none", "mmd", "dann"]},
        1, steps=100, batch_size=16, neck="256", select="last", max_length=128, **MINILM,
    ),
}  # fmt: skip


def prepared_data(study: str, work: Path, data: str | None) -> str:
    """Path or name of the data."""
    if study.startswith("emoji"):
        return "emoji-styles"
    if study.startswith("sentiment"):
        return sentences(work / "sentences.csv")
    assert data is not None, "this study needs --data"
    if study.startswith("reviews"):
        path = work / "reviews.jsonl"
        if not path.exists():
            with lzma.open(data, "rt", encoding="utf-8") as stream:
                rows = [entry for line in stream if (entry := json.loads(line))["domain"] in REVIEWS]
            rows = [entry for entry in rows if entry["split"] != "unlabeled"]
            kept = [{key: entry[key] for key in ("text", "label", "domain", "split")} for entry in rows]
            write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
        return str(path)
    if study == "pacs-unseen":
        for unseen in PACS:
            write_text(work / f"splits-{unseen}.csv", official_splits(Path(data), unseen))
    return data


def sentences(path: Path) -> str:
    """Up to 1,500 sentences of each domain of `sentiment-domains`, chosen by their hash."""
    if not path.exists():
        kept = [["text", "label", "domain"]]
        for domain in injerto.load_domains("sentiment-domains").values():
            chosen = sorted(range(len(domain)), key=lambda i: domain.contents[i])[:MOST]  # noqa: B023
            kept += [[str(domain.inputs[i]), str(domain.labels[i]), domain.name] for i in chosen]
        stream = io.StringIO()
        csv.writer(stream, lineterminator="\n").writerows(kept)
        write_text(path, stream.getvalue())
    return str(path)


def official_splits(tar: Path, unseen: str) -> str:
    """PACS' own lists as `path,split`: train and crossval of the sources, all of the unseen domain for the test.

    The endings are those of the pictures in the archive.
    """
    lines = ["path,split"]
    with tarfile.open(tar) as archive:
        names = {Path(name).with_suffix("").as_posix().split("pacs/")[-1]: name for name in archive.getnames()}
        for member in archive.getnames():
            domain, _, side = Path(member).name.removesuffix("_kfold.txt").rpartition("_")
            if not member.endswith("_kfold.txt") or (side == "test") != (domain == unseen):
                continue
            content = archive.extractfile(member)
            assert content is not None
            for line in content.read().decode().splitlines():
                stem = Path(line.split()[0]).with_suffix("").as_posix()
                lines.append(f"{names[stem].split('pacs/')[-1]},{'val' if side == 'crossval' else side}")
    return "\n".join(lines) + "\n"


def go(study: str, work: Path, data: str | None, seeds: int | None, known: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All comparisons; finished runs are read."""
    found = prepared_data(study, work, data)
    for plan in STUDIES[study]:
        key = sha256(json.dumps(plan, sort_keys=True), seeds)
        if key in known:
            yield known[key]
            continue
        settings = dict(plan["settings"])
        if "split_file" in settings:
            settings["split_file"] = str(work / f"splits-{settings['split_file']}.csv")
        target = plan["target"] or ()
        name = f"{study}-{sha256(plan['source'], target)[:8]}"
        note(f"{study}: {plan['source']} -> {target or 'no target'}")
        content = injerto.compare(
            found, source=plan["source"], target=target, grid=plan["grid"], seeds=seeds or plan["seeds"],
            out=work / name, threads=1, **settings,
        )  # fmt: skip
        text = json.dumps({name: value for name, value in content.items() if name != "rows"})
        text = text.replace(str(work), "WORK")
        yield {"plan": key, **json.loads(text.replace(data, Path(data).name) if data else text)}  # no machine's paths


def ceiling(results: list[dict[str, Any]], target: str, tuning: str) -> float | None:
    """Accuracy on the target's test split of the same tuning on the target's own labels."""
    for content in results:
        if not content["target"] and content["source"] == [target]:
            for row in content["summary"]:
                if row["axes"].get("tuning") == tuning:
                    return float(row["domains"][target]["splits"]["test"]["accuracy"])
    return None


def markdown(study: str, results: list[dict[str, Any]], command: str) -> str:
    lines = [
        "Accuracy, mean over seeds; in brackets the paired gain over `alignment none` of the same tuning, points and",
        "95 % interval (in round brackets where it holds 0). Every column but the source's needed labels of a domain",
        "that was not learned from: oracle numbers, used for nothing but this table.",
        "",
    ]
    for content in results:
        if not content["target"] and len(content["source"]) == 1:
            continue
        sources, targets = content["source"], content["target"]
        shown = targets or [name for name in content["summary"][0]["domains"] if name not in sources]
        lines += [f"### {', '.join(sources)} -> {', '.join(shown)} ({'target' if targets else 'unseen'})", ""]
        side = "test" if "test" in content["summary"][0]["domains"][sources[0]]["splits"] else "val"
        headings = ["tuning", "alignment", f"source {side}"]
        for name in shown:
            headings += ([f"{name} train+test", "gain"] if targets else []) + [f"{name} test", "gain"]
        lines += [f"| {' | '.join(headings)} |", f"| {' | '.join('---' for _ in headings)} |"]
        for row in content["summary"]:
            own = [row["domains"][name]["splits"][side]["accuracy"] for name in sources]
            cells = [f"`{row['axes']['tuning']}`", f"`{row['axes']['alignment']}`", percent(sum(own) / len(own))]
            for name in shown:
                for part in ("train+test", "test") if targets else ("test",):
                    figures = row["domains"][name]["splits"][part]
                    cells += [percent(figures["accuracy"]), gain_text(figures)]
            lines.append(f"| {' | '.join(cells)} |")
        for name in targets:
            for tuning in dict.fromkeys(row["axes"]["tuning"] for row in content["summary"]):
                best = ceiling(results, name, tuning)
                if best is not None:
                    lines.append(f"\nLabelled target, `{tuning}`: {percent(best)} on {name} test.")
        lines.append("")
    last = results[-1]
    seeds = ", ".join(map(str, max((content["seeds"] for content in results), key=len)))
    return "\n".join([*lines, f"Seeds {seeds}. `{command}`; {last['machine']}; {last['versions']}", ""])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("study", choices=list(STUDIES))
    parser.add_argument("work", type=Path)
    parser.add_argument("--data")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--keep", action="store_true")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    options = f" --data {Path(given.data).name}" if given.data else ""
    options += f" --seeds {given.seeds}" if given.seeds else ""
    command = f"python benchmarks/studies/alignment.py {given.study} WORK{options}"
    path = HERE / f"alignment-{given.study}.json"
    before = json.loads(path.read_text())["comparisons"] if given.keep and path.exists() else []
    results: list[dict[str, Any]] = []
    for one in go(given.study, given.work, given.data, given.seeds, {old["plan"]: old for old in before}):
        results.append(one)
        content = {"study": given.study, "command": command, "comparisons": results}
        write_text(path, json.dumps(content, indent=1) + "\n")
        write_text(path.with_suffix(".md"), markdown(given.study, results, command))
    print(markdown(given.study, results, command))


if __name__ == "__main__":
    main()
