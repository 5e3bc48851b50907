# %% [markdown]
# # Your own task and your own models
#
# A task is a list of **pairs**: two prompts that differ in one factor, with the completion that each of them asks for.
# This tutorial makes pairs from sentences in two ways, gives a family of models as folders, scores, and asks which shape
# the curve has. Then come plain items in the prize's format.

# %%
from pathlib import Path

import isp_mech as im
from isp_mech.ladder import weights_folder
from isp_mech.tasks import compose

SIZES = ["25k", "100k", "335k", "800k", "4m"]
LINES = 20

# %% [markdown]
# ## Sentences of your own
#
# Twenty sayings that many people know, and so do the small models that come with this package; and twenty sentences that
# we made up, which no model can know. A model that only repeats does not care which is which.

# %%
SAYINGS = """
A picture is worth a thousand words
An army marches on its stomach
Beauty is in the eye of the beholder
Don't bite the hand that feeds you
Don't change horses in the middle of the stream
For many are called, but few are chosen
For want of a nail the shoe was lost
Give him an inch and he will take a mile
Great oaks from little acorns grow
He who laughs last laughs longest
Hope springs eternal in the human breast
It takes a thief to catch a thief
Lightning never strikes the same place twice
Marry in haste and repent at leisure
Never judge a book by its cover
One man's trash is another man's treasure
Red sky at night is the shepherd's delight
The squeaky wheel gets the grease
There are plenty more fish in the sea
When the going gets tough, the tough get going
""".strip().splitlines()[:LINES]

MADE_UP = """
The baker next door sells bread from a van
Our cat sleeps behind the broken heater
Seven tired students waited for the tram
My aunt keeps her letters in a drawer
A red bicycle leans against the wall
The clerk forgot the stamp on the form
Two gulls argue over half a biscuit
The plumber left his gloves on the roof
Every Friday we count the spoons in the cupboard
The mayor lost his hat near the station
A goat is eating the poster for the concert
My brother repairs clocks in the cellar
The nurse drew a map on the napkin
Three boats were painted for the parade
Grandfather hides the cheese from the dog
Our teacher speaks softly to the plants
The tailor bought a ticket to the coast
A small crowd gathered around the fountain
The pilot folded his coat over the chair
Nobody has cleaned the attic since the wedding
""".strip().splitlines()[:LINES]

OTHER_WORDS = """
lamp carpet window button ladder kettle mirror pencil basket hammer
bottle saddle candle ribbon tunnel pillow engine pocket bucket curtain
""".split()

# %% [markdown]
# ## Pairs, first way: a task that is there, with your list
#
# Most tasks draw from a list, and take a file of yours in its place (*Tasks* says which columns). `quote-repetition`
# takes a sentence a line. It changes the last word, and asks to repeat the sentence as it stands.

# %%
Path("sayings.txt").write_text("\n".join(SAYINGS), encoding="utf-8")
drawn = im.contrast("quote-repetition", source="sayings.txt", n=LINES)
print(drawn[0].conflict.text)

# %% [markdown]
# ## Pairs, second way: in Python
#
# `compose` puts a prompt together from pieces, each with its **role** ("" for none). Roles are what attention is summed
# by, and what interventions name. `factor` is the role in which the two prompts may differ; `check_one_factor` proves
# that they differ in nothing else. Completions begin with the space that parts them from the prompt.


# %%
def repeated(body: str, last: str) -> im.Prompt:
    pieces = [("Input: ", ""), (body, "sentence"), (" ", ""), (last, "last_word"), ("\nOutput: ", ""), (body, "begun")]
    return compose(pieces)


def pair_of(line: str, other: str) -> im.Pair:
    body, known = line.rsplit(" ", 1)
    made = im.Pair(
        id=line,
        plain=repeated(body, known),  # the sentence as it is: the known word is right
        conflict=repeated(body, other),  # with another last word: that one is right
        answer=f" {other}",
        lure=f" {known}",
        factor="last_word",
    )
    im.check_one_factor(made)
    return made


sayings = im.PairSet("sayings", tuple(map(pair_of, SAYINGS, OTHER_WORDS)))
made_up = im.PairSet("made-up", tuple(map(pair_of, MADE_UP, OTHER_WORDS)))
print(sayings[0].conflict.text)
print("answer:", repr(sayings[0].answer), "  lure:", repr(sayings[0].lure), "  roles:", *sayings[0].conflict.roles)

# %% [markdown]
# Pairs can be kept in a file, which is a TASK on the command line too: `isp-mech explain sayings.jsonl`.

# %%
im.write_pairs(sayings, "sayings.jsonl")
assert im.read_pairs("sayings.jsonl") == sayings

# %% [markdown]
# ## Your own models
#
# A family is a list of checkpoint folders as `save_pretrained` writes them, of GGUF files, or of ids of the hub. The
# folders here are five of the package's own sizes. The models are ordered by their parameters without embeddings, which
# are read from the headers of the weight files: nothing is loaded yet.

# %%
folders = [weights_folder() / f"ladder-{size}" for size in SIZES]
family = im.family(folders)
for size in family.members:
    print(f"{size.name:12} {size.n_params:>10,}")

# %% [markdown]
# Before anything is measured on a model of your own, ask what the library can do with it and how exactly:
# `isp-mech check FOLDER`, or

# %%
from isp_mech.models import check_model

checked = check_model(folders[0])
for ability in checked.abilities:
    exact = "" if ability.gap is None else f"{ability.gap:.1e} from plain transformers"
    print(f"{ability.name:7} {'yes' if ability.can else 'no':4}{exact}{ability.note}")

# %% [markdown]
# ## Scores
#
# `follows` is the share of pairs that are right on both sides, `overridden` of those that are right on the plain side
# alone: the model gives the known word, whatever the prompt says.

# %%
scores = im.score(sayings, family)
scores.shares.frame[["model", "follows", "overridden", "contrary", "lost"]].round(2)

# %%
im.figures.shares_over_size(scores.shares)

# %% [markdown]
# And where there is nothing to know? No size is overridden. What is wrong there is wrong otherwise: `contrary` is right
# on the conflict side alone.

# %%
control = im.score(made_up, family)
im.figures.shares_over_size(control.shares)

# %% [markdown]
# ## Which shape has the curve?
#
# `shape_of_curve` says what so many sizes and items can show. Twenty items are few: what is *undecided* comes with the
# change that they would have shown.

# %%
for task in (scores, control):
    shape = im.shape_of_curve(task.curve)
    print(f"{task.curve.run.task}: {shape.name}. {shape.sentence}\n")

# %%
im.figures.scaling_curve(im.concat([scores.curve, control.curve]))

# %% [markdown]
# ## Plain items, in the prize's format
#
# Items have one prompt and its classes. They can be scored, and compared with published results; tracing and locating
# need pairs. A file may have faults: all of them come in one message.

# %%
Path("faulty.csv").write_text(
    'prompt,classes,answer_index\n'
    '"Question: A robin is not a kind of\nA. bird\nB. fish\nAnswer:","["" A"", "" B""]",1\n'
    '"Question: A pike is not a kind of\nA. bird\nB. fish\nAnswer:","["" A"", "" B""]",2\n'
    '"Question: An oak is not a kind of\nA. tree\nB. bird\nAnswer:","[A B]",1\n'
)
try:
    im.read_task("faulty.csv")
except im.InputError as error:
    print(error)

# %% [markdown]
# A task that is made in Python is written and read in the same format.

# %%
QUESTIONS = [("robin", "bird", "fish"), ("pike", "fish", "bird"), ("oak", "tree", "bird"), ("salmon", "fish", "tree")]
items = [
    im.Item(f"{thing}-{i}", f"Question: A {thing} is not a kind of\nA. {a}\nB. {b}\nAnswer:", (" A", " B"), answer)
    for thing, true, wrong in QUESTIONS
    for i, (a, b, answer) in enumerate([(true, wrong, 1), (wrong, true, 0)])
]
im.write_task(im.Task("not-a-kind-of", tuple(items)), "not-a-kind-of.csv")
task = im.read_task("not-a-kind-of.csv")
answers = im.score(task, family)
answers.curve.frame[["model", "n", "accuracy", "accuracy_lo", "accuracy_hi"]].round(2)

# %% [markdown]
# ## What to look at next
#
# - What `explain` does with a task by name, it does with pairs of your own: `isp-mech explain sayings.jsonl --family
#   ./small --family ./large`.
# - Where the override sits in your models: the third tutorial goes from sites to an intervention.
# - Files of the prize, and what other evaluators wrote: *Tasks* and *The curve*.
