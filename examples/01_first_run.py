# %% [markdown]
# # From a folder of pictures to predictions
#
# A pretrained network looks at every picture once; only a new output layer learns your classes. This takes seconds.

# %%
import shutil
from pathlib import Path

import injerto

# %% [markdown]
# Your folder has one folder per class: `pictures/<class>/<picture>`. To have something to try, we write one: 240
# drawings of the bundled sample `emoji-styles`, in the style `noto`.

# %%
noto = injerto.load_domains("emoji-styles")["noto"].first(240)
for number, (picture, label) in enumerate(zip(noto.inputs, noto.labels, strict=True)):
    place = Path("pictures", label, f"{number}.webp")
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(picture, place)

# %% [markdown]
# `tuning="head"` freezes the network, `head="probe"` solves the output layer instead of training it. A fifth of the
# pictures is set aside as the test split before anything is learned.

# %%
run = injerto.fit("pictures", tuning="head", head="probe", image_size=64, out="runs/first")
test = run.metrics["domains"]["pictures"]["splits"]["test"]

# %% [markdown]
# The run's folder holds everything. What ships is `runs/first/adapter`, some kilobytes. Open it anywhere and ask.

# %%
opened = injerto.load("runs/first")
picture = next(Path("pictures/food").glob("*.webp"))
print(opened.predict(picture), opened.predict_proba(picture).max().round(2))

# %%
chance = 1 / len(opened.labels)
print(f"right on {test['accuracy']:.0%} of {test['n']} pictures it had never seen; guessing would be {chance:.0%}")
