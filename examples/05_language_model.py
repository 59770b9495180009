# %% [markdown]
# # A language model learns the tone of a few texts
#
# SmolLM2 (135 million weights) reads some tweets. LoRA learns a small pair of matrices beside the weights of its last
# layers. *Perplexity* says how surprised the model is by texts it has not read: the lower, the better.

# %%
import pandas

import injerto

TEXTS = 80

# %% [markdown]
# One column of texts is all it takes. Most are learned from, a fifth is kept for the test.

# %%
tweets = injerto.load_domains("sentiment-domains")["tweets"].first(TEXTS)
table = pandas.DataFrame({"text": tweets.inputs})

# %%
run = injerto.fit(
    table,
    task="causal-lm",
    input="text",
    backbone="packaged:smollm2-135m",
    tuning="lora:last:10",
    max_length=64,
    batch_size=4,
    steps=6,
    lr=3e-3,
    out="runs/tweets",
)

# %% [markdown]
# What it says to the beginning of a tweet it has not read, before and after:

# %%
sample = run.metrics["samples"][0]
print(sample["prompt"], "\n  before:", sample["before"][:80], "\n  after: ", sample["after"][:80])

# %%
test = next(iter(run.metrics["domains"].values()))["splits"]["test"]
ratio, (low, high) = test["change"]["ratio"], test["change"]["interval"]
size = run.metrics["adapter_bytes"] / 1e6
print(f"perplexity {test['before']['perplexity']:.1f} before, {test['perplexity']:.1f} after, by {size:.1f} MB")
print(f"ratio {ratio:.2f} [{low:.2f}, {high:.2f}]")
