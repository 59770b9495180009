# %% [markdown]
# # Two tasks, one base model
#
# LoRA leaves the pretrained weights as they are and learns a small pair of matrices beside them: an *adapter*. Two
# tasks are then two small files on one base. Here: *what* is drawn, and in *which style*.

# %%
import shutil
from pathlib import Path

import injerto

MOST = 20  # drawings of each class in each style

# %% [markdown]
# The same drawings, sorted into folders twice: by what they show, and by their style.

# %%
for style, domain in injerto.load_domains("emoji-styles").items():
    seen = dict.fromkeys(domain.labels, 0)
    for picture, label in zip(domain.inputs, domain.labels, strict=True):
        seen[label] += 1
        for folder in (Path("what", label), Path("style", style)) if seen[label] <= MOST else ():
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(picture, folder / f"{style}-{label}-{seen[label]}.webp")

# %% [markdown]
# One run for each task. `lora:last:2` puts pairs into the last two stages of the network; what lies below is frozen,
# the same for both, and computed once. `head_lr` and `lr` are higher than the defaults because the runs are so short.

# %%
runs = {}
for task in ("what", "style"):
    runs[task] = injerto.fit(task, tuning="lora:last:2", image_size=64, steps=60, augment="none", out=f"runs/{task}")
    size = runs[task].metrics["adapter_bytes"]
    print(f"{task}: {len(runs[task].labels)} classes, an adapter of {size / 1000:.0f} KB")

# %% [markdown]
# A bank holds the base once and the adapters behind it. One picture may be asked about by all of them.

# %%
bank = injerto.AdapterBank.of("runs/what", "runs/style")
picture = next(Path("what/food").glob("noto-*.webp"))
print({task: answer.label for task, answer in bank.ask_all(picture).items()})

# %% [markdown]
# A batch may mix them too: each picture goes to the adapter that is named for it. The answers are those of each run
# alone.

# %%
pictures = sorted(Path("what").glob("*/*.webp"))[::7]
mixed = bank.predict(pictures * 2, ["what"] * len(pictures) + ["style"] * len(pictures))

for task, run in runs.items():
    same = [answer.label for answer in mixed if answer.adapter == task] == run.predict(pictures)
    test = run.metrics["domains"][task]["splits"]["test"]
    chance = 1 / len(run.labels)
    print(f"{task}: right on {test['accuracy']:.0%} of new pictures, guessing {chance:.0%}; bank and run agree: {same}")
