# %% [markdown]
# # From sites to an intervention, and a paper's figure
#
# `locate` says which heads and MLPs push towards the lure. Is removing them enough? What else makes the model follow the
# prompt again, and what does it cost? Here we locate and verify, search for a change that restores prompt-following, save
# it, use it on other tasks and in a plain transformers model, and draw a figure for a paper.

# %%
from pathlib import Path

import isp_mech as im

PAIRS = 60
N_RANDOM = 50
SIZE = "800k"

# %% [markdown]
# ## Locate and verify
#
# One model is enough. On the conflict side it gives the famous word in about seven of ten pairs.

# %%
family = im.family("ladder", sizes=[SIZE])
pairs = im.contrast("quote-repetition", n=PAIRS, seed=0)
scores = im.score(pairs, family)
sites = im.locate(pairs, family)
check = im.verify(sites, pairs, family, n_random=N_RANDOM)
chosen = check.frame[check.frame["sites"] != "random"]
chosen[["split", "sites", "accuracy_before", "accuracy_after", "p_random"]].round(3)

# %% [markdown]
# Replacing a few sites by their mean gives part of it back: clearly more than random sets of sites do on one half, and on
# the other not so clearly (`p_random`; 60 pairs are few). It is not all of it, so we look at other changes.
#
# ## A change, as a value
#
# An intervention says what is done to a forward. It prints as a text that parses back, and interventions add up. `block`
# cuts the attention to a role's tokens, `scale` multiplies what sites write, and there are five more kinds. `intervene`
# measures any of them on all pairs.

# %%
from isp_mech.causal import block, parse_intervention, scale

by_hand = [block("quote_output"), block("quote_input"), scale("a1.h2", 0.0)]
assert parse_intervention(str(by_hand[0])) == by_hand[0]
tried = im.causal.intervene(by_hand, pairs, family)
tried.frame.pivot(index="place", columns="side", values="accuracy")[["conflict", "plain"]].round(2)

# %% [markdown]
# ## Which change restores it?
#
# `restoration` searches each kind on one half of the pairs and judges what it found on the other, then the other way
# round. `restored` is the share of overridden pairs that become right, `broken` of right answers that become wrong. A
# change of 0.1 or more whose interval is above zero counts as `restoring` if it beats random changes of the same kind and
# size and costs little elsewhere.

# %%
found = im.causal.restoration(pairs, family, kinds=["scale", "block"], n_random=N_RANDOM)
found.table.frame[["kind", "split", "restored", "broken", "gain", "gain_lo", "p", "restoring"]].round(3)

# %% [markdown]
# Scaling sites restores some pairs too, but random heads with the same factors too often do as well (`p`): no reason to
# believe in those sites. Blocking attention does more than blocking equally many other tokens, on both halves:

# %%
blocked = found.table.frame[found.table.frame["kind"] == "block"]
for row in blocked.itertuples():
    print(f"judged on {row.split}: {row.intervention}\n    needs: {row.needs}")

# %% [markdown]
# The quote as far as the model has written it (`quote_output`) calls up its famous end: with the attention to it cut, the
# model reads the end off the prompt.
#
# ## Save it and use it elsewhere
#
# The file holds the text and, for kinds that have some, the vectors.

# %%
best = found.interventions[blocked.loc[blocked["gain"].idxmax(), "intervention"]]
best.save("restored.json")
print(Path("restored.json").read_text(encoding="utf-8"))

# %% [markdown]
# On other pairs, which had no part in the search: the most famous sentences, and five shots in place of two.

# %%
change = im.causal.load_intervention("restored.json")
for variant in ("famous", "shots-5"):
    other = im.contrast("quote-repetition", n=PAIRS, seed=1, variant=variant)
    before, after = im.score(other, family), im.score(other, family, intervention=change)
    rows = [scored.shares.frame.iloc[0] for scored in (before, after)]
    print(f"{other.name:25} overridden: {rows[0]['overridden']:.2f}, with the change {rows[1]['overridden']:.2f}")

# %% [markdown]
# On another task the change needs that task's roles. Where they are missing it is an error, not a change of nothing:

# %%
corrections = im.contrast("resisting-correction", n=PAIRS, seed=0)
try:
    im.score(corrections, family, intervention=change)
except im.InputError as error:
    print(error)

# %% [markdown]
# What corresponds there is the sentence as far as it is written. That cutting it off helps there too would be a new claim,
# so it is measured, on both sides:

# %%
there = block("sentence_output")
moved = im.causal.intervene([there], corrections, family)
after = moved.frame.set_index("side")["accuracy"]
before = im.score(corrections, family).curve.frame.set_index("side")["accuracy"]
for side in ("conflict", "plain"):
    print(f"{side}: {before[side]:.2f} right, with {there}: {after[side]:.2f}")

# %% [markdown]
# It does not help: few of these pairs are overridden at this size, and more are lost than won. What restores one task need
# not restore another.
#
# ## In a plain transformers model
#
# `attach` puts the change on a transformers model, for generating text. Within the `with` every forward is changed;
# afterwards the model is as it was. `prompt` tells it where the roles are.

# %%
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = family.members[0].path_or_id
hf_model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def next_words(prompt: im.Prompt, n_tokens: int = 3) -> str:
    tokens = tokenizer(prompt.text, return_tensors="pt", return_token_type_ids=False)
    out = hf_model.generate(**tokens, max_new_tokens=n_tokens, do_sample=False, pad_token_id=0)
    return tokenizer.decode(out[0, tokens["input_ids"].shape[1] :])


conflict = scores.items.frame.query("side == 'conflict' and margin < 0")  # overridden, the surest first
for item in conflict.nlargest(4, "total_logprob")["item"]:
    pair = next(pair for pair in pairs if pair.id == item)
    print("answer", repr(pair.answer), " lure", repr(pair.lure))
    print("   as it is:       ", repr(next_words(pair.conflict)))
    with change.attach(hf_model, tokenizer, prompt=pair.conflict):
        print("   with the change:", repr(next_words(pair.conflict)))

# %% [markdown]
# ## A figure for a paper
#
# Each figure function has a panel function beside it, which draws on an Axes of yours. `save` writes PDF (fonts embedded),
# SVG (text as text), PNG and the table that is drawn, so that the figure can be made again; the same figure gives the
# same bytes.

# %%
figure = im.figures.PaperFigure(figsize=(im.figures.TWO_COLUMNS, 2.8), layout="constrained")
left, right = figure.subplots(1, 2)
im.figures.effect_panel(sites.sites, left, model=family.members[0].name)
im.figures.cost_panel(found.table, right, model=family.members[0].name)
left.set(title="effect on the margin", xlabel="head", ylabel="layer")
right.set(title="block: square, scale: circle", xlabel="plain accuracy lost (points)")
files = im.figures.save(figure, "figures/restored", found.table)
print(*(path.name for path in files))
figure

# %% [markdown]
# Over the sizes of a family, `im.figures.restored_over_size` shows accuracy before and after; with one size it is two marks
# a side:

# %%
im.figures.restored_over_size(found.table)

# %% [markdown]
# The table says how it was made: model, task, method, settings, seed and versions. A table that `isp-mech` wrote has the
# checksum of the weights too, and the command that makes it again.

# %%
again = im.read_table("figures/restored.parquet")
print(again)
print(again.run.method, again.run.settings, sep="\n")

# %% [markdown]
# ## What to look at next
#
# - All kinds of change, and when each misleads: *Interventions*.
# - The same for a whole family, with a page that can be asked: `isp-mech explain quote-repetition`.
# - Every figure: *API*, *Figures*.
