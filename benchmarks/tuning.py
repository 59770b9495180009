"""Fine-tuning: the prefix cache, a full step against transformers.Trainer and a hand-tuned loop, fit end to end.

    python benchmarks/tuning.py

Writes `results/tuning.json`. Weights and data are the bundled ones; nothing is downloaded.
"""

import csv
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import timm
import torch
import transformers
from accelerate import Accelerator
from measure import TOLERANCE, best_type, interleave, row, save
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

import injerto
from injerto.domains.images import read_image
from injerto.training import cacheplan
from injerto.training.stepplan import StepPlan
from injerto.training.trainer import Trainer

LITE0 = {"data": "emoji-styles", "source": "noto", "backbone": "packaged:efficientnet-lite0", "augment": "none"}
MINILM = {"data": "sentiment-domains", "source": "news", "backbone": "packaged:minilm-l6"}
PAIRS = 5
RATE = 1e-2
"""Of the new head: both sides converge within 30 epochs."""


class Reached(Exception):
    """Everything is ready to train."""


def ready(place: Path, keep: bool = True, **settings: Any) -> Trainer:
    """A trainer whose caches are filled, before its first step."""
    found: list[Trainer] = []

    def stop(self: Trainer, resume: bool = False) -> None:
        found.append(self)
        raise Reached

    worth = patch.object(cacheplan, "WORTH", 0.0 if keep else math.inf)
    with patch.object(Trainer, "run", stop), worth, suppress(Reached):
        injerto.fit(settings.pop("data"), out=tempfile.mkdtemp(dir=place), overwrite=True, **settings)
    return found[0]


def epoch(trainer: Trainer, steps: int) -> Callable[[], None]:
    """So many of the trainer's own steps, reading of the batches included."""

    def run() -> None:
        trainer.progress.step = 0
        trainer._thaw()
        for _, batch in zip(range(steps), trainer.examples.batches(trainer.steps_plan, trainer.spans), strict=False):
            trainer._step(batch)
            trainer.progress.step += 1

    return run


def bare(trainer: Trainer, steps: int) -> Callable[[], None]:
    """The suffix's own steps on batches that are in memory already: forward, backward, clip, AdamW."""
    pairs = zip(range(steps), trainer.examples.batches(trainer.steps_plan, trainer.spans), strict=False)
    batches = [batch for _, batch in pairs]
    groups = trainer.optimizer.param_groups
    parameters = [parameter for group in groups for parameter in group["params"]]
    optimizer = torch.optim.AdamW(
        [{k: group[k] for k in ("params", "lr", "weight_decay")} for group in groups], fused=True
    )

    def run() -> None:
        trainer._thaw()
        for module, mode in trainer._modes:
            module.training = mode
        for batch in batches:
            optimizer.zero_grad(set_to_none=True)
            with trainer.frozen_norms:
                trainer.objective(batch, 0.0).backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()

    return run


def same_course(a: Trainer, b: Trainer, steps: int) -> bool:
    """Whether two trainers have the same losses."""
    losses: list[list[float]] = []
    for trainer in (a, b):
        start = {name: tensor.detach().clone() for name, tensor in trainer._weights().items()}
        trainer.progress.step = 0
        trainer._thaw()
        pairs = zip(range(steps), trainer.examples.batches(trainer.steps_plan, trainer.spans), strict=False)
        losses.append([])
        for _, batch in pairs:
            losses[-1].append(trainer._step(batch))
            trainer.progress.step += 1
        trainer._load(start)
        trainer.optimizer.state.clear()
    return bool(np.allclose(losses[0], losses[1], rtol=TOLERANCE, atol=1e-4))


def cache_rows(place: Path) -> Iterator[dict[str, Any]]:
    """With the prefix cache: against computing the prefix anew, and against the suffix alone."""
    for name, settings, tuning in (
        ("Lite0 last:1", LITE0, "last:1"),
        ("MiniLM last:1", MINILM, "last:1"),
        ("MiniLM last:2", MINILM, "last:2"),
    ):
        kept, anew = ready(place, tuning=tuning, **settings), ready(place, keep=False, tuning=tuning, **settings)
        steps = min(10, kept.steps)
        same = same_course(kept, anew, 4)
        ours, theirs = interleave(epoch(kept, steps), epoch(anew, steps), PAIRS)
        yield row(f"prefix cache, {name}", "no cache", "", ours, theirs, 32 * steps, "examples/s", same)
        ours, theirs = interleave(epoch(kept, steps), bare(kept, steps), PAIRS)
        yield row(f"prefix cache, {name}", "suffix alone", "", ours, theirs, 32 * steps, "examples/s", True, limit=True)


class Tokens(Dataset):  # type: ignore[type-arg]
    """Tokenized texts for transformers."""

    def __init__(self, trainer: Trainer) -> None:
        """Take the trainer's own."""
        ((name, rows),) = trainer.examples.tokens.items()
        self.rows, self.labels = rows, trainer.examples.streams[name].labels

    def __len__(self) -> int:
        """How many."""
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One example."""
        return {"input_ids": self.rows[index].tolist(), "labels": int(self.labels[index])}


class WithHead(nn.Module):
    """The packaged MiniLM with mean pooling and a linear head, for the peers."""

    def __init__(self, trainer: Trainer) -> None:
        """Copy the weights."""
        super().__init__()
        import copy

        self.backbone = copy.deepcopy(trainer.model.backbone).requires_grad_(True)
        self.head = nn.Linear(self.backbone.embedding_dim, len(trainer.model.labels))

    def forward(self, input_ids: Any, attention_mask: Any, labels: Any = None) -> Any:
        """Loss and logits, as transformers expects them."""
        logits = self.head(self.backbone({"input_ids": input_ids, "attention_mask": attention_mask}))
        return {"loss": functional.cross_entropy(logits, labels), "logits": logits}


def trainer_epoch(ours: Trainer, place: Path, steps: int) -> Callable[[], None]:
    """So many steps of transformers.Trainer with its defaults: shuffled batches padded to their longest text."""
    tokenizer = ours.model.backbone.preprocessing.tokenizer  # type: ignore[union-attr]
    arguments = transformers.TrainingArguments(
        output_dir=str(place / "peer"), per_device_train_batch_size=32, max_steps=steps, save_strategy="no",
        report_to=[], use_cpu=True, disable_tqdm=True, logging_strategy="no",
    )  # fmt: skip
    assert arguments.device.type == "cpu"
    model, data = WithHead(ours), Tokens(ours)
    collator = transformers.DataCollatorWithPadding(tokenizer)

    def run() -> None:
        transformers.Trainer(model, arguments, train_dataset=data, data_collator=collator).train()

    return run


def hand_texts(ours: Trainer, steps: int) -> Callable[[], None]:
    """A hand-tuned loop: batches of similar length, the best type, fused AdamW, nothing else."""
    model, data = WithHead(ours), Tokens(ours)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    plan = StepPlan({"x": len(data)}, 32, 0, {"x": np.asarray([len(ids) for ids in data.rows])})

    def run() -> None:
        model.train()
        for step in range(steps):
            positions = plan.draw(step)["x"].positions
            rows = [torch.from_numpy(data.rows[i]).long() for i in positions]
            ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
            mask = nn.utils.rnn.pad_sequence([torch.ones_like(r) for r in rows], batch_first=True)
            optimizer.zero_grad(set_to_none=True)
            with best_type():
                loss = model(ids, mask, torch.from_numpy(data.labels[positions]))["loss"]
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()

    return run


def same_loss(ours: Trainer) -> bool:
    """Whether a batch has one loss: in our objective, and in the peers' model with our head and their padding."""
    batch = next(iter(ours.examples.batches(ours.steps_plan, ours.spans)))
    mine = float(ours.objective(batch, 0.0).detach())
    peer, data = WithHead(ours), Tokens(ours)
    (linear,) = (module for module in ours.model.head.modules() if isinstance(module, nn.Linear))
    peer.head.load_state_dict(linear.state_dict())
    positions = ours.steps_plan.draw(0)[next(iter(ours.examples.streams))].positions
    rows = [torch.from_numpy(data.rows[i]).long() for i in positions]
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = nn.utils.rnn.pad_sequence([torch.ones_like(one) for one in rows], batch_first=True)
    with torch.inference_mode():
        theirs = float(peer.eval()(ids, mask, torch.from_numpy(data.labels[positions]))["loss"])
    return abs(mine - theirs) < TOLERANCE * theirs


def step_rows(place: Path) -> Iterator[dict[str, Any]]:
    """A full fine-tuning step on texts."""
    ours, steps = ready(place, tuning="full", **MINILM), 8
    same = same_loss(ours)
    peer = trainer_epoch(ours, place, steps)
    ours.accelerator = Accelerator(mixed_precision="no", cpu=True)  # TrainingArguments resets its state
    mine, theirs = interleave(epoch(ours, steps), peer, 5)
    version = transformers.__version__
    yield row("full step, MiniLM", "transformers.Trainer", version, mine, theirs, 32 * steps, "examples/s", same)
    mine, theirs = interleave(epoch(ours, steps), hand_texts(ours, steps), 5)
    yield row("full step, MiniLM", "hand-tuned loop", "", mine, theirs, 32 * steps, "examples/s", same)


def head_rows(place: Path) -> Iterator[dict[str, Any]]:
    """A new head on a frozen body, from texts to the trained head: 1 and 30 epochs over 160 of them."""
    ours, count = ready(place, tuning="full", **MINILM), 160
    tokenizer = ours.model.backbone.preprocessing.tokenizer  # type: ignore[union-attr]
    texts = injerto.load_domains("sentiment-domains")["news"].first(count + 64)
    rows_of = tokenizer(list(texts.inputs[:count]), truncation=True)["input_ids"]
    classes = [ours.model.labels.index(str(label)) for label in texts.labels[:count]]
    data = [{"input_ids": ids, "labels": label} for ids, label in zip(rows_of, classes, strict=True)]
    table, split = place / "few.csv", ["train"] * count + ["val"] * 32 + ["test"] * 32
    with table.open("w", encoding="utf-8", newline="") as stream:
        rows = [("text", "label", "split"), *zip(texts.inputs, texts.labels, split, strict=True)]
        csv.writer(stream).writerows(rows)
    for epochs in (1, 30):
        arguments = transformers.TrainingArguments(
            output_dir=str(place / "frozen"), per_device_train_batch_size=32, num_train_epochs=epochs,
            save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True, logging_strategy="no",
            learning_rate=RATE,
        )  # fmt: skip

        def theirs(arguments: Any = arguments) -> Any:
            model = WithHead(ours)
            model.backbone.requires_grad_(False)
            collator = transformers.DataCollatorWithPadding(tokenizer)
            trainer = transformers.Trainer(model, arguments, train_dataset=data, data_collator=collator)
            trainer.train()
            return trainer

        def mine(epochs: int = epochs) -> Any:
            with fresh_cache():
                return injerto.fit(
                    table, tuning="head", epochs=epochs, backbone="packaged:minilm-l6", overwrite=True,
                    out=place / "head", split_column="split", lr=RATE, select="last",
                )  # fmt: skip

        answers = theirs().predict(data).predictions.argmax(1)
        found = np.asarray([ours.model.labels.index(one) for one in mine().predict(list(texts.inputs[:count]))])
        same = epochs == 1 or float((found == answers).mean()) > 0.9  # five steps leave two random heads apart
        took = interleave(mine, theirs, 3)
        name = f"head on a frozen MiniLM, {count} texts to the trained head, {epochs} epoch{'s' * (epochs > 1)}"
        yield row(name, "transformers.Trainer", transformers.__version__, *took, 1, "runs/s", same)


class Pictures(Dataset):  # type: ignore[type-arg]
    """Files with timm's own preprocessing."""

    def __init__(self, items: list[tuple[Any, int]], transform: Any) -> None:
        """Remember where they are."""
        self.items, self.transform = items, transform

    def __len__(self) -> int:
        """How many."""
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        """Decode one."""
        return self.transform(read_image(self.items[index][0])), self.items[index][1]


def hand_pictures(run: Any, tuning: str, epochs: int) -> Callable[[], float]:
    """A hand-tuned loop from files: workers, channels_last, best type, fused AdamW, val each epoch, test at the end."""
    domains = injerto.load_domains("emoji-styles")
    recorded = run.recorded_splits()
    parts: dict[str, list[tuple[Any, int]]] = {"train": [], "val": [], "test": []}
    for name, domain in domains.items():
        for item, content, label in zip(domain.inputs, domain.contents, domain.labels, strict=True):
            side = recorded[content]
            if name == "noto" or side == "test":
                parts[side].append((item, run.labels.index(str(label))))
    base = injerto.load_backbone("packaged:efficientnet-lite0")
    looks = run.model.backbone.preprocessing
    transform = timm.data.create_transform((3, 128, 128), mean=looks.mean, std=looks.std, crop_pct=looks.crop)

    def loader(side: str, shuffle: bool = False) -> Any:
        return DataLoader(Pictures(parts[side], transform), 32, shuffle=shuffle, num_workers=2)

    def go() -> float:
        import copy

        network = copy.deepcopy(base).to(memory_format=torch.channels_last)
        head = nn.Linear(network.embedding_dim, len(run.labels))
        first = 0 if tuning == "full" else len(network.stages) - int(tuning[-1])
        moving = []
        for name, parameter in network.model.named_parameters():
            parameter.requires_grad_(network.stage_of(name) >= first)
            moving += [parameter] if parameter.requires_grad else []
        optimizer = torch.optim.AdamW(
            [{"params": moving, "lr": 3e-4}, {"params": head.parameters(), "lr": 3e-4}], fused=True
        )
        network.eval()  # frozen norm statistics
        for _ in range(epochs):
            for images, labels in loader("train", shuffle=True):
                optimizer.zero_grad(set_to_none=True)
                images = images.to(memory_format=torch.channels_last)
                with best_type():
                    loss = functional.cross_entropy(head(network(images)), labels)
                loss.backward()
                optimizer.step()
            look(network, head, loader("val"))
        right = look(network, head, loader("test"))
        torch.save(network.state_dict(), Path(tempfile.mkdtemp()) / "weights.pt")
        return right

    def look(network: nn.Module, head: nn.Module, batches: Any) -> float:
        right = []
        with torch.inference_mode(), best_type():
            for images, labels in batches:
                found = head(network(images.to(memory_format=torch.channels_last))).argmax(1)
                right.append((found == labels).float())
        return float(torch.cat(right).mean())

    return go


def fit_once(place: Path, tuning: str, epochs: int) -> Any:
    """A whole fit, its cache empty at the start."""
    with fresh_cache():
        return injerto.fit(tuning=tuning, epochs=epochs, out=tempfile.mkdtemp(dir=place), overwrite=True, **LITE0)


def right_of(run: Any) -> float:
    """Accuracy of a run on the test examples of all domains."""
    tests = [entry["splits"]["test"] for entry in run.metrics["domains"].values()]
    return float(np.average([one["accuracy"] for one in tests], weights=[one["n"] for one in tests]))


def fit_rows(place: Path) -> Iterator[dict[str, Any]]:
    """A whole fit, from files to the adapter, its cache empty at the start."""
    for tuning, epochs in (("last:1", 6), ("full", 2)):
        run = fit_once(place, tuning, epochs)
        by_hand = hand_pictures(run, tuning, epochs)
        same = abs(right_of(run) - by_hand()) < 0.1  # not the same draws
        mine, theirs = interleave(partial(fit_once, place, tuning, epochs), by_hand, 3)
        name = f"fit from files, Lite0 {tuning}, {epochs} epochs"
        yield row(name, "hand-tuned loop", "", mine, theirs, 1, "runs/s", same)


@contextmanager
def fresh_cache() -> Iterator[None]:
    """An empty cache folder."""
    with tempfile.TemporaryDirectory() as folder, patch.dict("os.environ", {"INJERTO_CACHE": folder}):
        yield


if __name__ == "__main__":
    from injerto.basics.progress import set_quiet

    set_quiet(True)
    begun = time.time()
    with fresh_cache(), tempfile.TemporaryDirectory() as where:
        folder = Path(where)
        if sys.argv[1:] == ["head"]:  # these rows alone, again
            save("tuning.json", list(head_rows(folder)), whole=False)
        else:
            save("tuning.json", [*cache_rows(folder), *step_rows(folder), *fit_rows(folder), *head_rows(folder)])
    print(f"{time.time() - begun:.0f} s")
