# %% [markdown]
# # A first explanation in five minutes
#
# On some tasks larger models do worse. Here is one, on models that come with the package: we look where in the larger
# model the prompt is overridden, and test whether taking that place out gives the prompt back. Nothing is downloaded.
#
# The same in one command, with a report to look at: `isp-mech explain quote-repetition`.

# %%
import isp_mech as im

PAIRS = 60
SIZES = ["25k", "335k", "800k", "4m"]

# %% [markdown]
# ## The task, as pairs
#
# A **pair** is two prompts that differ in one factor. Both ask to repeat a quote. The *plain* one gives the quote as
# everybody knows it; the *conflict* one gives it with another last word. Memory suggests the famous word on both sides:
# it is right on the plain side, and the **lure** on the conflict side.

# %%
pairs = im.contrast("quote-repetition", n=PAIRS, seed=0)
pair = pairs[0]
print(pair.conflict.text)
print("answer:", repr(pair.answer), "  lure:", repr(pair.lure))

# %% [markdown]
# ## Does the larger model do worse?
#
# `score` takes the log-probability of both completions. Which is larger decides whether the model follows the prompt.
# The figure has accuracy over size on each side, with 95 % intervals: knowing the quote helps on the plain side, and harms
# on the conflict side. On the *neutral* side the sentence is one that nobody knows.

# %%
family = im.family("ladder", sizes=SIZES)
scores = im.score(pairs, family)
im.figures.scaling_curve(scores.curve)

# %% [markdown]
# Every figure is drawn from a table. A table's `frame` is a pandas DataFrame.

# %%
scores.curve.frame[["model", "side", "accuracy", "accuracy_lo", "accuracy_hi"]].round(2)

# %% [markdown]
# ## At which depth is the prompt overridden?
#
# The **margin** is log p(answer) - log p(lure), in nats: positive follows the prompt. `trace` reads it off after every
# layer. Where it turns negative and stays there, the override has set in.

# %%
traces = im.trace(pairs, family)
im.figures.lens_over_depth(traces.lens, onset=traces.onset)

# %% [markdown]
# ## Which heads and MLPs do it?
#
# `locate` replaces the output of each head (`a1.h10`: layer 1, head 10) and MLP (`m1`) by its mean over other pairs.
# Its **effect** is the margin as it is minus the margin with the replacement: a negative one pushes towards the lure.
# `q` is the p-value corrected for the number of sites.
# Each square below is a site; a dot says that q is at most 0.05.

# %%
sites = im.locate(pairs, family)
im.figures.override_map(sites)

# %% [markdown]
# The five sites of the largest model that push most towards the lure:

# %%
large = sites.sites.frame[sites.sites.frame["n_params"] == sites.sites.frame["n_params"].max()]
strongest = large.nsmallest(5, "effect")
strongest[["kind", "layer", "head", "effect", "effect_lo", "effect_hi", "q"]].round(3)

# %% [markdown]
# ## Is that the reason?
#
# A site that was chosen because it pushes towards the lure must push so on pairs that had no part in choosing it.
# `verify` chooses on one half of the pairs and replaces the chosen sites on the other, then the other way round. It
# compares with equally many sites drawn at random: a small `p_random` says that hardly any of those restore as much.

# %%
check = im.verify(sites, pairs, family, n_random=50)
im.figures.verification(check)

# %%
chosen = check.frame[check.frame["sites"] != "random"]
chosen[["model", "split", "sites", "accuracy_before", "accuracy_after", "p_random"]].round(3)

# %% [markdown]
# ## What to look at next
#
# - Everything above, with what it says in words: `isp-mech explain quote-repetition`, then open `report.html`.
# - The other tasks: `isp-mech tasks`. The second tutorial is about tasks and models of your own.
# - What one can change in a forward pass, and what that costs elsewhere: the third tutorial.
