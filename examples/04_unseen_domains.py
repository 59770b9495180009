# %% [markdown]
# # A domain that nobody has seen
#
# Three drawing styles have labels. The fourth is not there yet: no picture of it may be used, not even without a
# label. An adversary (DANN) tries to tell the styles apart from the embedding, and the embedding learns to hide them.

# %%
import injerto

SOURCES, UNSEEN = ["noto", "twemoji", "fluent-3d"], "openmoji-line"

# %% [markdown]
# Domains that are named nowhere are *unseen*: they are measured at the end and used for nothing. The same run without
# the alignment is what any gain must be held against.

# %%
runs = {
    alignment: injerto.fit(
        "emoji-styles",
        source=SOURCES,
        tuning="head",
        alignment=alignment,
        neck="256",
        select="last",
        steps=200,
        image_size=96,
        out=f"runs/{alignment}",
    )
    for alignment in ("none", "dann")
}

# %% [markdown]
# Did the adversary lose? A fresh classifier, which had no part in the training, is asked to tell the three styles
# apart: first from the pretrained embedding, then from what the head sees.

# %%
probe = runs["dann"].metrics["alignment"]["probe"]
print(f"styles told apart: {probe['before']:.0%} before, {probe['after']:.0%} after; chance {probe['chance']:.0%}")

# %% [markdown]
# And does it help where it was meant to? Often little: plain training on several sources is hard to beat, and one run
# says nothing certain. `injerto compare --leave-one-out` leaves out every domain in turn, with several seeds.

# %%
for alignment, run in runs.items():
    test = run.metrics["domains"][UNSEEN]["splits"]["test"]
    low, high = test["accuracy_interval"]
    print(f"{UNSEEN}, never seen, {alignment}: {test['accuracy']:.1%} [{low:.1%}, {high:.1%}]")
