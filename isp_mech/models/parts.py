"""Which of a decoder's modules is what, found by what a short forward shows.

A block's sublayers are the two modules whose outputs, each times a factor, are what the block adds to the residual
stream, to 1e-4: so what a sublayer is said to write is what the stream gains, in whatever architecture. Where nothing
adds up, the reason is kept, and what would need it is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, product
from math import isnan
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from isp_mech.models.architecture import Block
from isp_mech.models.hooks import first_input, first_output


@dataclass
class Call:
    """One module's call in a forward: what it was given and what it gave, as (token, d)."""

    path: str
    module: nn.Module
    given: Tensor | None
    gave: Tensor


@dataclass
class Parts:
    """What was found: blocks, or why there are none; the final norm, or why there is no lens; why single heads and
    MLPs are not known; and what goes into the unembedding (token, d)."""

    blocks: list[Block] = field(default_factory=list)
    ln_final: nn.Module | None = None
    no_blocks: str = ""
    no_lens: str = ""
    no_sites: str = ""
    unembedded: Tensor | None = None


def find_parts(
    decoder: nn.Module,
    unembed: nn.Module,
    n_layers: int | None,
    run: Callable[[], object],
    *,
    said: Sequence[float] = (),
) -> Parts:
    """The parts of ``decoder``, as ``run``, a forward of a few tokens, shows them; ``said`` are factors by which its
    config may mean that sublayers' outputs are multiplied."""
    path, layers = blocks_of(decoder, n_layers)
    if layers is None:
        return Parts(no_blocks="no list of its blocks was found")
    watched = [_WatchedBlock(layer) for layer in layers]
    outside: list[Call] = []
    inside = {id(module) for layer in layers for module in layer.modules()}
    handles = [handle for block in watched for handle in block.watch()]
    final: list[Tensor] = []
    for name, module in decoder.named_modules():
        if id(module) not in inside and name and not path.startswith(name):
            handles.append(module.register_forward_hook(_keeping(name, outside), with_kwargs=True))
    handles.append(
        unembed.register_forward_pre_hook(lambda m, args, kwargs: final.append(_flat(args[0])), with_kwargs=True)
    )
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    parts = _parts(watched, outside, final[-1] if final else None, said)
    return replace(parts, unembedded=final[-1] if final else None)


def blocks_of(decoder: nn.Module, n_layers: int | None) -> tuple[str, nn.ModuleList | None]:
    """The path and the list of a decoder's blocks: the first list as long as its config says, or the longest."""
    lists = [(name, part) for name, part in decoder.named_modules() if isinstance(part, nn.ModuleList) and len(part)]
    fits = [one for one in lists if len(one[1]) == n_layers] or sorted(lists, key=lambda one: -len(one[1]))
    return fits[0] if fits else ("", None)


def _parts(
    watched: Sequence[_WatchedBlock], outside: Sequence[Call], final: Tensor | None, said: Sequence[float]
) -> Parts:
    if any(block.n_calls != 1 for block in watched):
        return Parts(no_blocks="its blocks do not run once each")
    if final is None or any(block.before is None or block.after is None for block in watched):
        return Parts(no_blocks="no residual stream goes through its blocks")
    streams = [(block.before, block.after) for block in watched]
    if any(x is None or len(x) != len(final) for both in streams for x in both):
        return Parts(no_blocks="its blocks do not have one residual stream")
    if any(not _same(a[1], b[0]) for a, b in zip(streams, streams[1:], strict=False)):
        return Parts(no_blocks="the residual stream is changed between its blocks")
    found = [block.sublayers for block in watched]
    blocks = _agreed([one.block for one in found], said)
    last = streams[-1][1]
    assert last is not None
    norm = next((call.module for call in outside if _same(call.given, last) and _same(call.gave, final)), None)
    no_lens = next((one.no_lens for one in found if one.no_lens), "")
    if not no_lens and norm is None:
        what = "no" if _same(last, final) else "more than a"
        no_lens = f"{what} norm stands before its unembedding"
    no_sites = next((one.no_sites for one in found if one.no_sites), "")
    return Parts(blocks, norm, no_lens=no_lens, no_sites=no_sites)


def _agreed(blocks: Sequence[Block], said: Sequence[float]) -> list[Block]:
    """The blocks with factors that all agree on: a number that the config has, where it is as near as rounding lets
    one tell. A layer that writes nothing has the others' factor."""
    exact = all(p.dtype == torch.float32 for p in blocks[0].block.parameters())
    near = 1e-4 if exact else 0.1

    def agreed(gains: Sequence[float]) -> list[float]:
        known = [gain for gain in gains if not isnan(gain)]
        middle = median(known) if known else 1.0
        if any(abs(gain - middle) > near * abs(middle) for gain in known):
            return [middle if isnan(gain) else gain for gain in gains]  # each layer has its own
        closest = min((1.0, *said), key=lambda number: abs(number - middle))
        is_said = abs(closest - middle) <= (1e-4 if exact else 2e-2) * abs(middle)
        return [closest if is_said else middle] * len(gains)

    pairs = zip(agreed([b.attn_gain for b in blocks]), agreed([b.mlp_gain for b in blocks]), strict=True)
    return [replace(block, attn_gain=a, mlp_gain=m) for block, (a, m) in zip(blocks, pairs, strict=True)]


@dataclass(frozen=True)
class _Sublayers:
    block: Block
    no_lens: str = ""
    no_sites: str = ""


class _WatchedBlock:
    """A block, and what its parts did in one forward; its sublayers are looked for as soon as it has run."""

    def __init__(self, block: nn.Module) -> None:
        self.block = block
        self.before: Tensor | None = None
        self.after: Tensor | None = None
        self.n_calls = 0
        self.calls: list[Call] = []
        self.sublayers = _Sublayers(Block(block, None, block, block))

    def watch(self) -> list[Any]:
        handles = [self.block.register_forward_pre_hook(self._enter, with_kwargs=True)]
        for name, module in self.block.named_modules():
            if name and not isinstance(module, nn.Dropout | nn.ModuleList):
                handles.append(module.register_forward_hook(_keeping(name, self.calls), with_kwargs=True))
        return [*handles, self.block.register_forward_hook(self._leave)]

    def _enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self.n_calls += 1
        self.calls.clear()
        x = first_input(args, kwargs)
        self.before = _flat(x) if isinstance(x, Tensor) else None

    def _leave(self, module: nn.Module, args: Any, out: Any) -> None:
        y = first_output(out)
        self.after = _flat(y) if isinstance(y, Tensor) else None
        if self.before is not None and self.after is not None and self.before.shape == self.after.shape:
            self.sublayers = _sublayers(self.block, self.before, self.after, self.calls)
        self.calls.clear()


def _sublayers(block: nn.Module, x: Tensor, y: Tensor, calls: Sequence[Call]) -> _Sublayers:
    wide = [call for call in calls if call.gave.shape == x.shape]
    own = [call for call in wide if "." not in call.path]
    writers = [call for call in own if not _is_norm(call.module)]
    attention = next((c for c in writers if "attention" in type(c.module).__name__.lower()), None)
    mixer = attention or (writers[0] if writers else None)
    if mixer is None:
        return _Sublayers(Block(block, None, block, block), *(2 * ["no attention is found in its blocks"]))
    attn_out = None if attention is None else _projection(attention, wide, x)
    why = "a block has no attention" if attention is None else "no output projection of its attention is found"
    no_sites = "" if attn_out is not None else f"{why} ({type(mixer.module).__name__})"
    others = [call for call in writers if call is not mixer and call.path != mixer.path]
    of_attention = [attn_out or mixer, *_norms_of(mixer, own)]
    of_mlps = [[mlp, *_norms_of(mlp, own), *_last_linear(mlp, wide)] for mlp in reversed(others)]
    projection = None if attn_out is None else attn_out.module
    for attn, mlp in product(of_attention, [call for of_mlp in of_mlps for call in of_mlp]):
        gains = fit(y - x, [attn.gave, mlp.gave], y)
        if gains is not None:
            return _Sublayers(Block(block, projection, attn.module, mlp.module, *gains), no_sites=no_sites)
    after = _norms_after(x, y, own, mixer, [call for of_mlp in of_mlps for call in of_mlp])
    if after is not None:
        why = "norms stand after its sublayers, so that the residual stream is no sum of what they write"
        return _Sublayers(Block(block, projection, projection or mixer.module, after.module), why, no_sites)
    names = _what_adds_up(x, y, own)
    expected = "expected attention and an MLP whose outputs, each times a factor, are what the block adds"
    reason = f"a block adds {names} to the residual stream: {expected}"
    return _Sublayers(Block(block, None, block, block), reason, reason)


def _what_adds_up(x: Tensor, y: Tensor, own: Sequence[Call]) -> str:
    for n in (1, 3, 4):
        for some in combinations(own, n):
            if len(own) <= 12 and fit(y - x, [call.gave for call in some], y) is not None:
                return " + ".join(type(call.module).__name__ for call in some)
    return "what no sum of its parts gives"


def _norms_after(x: Tensor, y: Tensor, own: Sequence[Call], attn: Call, mlps: Sequence[Call]) -> Call | None:
    """The MLP of a block that is norm(norm(x + attention) + MLP)."""
    norms = [call for call in own if _is_norm(call.module) and call.given is not None]
    for first, last in product(norms, norms):
        assert first.given is not None and last.given is not None
        if not _same(last.gave, y) or fit(first.given - x, [attn.gave], first.given) is None:
            continue
        for mlp in mlps:
            if fit(last.given - first.gave, [mlp.gave], last.given) is not None:
                return mlp
    return None


def _is_norm(module: nn.Module) -> bool:
    return all(parameter.dim() <= 1 for parameter in module.parameters())


def _norms_of(call: Call, own: Sequence[Call]) -> list[Call]:
    """Norms that are given what a module gave."""
    return [c for c in own if _is_norm(c.module) and c.given is not None and _same(c.given, call.gave)]


def _last_linear(call: Call, wide: Sequence[Call]) -> list[Call]:
    """The last matrix inside a module: what it writes where the module itself adds more (Bloom's adds the stream)."""
    return [c for c in wide if c.path.startswith(f"{call.path}.") and is_matrix(c.module)][-1:]


def _projection(attention: Call, wide: Sequence[Call], x: Tensor) -> Call | None:
    """Attention's output projection: its last matrix, whose output it gives or, in Bloom, adds to the stream."""
    for call in _last_linear(attention, wide):
        if _same(call.gave, attention.gave) or _same(call.gave + x, attention.gave):
            return call
    return None


def is_matrix(module: nn.Module) -> bool:
    """Whether a module multiplies with one matrix, as a linear layer or GPT-2's Conv1D does."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def fit(target: Tensor, parts: Sequence[Tensor], whole: Tensor) -> list[float] | None:
    """The factors with which ``parts`` sum to ``target``, NaN where a part is zero; None where they do not.

    The sum may be off by 1e-4 of the target, and by what rounding leaves of ``whole``, of which it is a difference.
    """
    exact = whole.dtype == torch.float32
    size = whole.double().norm(dim=-1).clamp(min=1e-30).cpu()
    scale = 1 / size[:, None]  # rounding is as large as the token's stream
    a = torch.stack([part.double().cpu() * scale for part in parts], -1)  # (token, d, part)
    b = target.double().cpu() * scale
    there = a.flatten(0, 1).norm(dim=0) > 1e-9
    factors = torch.full((len(parts),), torch.nan, dtype=torch.double)
    if bool(there.any()):
        known = a[..., there].flatten(0, 1)
        factors[there] = torch.linalg.lstsq(known, b.flatten()[:, None]).solution[:, 0]
    near_one = (factors - 1).abs() < (1e-4 if exact else 5e-3)
    factors[near_one] = 1.0
    left = (b - a @ factors.nan_to_num()).norm(dim=-1)
    allowed = (1e-4 if exact else 2e-2) * b.norm(dim=-1) + (2e-6 if exact else 1e-2)
    return [float(factor) for factor in factors] if bool((left <= allowed).all()) else None


def _keeping(name: str, into: list[Call]) -> Callable[..., None]:
    def hook(module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        gave = first_output(out)
        if not isinstance(gave, Tensor) or gave.dim() < 2 or not gave.is_floating_point():
            return
        given = next((x for x in (*args, *kwargs.values()) if isinstance(x, Tensor) and x.is_floating_point()), None)
        into.append(Call(name, module, None if given is None or given.dim() < 2 else _flat(given), _flat(gave)))

    return hook


def _flat(x: Tensor) -> Tensor:
    return x.detach().reshape(-1, x.shape[-1]).clone()


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    return a is not None and b is not None and a.shape == b.shape and bool((a == b).all())
