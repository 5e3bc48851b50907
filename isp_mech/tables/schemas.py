"""The declared columns of every table, with type, unit and sign."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Column:
    """A declared column: ``dtype`` is one of string, bool, int64, Int64, float32, float64.

    ``Int64`` holds missing values; so do floats that are ``nullable``. ``meaning`` says sign and range.
    """

    name: str
    dtype: str
    unit: str
    meaning: str
    nullable: bool = False


def _s(name: str, meaning: str) -> Column:
    return Column(name, "string", "", meaning)


def _f(name: str, unit: str, meaning: str, *, nullable: bool = False, dtype: str = "float64") -> Column:
    return Column(name, dtype, unit, meaning, nullable)


def _i(name: str, meaning: str, *, nullable: bool = False) -> Column:
    return Column(name, "Int64" if nullable else "int64", "", meaning, nullable)


def _b(name: str, meaning: str) -> Column:
    return Column(name, "bool", "", meaning)


def _with_interval(name: str, unit: str, meaning: str, *, nullable: bool = False) -> tuple[Column, ...]:
    return (
        _f(name, unit, meaning, nullable=nullable),
        _f(f"{name}_lo", unit, f"lower end of the 95 % interval of {name}", nullable=True),
        _f(f"{name}_hi", unit, f"upper end of the 95 % interval of {name}", nullable=True),
    )


_HEAD = (
    _s("model", "the model's name"),
    _i("n_params", "parameters without embeddings"),
    _s("task", "the task's name"),
)
_SIDE = _s("side", "conflict, plain, neutral, or item for a plain task file (scores of log-odds: prompt, other_prompt)")
_LAYER = _i("layer", "block, counted from 0 (-1 for the embedding, the biases and the remainder)")
_KIND = _s("kind", "head or mlp; in direct effects also embed, bias and remainder, so that all sum to the margin")
_HEAD_NUMBER = _i("head", "head, counted from 0; missing for an MLP", nullable=True)
_REPLACEMENT = _s("replacement", "what stood in for the site's output: mean, resample, plain or zero; empty where none")
_EFFECT = "margin as it is - margin with the site replaced: positive sites push towards the prompt's answer"
_DIRECT = "the site's own write on the margin: positive pushes towards the prompt's answer"

SCHEMAS: Mapping[str, tuple[Column, ...]] = MappingProxyType(
    {
        name: (*_HEAD, *columns)
        for name, columns in {
            "scores": (
                _s("item", "id of the item or pair"),
                _SIDE,
                _i("class_index", "the class's place in the item, from 0"),
                _s("class_text", "the class itself, spaces kept"),
                _f("logprob", "nats", "log p(class | prompt), summed over its tokens, 0 or less"),
                _f("normalised_logprob", "nats", "log-softmax of logprob over the item's classes, 0 or less"),
                _b("is_answer", "whether this class is the right one on this side"),
                _i("n_tokens", "tokens the class was scored on"),
                _s("token_ids", "those tokens' ids, with spaces between"),
            ),
            "items": (
                _s("item", "id of the item or pair"),
                _SIDE,
                _b("correct", "whether the most likely class is the right one on this side, ties to the lowest index"),
                _i("predicted_index", "the most likely class, from 0"),
                _f("loss", "nats", "minus the normalised log-probability of the right class, 0 or more"),
                _f(
                    "total_logprob", "nats", "log of the probability all classes get together (coverage)", nullable=True
                ),
                _f("margin", "nats", "log p(answer) - log p(lure): positive follows the prompt", nullable=True),
                _b("tie", "whether the two most likely classes are equally likely"),
            ),
            "curve": (
                _SIDE,
                *_with_interval("accuracy", "share", "share of items answered rightly on this side, 0..1"),
                *_with_interval("loss", "nats", "mean loss over items, 0 or more", nullable=True),
                _f("coverage", "share", "mean probability of all classes together, 0..1", nullable=True),
                _i("ties", "items whose best classes are equally likely", nullable=True),
                _i("n", "items", nullable=True),
                _f(
                    "baseline",
                    "share",
                    "accuracy of guessing, where classes are equally likely a priori",
                    nullable=True,
                ),
            ),
            "shares": (
                *_with_interval("follows", "share", "share of pairs right on both sides, 0..1"),
                *_with_interval("overridden", "share", "share right on plain, wrong on conflict, 0..1"),
                *_with_interval("contrary", "share", "share wrong on plain, right on conflict, 0..1"),
                *_with_interval("lost", "share", "share wrong on both sides, 0..1"),
                _i("n", "pairs"),
            ),
            "rules": (
                *_with_interval("by_answer", "share", "share of pairs decided by the answer's rule, guesses taken out"),
                *_with_interval("by_lure", "share", "share of pairs decided by the lure's rule, guesses taken out"),
                *_with_interval(
                    "by_neither", "share", "share of pairs guessed; the three sum to 1, each may pass 0 and 1"
                ),
                _i("n", "pairs"),
            ),
            "values": (
                _s("item", "id of the item"),
                _s("metric", "sequence_prob, logodds, absolute_logodds or numeric"),
                _f(
                    "value",
                    "nats",
                    "-log p, change of log-odds towards the answer, its size; numeric: the mean, unitless",
                ),
                _i("n_parsed", "numeric: samples that are numbers", nullable=True),
            ),
            "value_curve": (
                _s("metric", "sequence_prob, logodds, absolute_logodds or numeric"),
                *_with_interval("value", "nats", "mean over items of the metric's own number"),
                _i("n", "items"),
            ),
            "rule_differences": (
                _s("item", "id of the item or pair"),
                _SIDE,
                _i("class_index", "the class's place in the item, from 0"),
                _s("class_text", "the class itself, spaces kept"),
                _s("strict_token_ids", "the tokens that rule strict scores; empty where it does not apply"),
                _s("prize_token_ids", "the tokens that rule prize scores; empty where it does not apply"),
                _f("strict_logprob", "nats", "log p(class | prompt) by rule strict", nullable=True),
                _f("prize_logprob", "nats", "log p(class | prompt) by rule prize", nullable=True),
                _i("strict_predicted", "the item's most likely class by rule strict", nullable=True),
                _i("prize_predicted", "the item's most likely class by rule prize", nullable=True),
                _s("reason", "why the rules differ on it"),
            ),
            "lens": (
                _s("pair", "id of the pair"),
                _SIDE,
                _LAYER,
                _s("sublayer", "embed, attn or mlp: where the residual was read"),
                _f("depth", "relative", "depth of the reading, 0 at the embedding, 1 at the output", dtype="float32"),
                _f("margin", "nats", "lens margin there: positive follows the conflict prompt", dtype="float32"),
            ),
            "sensitivity": (
                _LAYER,
                _s("sublayer", "embed, attn or mlp: where the residual was read"),
                _f("depth", "relative", "depth of the reading, 0 at the embedding, 1 at the output", dtype="float32"),
                *_with_interval("sensitivity", "nats", "mean over pairs of: lens margin on conflict - on plain"),
                _i("n", "pairs"),
            ),
            "attention": (
                _s("pair", "id of the pair"),
                _SIDE,
                _LAYER,
                _i("head", "head, counted from 0"),
                _s("role", "named role of the attended tokens; other for the rest"),
                _f("weight", "share", "attention from the last position to the role's tokens, 0..1", dtype="float32"),
            ),
            "effects": (
                _s("pair", "id of the pair"),
                _SIDE,
                _LAYER,
                _KIND,
                _HEAD_NUMBER,
                _REPLACEMENT,
                _f("effect", "nats", _EFFECT, nullable=True, dtype="float32"),
                _f("direct_effect", "nats", _DIRECT, nullable=True, dtype="float32"),
            ),
            "sites": (
                _LAYER,
                _KIND,
                _HEAD_NUMBER,
                *_with_interval("effect", "nats", f"mean over pairs of: {_EFFECT}"),
                _f("direct_effect", "nats", f"mean over pairs of: {_DIRECT}", nullable=True),
                _f("p", "", "two-sided p of mean effect zero, 0..1", nullable=True),
                _f("q", "", "p after false-discovery control over all sites and sizes, 0..1", nullable=True),
                _b("significant", "whether q is within the level"),
            ),
            "heads": (
                _LAYER,
                _i("head", "head, counted from 0"),
                _s("class", "copying, induction, recall, suppression, opposing or none"),
                _f(
                    "induction",
                    "share",
                    "attention, on repeated random tokens, to what followed the token before, 0..1",
                ),
                *_with_interval(
                    "copying", "", "percentile of an attended token's logit in the head's write, chance 0.5"
                ),
                *_with_interval("conflict_direct", "nats", f"mean over pairs, conflict prompts: {_DIRECT}"),
                *_with_interval("plain_direct", "nats", f"mean over pairs, plain prompts: {_DIRECT}"),
                _f("conflict_p", "", "two-sided p of mean conflict_direct zero, 0..1", nullable=True),
                _f("plain_p", "", "two-sided p of mean plain_direct zero, 0..1", nullable=True),
                _f("conflict_q", "", "conflict_p after control over all heads, models and sides, 0..1", nullable=True),
                _f("plain_q", "", "plain_p after control over all heads, models and sides, 0..1", nullable=True),
            ),
            "head_shares": (
                _s("class", "a class of heads, or mlp"),
                _i("n_sites", "heads of the class; MLPs"),
                _i("n_override", "those of them with a significant negative total effect"),
                _f("override", "nats", "sum of those effects: 0 or less"),
                _f("share", "share", "of the model's override mass over all heads and MLPs, 0..1", nullable=True),
            ),
            "edges": (
                _s("from_site", "the site that writes"),
                _s("to_site", "the site that reads it, or output"),
                *_with_interval("effect", "nats", "what of from_site's effect goes by to_site: positive to the answer"),
                _f("p", "", "two-sided p of mean effect zero, 0..1", nullable=True),
                _f("q", "", "p after false-discovery control over all edges and models, 0..1", nullable=True),
                _b("significant", "whether q is within the level"),
            ),
            "verification": (
                _s("sites", "the sites replaced together, by name, or how they were drawn"),
                _s("split", "which half of the pairs was judged"),
                _REPLACEMENT,
                _i("n_sites", "sites replaced together"),
                _i("n_random", "random sets drawn, matched by kind and layer"),
                _f("accuracy_before", "share", "conflict accuracy as it is, 0..1"),
                _f("accuracy_after", "share", "conflict accuracy with the sites replaced, 0..1"),
                _f("margin_before", "nats", "mean conflict margin as it is"),
                _f("margin_after", "nats", "mean conflict margin with the sites replaced"),
                _f("gap_closed", "share", "(after - before) / (best accuracy in the family - before)", nullable=True),
                _f(
                    "p_random",
                    "",
                    "share of random sets at least as good, with one added to both counts",
                    nullable=True,
                ),
                _f("plain_before", "share", "plain accuracy as it is, 0..1", nullable=True),
                _f("plain_after", "share", "plain accuracy with the sites replaced, 0..1", nullable=True),
                _f("neutral_loss_before", "nats", "loss per token on neutral text as it is", nullable=True),
                _f(
                    "neutral_loss_after",
                    "nats",
                    "loss per token on neutral text with the sites replaced",
                    nullable=True,
                ),
            ),
            "interventions": (
                _SIDE,
                _s("intervention", "scale: outputs multiplied by alpha; knockout: attention to a role taken away"),
                _s("place", "the sites scaled together, or the role that is not attended to"),
                _s("layers", "layers in which attention was taken away: all, or one's number; empty for scale"),
                _f("alpha", "", "what the outputs were multiplied with; missing for knockout", nullable=True),
                *_with_interval("accuracy", "share", "share of pairs right on this side, with the intervention, 0..1"),
                *_with_interval("margin", "nats", "mean margin with the intervention: positive follows the prompt"),
                *_with_interval("effect", "nats", "mean margin as it is - with the intervention"),
                _f("p", "", "two-sided p of mean effect zero, 0..1", nullable=True),
                _f("q", "", "p after false-discovery control over the whole table, 0..1", nullable=True),
                _i("n", "pairs"),
            ),
            "faithfulness": (
                _s("split", "which half of the pairs was judged; the other half ranked the sites"),
                _REPLACEMENT,
                _s("order", "towards: by how much a site pushes the way the model goes; absolute: by size of effect"),
                _f("share", "share", "share of all sites that are kept, 0..1; all others are replaced"),
                _i("n_sites", "sites kept"),
                *_with_interval("margin", "nats", "mean conflict margin with these kept alone"),
                *_with_interval("faithfulness", "", "(margin - margin with none kept) / (with all kept - with none)"),
                _f("cpr", "", "integral of faithfulness over the share kept (MIB); the same in every row of a split"),
                _f("cmd", "", "integral of |1 - faithfulness| over the share kept (MIB)"),
                _i("n", "pairs judged"),
            ),
            "story": (
                *_with_interval("override_mass", "nats", "minus the summed effect of sites that push to the lure"),
                *_with_interval("follow_mass", "nats", "the summed effect of sites that push to the answer"),
                *_with_interval(
                    "attention_share", "share", "how much of the override mass stands in heads", nullable=True
                ),
                *_with_interval("depth", "relative", "mean (layer + 1/2) / layers of the override mass", nullable=True),
                _i("n_override", "sites that push significantly towards the lure"),
                _i("n_follow", "sites that push significantly towards the answer"),
                _i("n_sites", "heads and MLPs of the model"),
                _f("accuracy", "share", "conflict accuracy, 0..1", nullable=True),
                _f("overridden", "share", "share of pairs right on plain, wrong on conflict", nullable=True),
                _f("onset", "relative", "mean depth at which the override sets in", nullable=True),
                _i("n", "pairs"),
            ),
            "onset": (
                _SIDE,
                *_with_interval(
                    "onset",
                    "relative",
                    "depth from which the conflict margin stays negative to the end although it was positive before",
                    nullable=True,
                ),
                _i("n_onset", "pairs that have an onset"),
                _i("n", "pairs"),
            ),
            "training": (
                _s("side", "conflict, plain or neutral; empty for the loss"),
                _i("step", "training steps done"),
                _i("tokens", "training tokens seen"),
                _s("measure", "accuracy (share of pairs, 0..1) or loss (nats a token, as weighted in training)"),
                _f("value", "share or nats", "the measure's value"),
            ),
            "stability": (
                _s("replacement_a", "one replacement, or half_a for one half of the pairs"),
                _s("replacement_b", "the other replacement, or half_b for the other half"),
                _f("spearman", "", "rank correlation of the sites' mean effects, -1..1", nullable=True),
            ),
            "observations": (
                _s("family", "models of one recipe; the model's own name where it is not known"),
                _s("revision", "branch, tag or training step of the weights; empty where there is one only"),
                _SIDE,
                _f("nominal_params", "", "parameters as the model's name says them", nullable=True),
                _f("tokens", "", "tokens seen in training", nullable=True),
                _f("flops", "", "operations of training: as given, or 6 x parameters x tokens", nullable=True),
                *_with_interval("accuracy", "share", "share of items answered rightly, 0..1"),
                _f("accuracy_se", "share", "standard error of accuracy over items", nullable=True),
                _i("n", "items", nullable=True),
                _f(
                    "baseline",
                    "share",
                    "accuracy of guessing, where classes are equally likely a priori",
                    nullable=True,
                ),
            ),
            "shapes": (
                _s("family", "models of one recipe"),
                _SIDE,
                _s("over", "what changes along the curve: parameters, tokens or FLOPs"),
                _s(
                    "held", "what is the same along it: a revision (over parameters and FLOPs) or a model (over tokens)"
                ),
                _i("n_sizes", "points on the curve"),
                _s("name", "inverse, positive, U, inverted U, flat or undecided"),
                _f("spearman", "", "rank correlation of size and accuracy, -1..1", nullable=True),
                _f("p", "", "two-sided p of spearman, exact up to nine points, 0..1", nullable=True),
                _f("q", "", "p after false-discovery control over all rows, 0..1", nullable=True),
                *_with_interval("change", "share", "largest less smallest size"),
                *_with_interval(
                    "slope", "share", "change per tenfold size, on the whole or up to the turn", nullable=True
                ),
                *_with_interval("slope_after", "share", "change per tenfold size after the turn", nullable=True),
                *_with_interval("turn", "", "the size at which the curve turns", nullable=True),
                _f("smallest_effect", "share", "trend over all sizes that shows with probability 0.8", nullable=True),
                _f("smallest_turn", "share", "depth of an even turn that shows with probability 0.8", nullable=True),
                _s("sentence", "all of it in words"),
            ),
            "regressions": (
                _s("family", "models of one recipe"),
                _SIDE,
                _s("term", "size, tokens or interaction"),
                *_with_interval("coefficient", "share", "change of accuracy per standard deviation of the predictor"),
                _f("beta", "", "the same in standard deviations of accuracy", nullable=True),
                _f("se", "share", "standard error of the coefficient, 0 or more", nullable=True),
                _f("t", "", "coefficient / se", nullable=True),
                _i("df", "degrees of freedom of the residual"),
                _f("p", "", "two-sided p of coefficient zero, 0..1", nullable=True),
                _f("q", "", "p after false-discovery control over the whole table, 0..1", nullable=True),
                _b("significant", "whether q is within the level"),
                _i("n", "observations: models, or models times checkpoints"),
            ),
            "flips": (
                _s("item", "id of the item or pair"),
                _SIDE,
                _s("model_from", "the next smaller model; model and n_params are those of the larger one"),
                _i("n_params_from", "parameters of the smaller model without embeddings"),
                _s("kind", "lost (right, then wrong), gained (the reverse), kept (right twice), missed (wrong twice)"),
                _f("margin_from", "nats", "margin at the smaller model: positive follows the prompt", nullable=True),
                _f("margin_to", "nats", "margin at the larger model: positive follows the prompt", nullable=True),
            ),
            "flip_steps": (
                _SIDE,
                _s("model_from", "the next smaller model; model and n_params are those of the larger one"),
                _i("n_params_from", "parameters of the smaller model without embeddings"),
                _i("lost", "items right at the smaller and wrong at the larger model"),
                _i("gained", "items wrong at the smaller and right at the larger model"),
                _i("kept", "items right at both"),
                _i("missed", "items wrong at both"),
                *_with_interval("change", "share", "(gained - lost) / items: what accuracy changes by"),
                _f("p", "", "two-sided exact p of as many lost as gained (McNemar), 0..1", nullable=True),
                _f("q", "", "p after false-discovery control over all steps, 0..1", nullable=True),
            ),
            "flip_traces": (
                _SIDE,
                _s("model_from", "the next smaller model; model and n_params are those of the larger one"),
                _i("n_params_from", "parameters of the smaller model without embeddings"),
                _s("feature", "what was measured on each item, with its model"),
                _s("unit", "unit of the two means"),
                _f("mean_lost", "", "mean over items that were lost in this step", nullable=True),
                _f("mean_kept", "", "mean over items that stayed right", nullable=True),
                *_with_interval(
                    "auc", "", "probability that a lost item has more of it than a kept one", nullable=True
                ),
                _f("p", "", "two-sided permutation p of auc one half, 0..1", nullable=True),
                _f("q", "", "p after false-discovery control over all steps and features, 0..1", nullable=True),
                _i("n_lost", "items lost"),
                _i("n_kept", "items kept"),
            ),
        }.items()
    }
)
