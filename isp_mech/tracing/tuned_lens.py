"""Lenses that read the stream better than as it is: trained for a model, or read from a file.

A tuned lens (Belrose et al. 2023, arXiv 2303.08112) is an affine map for every sublayer, which takes the
stream there to what the last sublayer will make of it. It begins at the identity, the plain lens, and is
trained by the divergence from the model's own final distribution, on the model's own forwards.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from isp_mech.errors import InputError
from isp_mech.inference.batches import make_batch
from isp_mech.inference.contrast_prompts import residual_stream
from isp_mech.inference.prefix_tree import PrefixTree
from isp_mech.inference.progress import counted
from isp_mech.inference.tokenization import encode_prompts
from isp_mech.models import Model, RecordSpec, TokenPlaces, read_jacobians

HELD_OUT = 0.1  # share of the texts that the lens is judged on, and not trained on
LONGEST = 512  # tokens of a text that are used
RATE, MOMENTUM, DECAY = 1.0, 0.9, 1e-3  # as in the tuned lens's own code


@dataclass(frozen=True, eq=False)
class Lens:
    """What the stream after a sublayer is read as: ``matrix @ x + bias`` in place of ``x``.

    ``sublayers`` counts as the table ``lens`` does: 0 is the embedding, 2 l + 1 layer l's attention, 2 l + 2
    its MLP; the last one is never among them, being read as it is. ``kl`` and ``kl_plain`` are, per
    sublayer, how far (nats per token, 0 or more) the reading is from the model's own distribution on held-out
    tokens, with this lens and with the plain one; empty where unknown. ``model`` is "" where any may use it.
    """

    model: str
    kind: str
    sublayers: tuple[int, ...]
    matrices: Float[Tensor, "sublayer d_model d_model"]
    biases: Float[Tensor, "sublayer d_model"]
    kl: tuple[float, ...] = ()
    kl_plain: tuple[float, ...] = ()

    def __repr__(self) -> str:
        return f"Lens({self.kind}, {self.model or 'any model'!r}, {len(self.sublayers)} sublayers)"

    def __call__(self, sublayer: int, x: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_model"]:
        i = self.sublayers.index(sublayer)
        return x.float() @ self.matrices[i].T.to(x.device) + self.biases[i].to(x.device)

    def save(self, path: str | Path) -> Path:
        """Writes one safetensors file, which ``load_lens`` reads."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        facts = {name: getattr(self, name) for name in ("model", "kind", "sublayers", "kl", "kl_plain")}
        tensors = {"matrices": self.matrices.cpu().contiguous(), "biases": self.biases.cpu().contiguous()}
        save_file(tensors, target, metadata={"isp_mech.lens": json.dumps(facts)})
        return target


def load_lens(path: str | Path) -> Lens:
    """The lens saved at ``path``: one of ours (.safetensors), or a Jacobian lens in a file that TransformerLens
    reads, which has a map after every block but the last. ``InputError`` for a file that is neither."""
    if not Path(path).is_file():
        raise InputError(str(path), ["no such file"])
    if Path(path).suffix != ".safetensors":
        maps = sorted(read_jacobians(path).items())
        matrices = torch.stack([matrix.float() for _, matrix in maps])
        return Lens(
            "", "jacobian", tuple(2 * block + 2 for block, _ in maps), matrices, torch.zeros(matrices.shape[:2])
        )
    try:
        with safe_open(str(path), "pt") as file:
            facts = json.loads((file.metadata() or {})["isp_mech.lens"])
            tensors = {name: file.get_tensor(name) for name in ("matrices", "biases")}
        model, kind, *lists = (facts[name] for name in ("model", "kind", "sublayers", "kl", "kl_plain"))
        sublayers, kl, kl_plain = map(tuple, lists)
        return Lens(model, kind, sublayers, tensors["matrices"], tensors["biases"], kl, kl_plain)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(str(path), [f"no lens of isp_mech: {str(error).splitlines()[0]}"]) from None


def lens_of(lenses: Lens | Sequence[Lens] | None, model: Model) -> Lens | None:
    """The one of ``lenses`` that is for ``model``; ``InputError`` where none or several are, or none fits it."""
    if lenses is None:
        return None
    given = [lenses] if isinstance(lenses, Lens) else list(lenses)
    found = [lens for lens in given if lens.model in ("", model.name)]
    if len(found) != 1:
        names = ", ".join(lens.model or "any model" for lens in given) or "none"
        raise InputError("lens", [f"expected one for {model.name}, found {len(found)} among those given ({names})"])
    lens, last = found[0], 2 * model.architecture.n_layers
    width = lens.matrices.shape[-1]
    if width != model.architecture.d_model or not all(0 <= i < last for i in lens.sublayers):
        raise InputError(
            "lens",
            [
                f"made for a stream of {width} dimensions and at least {max(lens.sublayers)} sublayers, expected "
                f"{model.architecture.d_model} and fewer than {last}: it belongs to another model than {model.name}"
            ],
        )
    return lens


def train_lens(
    model: Model,
    texts: Sequence[str],
    *,
    steps: int = 250,
    tokens: int = 256,
    seed: int = 0,
    progress: bool = False,
) -> Lens:
    """A tuned lens of the model: one affine map for every sublayer but the last.

    ``texts`` should be like those it will read; the last tenth of them (at least one) is held out, and the
    divergence there, in nats, is told in ``kl``, beside the plain lens's in ``kl_plain``. Each of ``steps``
    takes ``tokens`` tokens, drawn from ``seed``. Raises ``InputError`` for fewer than two texts of two tokens.
    """
    if steps < 1 or tokens < 1:
        raise InputError("train_lens", [f"steps {steps}, tokens {tokens}: expected at least one of each"])
    longest = min(LONGEST, model.max_tokens or LONGEST)
    subject, names = f"train_lens, {model.name}", [f"text {i}" for i in range(len(texts))]
    read = [e.ids[:longest] for e in encode_prompts(model, texts, names, subject)]
    unfit = [f"{name}: {problem}" for name, ids in zip(names, read, strict=True) if (problem := model.unfit(ids))]
    if unfit:
        raise InputError(subject, unfit)
    encoded = [ids for ids in read if len(ids) > 1]
    if len(encoded) < 2:
        raise InputError("train_lens", [f"{len(encoded)} texts of two tokens or more: expected at least two"])
    held_out = max(1, int(HELD_OUT * len(encoded)))
    train, judge = encoded[:-held_out], encoded[-held_out:]
    shape, norm = model.architecture, model.architecture.norm()
    count = 2 * shape.n_layers
    matrices = [torch.eye(shape.d_model, device=model.device).requires_grad_() for _ in range(count)]
    biases = [torch.zeros(shape.d_model, device=model.device).requires_grad_() for _ in range(count)]
    optimiser = torch.optim.SGD([*matrices, *biases], lr=RATE, momentum=MOMENTUM, nesterov=True)
    rng = np.random.default_rng(seed)
    for step in counted(range(steps), f"{model.name}: lens", steps, "step", shown=progress):
        streams, wanted = _streams(model, train, tokens, rng)
        for group in optimiser.param_groups:
            group["lr"] = RATE * (1 - step / steps)
        for matrix, bias, stream in zip(matrices, biases, streams, strict=False):
            _divergence(model, norm(stream @ matrix.T + bias), wanted).backward(inputs=[matrix, bias])
            with torch.no_grad():  # decay is towards the plain lens
                assert matrix.grad is not None and bias.grad is not None
                matrix.grad += DECAY * (matrix - torch.eye(shape.d_model, device=model.device))
                bias.grad += DECAY * bias
            clip_grad_norm_([matrix, bias], 1.0)
        optimiser.step()
        optimiser.zero_grad()
    lens = Lens(
        model.name,
        "tuned",
        tuple(range(count)),
        torch.stack([m.detach() for m in matrices]),
        torch.stack([b.detach() for b in biases]),
    )
    streams, wanted = _streams(model, judge, 4 * tokens, rng)
    with torch.no_grad():
        tuned = [float(_divergence(model, norm(lens(i, streams[i])), wanted)) for i in range(count)]
        plain = [float(_divergence(model, norm(streams[i]), wanted)) for i in range(count)]
    return Lens(lens.model, lens.kind, lens.sublayers, lens.matrices, lens.biases, tuple(tuned), tuple(plain))


def _streams(
    model: Model, texts: Sequence[Sequence[int]], tokens: int, rng: np.random.Generator
) -> tuple[list[Float[Tensor, "n d_model"]], Float[Tensor, "n vocab"]]:
    """The stream after every sublayer at up to ``tokens`` tokens of texts drawn at random, and the model's own
    log-probabilities there."""
    trees: list[PrefixTree] = []
    for i in rng.permutation(len(texts)).tolist():
        if sum(map(len, trees)) >= tokens:
            break
        trees.append(PrefixTree())
        trees[-1].extend(texts[i])
    places = np.array([(row, node) for row, tree in enumerate(trees) for node in range(len(tree))])
    places = places[np.sort(rng.permutation(len(places))[:tokens])]
    rows, nodes = _ints(places[:, 0], model), _ints(places[:, 1], model)
    forward = model.forward(make_batch(trees), at=TokenPlaces(rows, nodes), record=RecordSpec(rows, nodes))
    normed, record = forward.hidden, forward.record
    with torch.no_grad():
        return [x.float() for x in residual_stream(record)], model.unembed(normed).log_softmax(-1)


def _ints(values: np.ndarray, model: Model) -> Int[Tensor, " n"]:
    return torch.from_numpy(values.astype(np.int64)).to(model.device)


def _divergence(model: Model, normed: Float[Tensor, "n d_model"], wanted: Float[Tensor, "n vocab"]) -> Tensor:
    """Mean over tokens of KL(the model's own distribution, the one read), nats."""
    found = model.unembed(normed).log_softmax(-1)
    return (wanted.exp() * (wanted - found)).sum(-1).mean()
