# %% [markdown]
# # Adapt to pictures that nobody labelled
#
# Coloured drawings have labels, line drawings have none. How far apart are the two, what does an alignment gain, and
# how sure is that?

# %%
import injerto

DATA, SOURCE, TARGET, SIZE = "emoji-styles", "noto", "openmoji-line", 96

# %% [markdown]
# **Measure the gap first.** Nothing is trained: every picture goes through the pretrained network once, and what came
# out is kept for the runs below. MMD^2 is a distance between the two sets of embeddings; from 0.1 on we call it far.

# %%
gap = injerto.measure_gap(DATA, on=[SOURCE, TARGET], image_size=SIZE)
print(gap.content["verdict"])

# %% [markdown]
# **Then align.** MMD pulls the two sets together while the source's labels are learned. The network stays frozen
# here, so a small layer (the *neck*) is what moves, and a run takes seconds. `compare` fits both rows with the same
# splits, steps and seeds, so the difference between them is due to the alignment alone.

# %%
found = injerto.compare(
    DATA,
    source=SOURCE,
    target=TARGET,
    grid={"alignment": ["none", "mmd"]},
    seeds=2,
    steps=100,
    image_size=SIZE,
    tuning="head",
    out="runs/compare",
)

# %% [markdown]
# The labels of the line drawings were used for this figure and for nothing else; Injerto calls such a number
# *oracle*. `runs/compare/report.html` has the table, a map of the embeddings and the mistakes.

# %%
plain, aligned = (row["domains"][TARGET]["splits"]["test"] for row in found["summary"])
print(f"{TARGET}: {plain['accuracy']:.1%} without, {aligned['accuracy']:.1%} with MMD")
gain, low, high = (100 * aligned[key] for key in ("gain", "gain_low", "gain_high"))
print(f"gain {gain:+.1f} points [{low:+.1f}, {high:+.1f}]")
