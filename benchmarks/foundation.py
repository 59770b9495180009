"""Speed of the foundation against the plain way.

python benchmarks/foundation.py
"""

import copy
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import transformers
from measure import BEST, interleave, row, save
from PIL import Image

import injerto
from injerto.basics.progress import set_quiet
from injerto.compute.inference import IMAGE_CHUNK, Embedder
from injerto.compute.machine import machine
from injerto.compute.plan import make_plan

PAIRS = 5
Run = Callable[[], np.ndarray]


def pictures(count: int, size: int) -> np.ndarray:
    """Smooth random pictures, uint8 (count, size, size, 3)."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(array).resize((size, size))) for array in small])


def eager_model() -> torch.nn.Module:
    """The same weights in timm's own model, as timm's users run it."""
    backbone = injerto.load_backbone("packaged:efficientnet-lite0")
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0).eval()
    network.load_state_dict(backbone.model.state_dict())
    return network


def picture_runs() -> tuple[Run, Run, Run]:
    """Embedding of decoded 224 px drawings: ours, timm's, and by hand in the machine's best type and layout."""
    drawings = injerto.load_domains("emoji-styles")["noto"].inputs[: 4 * IMAGE_CHUNK]
    arrays = np.stack([np.asarray(Image.open(path).convert("RGB").resize((224, 224))) for path in drawings])
    backbone = injerto.load_backbone("packaged:efficientnet-lite0")
    embedder = Embedder(backbone, make_plan(backbone))
    chunks = [arrays[start : start + IMAGE_CHUNK] for start in range(0, len(arrays), IMAGE_CHUNK)]

    def ours() -> np.ndarray:
        return np.concatenate(
            [embedder.forward(embedder.maker.collate_images(list(chunk))).numpy() for chunk in chunks]
        )

    def plain(network: torch.nn.Module, dtype: torch.dtype, layout: torch.memory_format) -> np.ndarray:
        found = []
        with torch.inference_mode():
            for chunk in chunks:
                batch = torch.from_numpy(chunk).permute(0, 3, 1, 2).float().div(255).sub(0.5).div(0.5)
                found.append(network(batch.to(dtype).contiguous(memory_format=layout)).float().numpy())
        return np.concatenate(found)

    eager, hand = eager_model(), eager_model()
    hand = hand.to(dtype=BEST, memory_format=torch.channels_last)
    return (
        ours,
        lambda: plain(eager, torch.float32, torch.contiguous_format),
        lambda: plain(hand, BEST, torch.channels_last),
    )


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """The least of all rows."""
    return float(((a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))).min())


def embedding_rows() -> list[dict[str, Any]]:
    """Frozen embedding of pictures: batches of uint8 arrays to embeddings.

    The same where ours are as float32 has them; a peer in bfloat16 may be further from that, ours not.
    """
    ours, eager, hand = picture_runs()
    rows, same = [], cosine(ours(), eager()) >= 0.999
    for name, run in (("timm eager float32", eager), ("hand-written channels_last loop in the best type", hand)):
        a, agree = ours(), same and cosine(ours(), run()) >= 0.99
        seconds = interleave(ours, run, PAIRS)
        rows.append(row("frozen embedding, 224 px", name, timm.__version__, *seconds, len(a), "images/s", agree))
    return rows


def text_runs() -> tuple[Run, Run, Run]:
    """Embedding of 480 sentences with MiniLM: ours; transformers' as they come, and by length in the best type."""
    texts = list(injerto.load_domains("sentiment-domains")["movies"].inputs[:480])
    backbone = injerto.load_backbone("packaged:minilm-l6")
    embedder, tokenizer = Embedder(backbone, make_plan(backbone)), backbone.preprocessing.tokenizer  # type: ignore[union-attr]

    def ours() -> np.ndarray:
        found = np.empty((len(texts), backbone.embedding_dim), np.float32)
        for rows, values in embedder.embed(texts, texts):
            found[rows] = values
        return found

    def plain(network: torch.nn.Module, order: list[int]) -> np.ndarray:
        found = np.empty((len(texts), backbone.embedding_dim), np.float32)
        with torch.inference_mode():
            for start in range(0, len(order), 32):
                some = order[start : start + 32]
                batch = tokenizer([texts[i] for i in some], padding=True, truncation=True, return_tensors="pt")
                hidden, mask = network(**batch).last_hidden_state.float(), batch["attention_mask"].unsqueeze(2)
                found[some] = ((hidden * mask).sum(1) / mask.sum(1)).numpy()
        return found

    as_they_come = list(range(len(texts)))
    by_length = sorted(as_they_come, key=lambda i: len(texts[i]))
    best = copy.deepcopy(backbone.model).to(BEST).eval()
    return ours, lambda: plain(backbone.model, as_they_come), lambda: plain(best, by_length)


def text_rows() -> list[dict[str, Any]]:
    """Frozen embedding of sentences: strings to embeddings, the tokenizer included."""
    ours, as_they_come, by_length = text_runs()
    rows = []
    by_hand = "batches of similar length in the best type"
    for name, run in (("batches as they come", as_they_come), (by_hand, by_length)):
        a, b = ours(), run()
        same = cosine(a, b) >= 0.999 if machine().bf16 else bool(np.abs(a - b).max() < 1e-4)
        peer, seconds = f"transformers, {name}", interleave(ours, run, PAIRS)
        rows.append(row("frozen embedding, MiniLM", peer, transformers.__version__, *seconds, len(a), "texts/s", same))
    return rows


def write_folder(root: Path, count: int, size: int) -> None:
    """Two classes of pictures on disk."""
    for index, array in enumerate(pictures(count, size)):
        folder = root / "made" / ("even", "odd")[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(folder / f"{index}.jpg", quality=90)


def head_row() -> dict[str, Any]:
    """30 epochs of the head, files to metrics, against one plain pass over the same files."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        write_folder(root, 320, 224)
        network = eager_model().to(memory_format=torch.channels_last)
        paths = sorted(root.rglob("*.jpg"))
        counter = iter(range(10**6))
        backbone = injerto.load_backbone("packaged:efficientnet-lite0", image_size=224)
        embedder = Embedder(backbone, make_plan(backbone))

        def ours() -> None:
            os.environ["INJERTO_CACHE"] = str(root / f"cache{next(counter)}")  # nothing is cached yet
            run = injerto.fit(root / "made", tuning="head", epochs=30, image_size=224, out=root / "run", overwrite=True)
            took.append(sum(run.metrics["seconds"][phase] for phase in ("cache", "train", "evaluate")))

        def one_pass() -> None:
            for _ in embedder.embed(paths, [path.name for path in paths]):
                pass

        def plain_pass() -> None:
            from timm.data import create_transform, resolve_model_data_config

            transform = create_transform(**resolve_model_data_config(network), is_training=False)
            with torch.inference_mode():
                for start in range(0, len(paths), IMAGE_CHUNK):
                    batch = torch.stack(
                        [transform(Image.open(path).convert("RGB")) for path in paths[start : start + IMAGE_CHUNK]]
                    )
                    network(batch.contiguous(memory_format=torch.channels_last))

        rows = []
        for name, other in (
            ("one pass over the data, ours", one_pass),
            ("one pass over the data, plain timm", plain_pass),
        ):
            took: list[float] = []
            _, theirs = interleave(ours, other, PAIRS)
            rows.append(
                row(
                    "head, 30 epochs, files to metrics",
                    name,
                    timm.__version__,
                    took[1:],
                    theirs,
                    1.0,
                    "runs/s",
                    True,
                    limit=other is one_pass,
                )  # fmt: skip
            )
    return rows


def start_rows() -> list[dict[str, Any]]:
    """`injerto --help` and `import injerto` against a bare interpreter, and the import against PEFT's."""
    tool = Path(sys.executable).with_name("injerto")
    command = [str(tool)] if tool.exists() else [sys.executable, "-c", "from injerto.cli.main import main; main()"]

    def time_of(arguments: list[str]) -> float:
        start = time.perf_counter()
        subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - start

    def python(words: str) -> list[str]:
        return [sys.executable, "-c", words]

    rows = []
    for name, ours, peer, theirs in (
        ("injerto --help", [*command, "--help"], "python -c pass", python("pass")),
        ("import injerto", python("import injerto"), "python -c pass", python("pass")),
        ("import injerto", python("import injerto"), "import peft", python("import peft")),
    ):
        pairs = [(time_of(ours), time_of(theirs)) for _ in range(12)][1:]
        number = version("peft") if "peft" in peer else sys.version.split()[0]
        took = [a for a, _ in pairs], [b for _, b in pairs]
        rows.append(row(name, peer, number, *took, 1.0, "starts/s", True, limit="pass" in peer))
    return rows


def memory_rows() -> list[dict[str, Any]]:
    """Peak memory of a head run on n and on 8n pictures; the ratio should be 1."""
    script = (
        "import injerto, sys; data, out, tuning, steps = sys.argv[1:];"
        "injerto.fit(data, out=out, tuning=tuning, steps=int(steps), image_size=128);"
        "from measure import peak; print(peak() / 2**20)"
    )
    rows = []
    for tuning, steps in (("head", "200"), ("full", "12")):
        peaks = []
        for count in (400, 3200):
            with tempfile.TemporaryDirectory() as place:
                root = Path(place)
                write_folder(root, count, 128)
                found = subprocess.run(
                    [sys.executable, "-c", script, str(root / "made"), str(root / "run"), tuning, steps],
                    check=True,
                    capture_output=True,
                    text=True,
                    env={**os.environ, "INJERTO_CACHE": str(root / "cache")},
                    cwd=Path(__file__).parent,  # where `measure` is
                )
                peaks.append(float(found.stdout.split()[-1]))
        name = f"peak memory, {tuning}, 3,200 images"
        rows.append(row(name, "400 images", "", [peaks[1]], [peaks[0]], None, "MB", True, limit=True))
    return rows


if __name__ == "__main__":
    set_quiet(True)
    print(f"bf16 in hardware: {machine().bf16}; {machine()}; torch {torch.__version__}")
    if sys.argv[1:] == ["embedding"]:
        save("foundation.json", [*embedding_rows(), *text_rows()], whole=False)
    elif sys.argv[1:] == ["memory"]:
        save("foundation.json", memory_rows(), whole=False)
    elif sys.argv[1:] == ["start"]:
        save("foundation.json", start_rows(), whole=False)
    else:
        save("foundation.json", [*embedding_rows(), *text_rows(), *head_row(), *start_rows(), *memory_rows()])
    print(f"peak of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MB")
