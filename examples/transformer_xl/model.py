"""Transformer-XL (Dai et al. 2019, https://arxiv.org/abs/1901.02860) in plain PyTorch, over bytes.

Segments are read one after the other; what each layer computed for the last `memory` positions is kept and attended to
by the next segment, without gradients (section 3.2). Positions are relative (section 3.3): without that, the same
position number would mean another place in each segment. Names follow the paper: ``u`` and ``v`` are its two
trainable biases.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

BYTES = 256
Memory = list[Tensor]
"""For each layer what it was given for the positions before: batch x positions x width."""


@dataclass(frozen=True)
class Config:
    """Shape of a model.

    Attributes:
        layers: how many.
        width: of the hidden states.
        heads: of attention; divides `width`.
        inner: width of the feed-forward part.
        segment: bytes read at once.
        memory: positions before them that are remembered; 0 for none.
    """

    layers: int = 4
    width: int = 128
    heads: int = 4
    inner: int = 512
    segment: int = 64
    memory: int = 128


def sinusoids(distances: Tensor, width: int) -> Tensor:
    """Return the encoding R of each distance: distances x width (Vaswani et al. 2017, without the positions' limit)."""
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    angles = distances[:, None].float() * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class RelativeAttention(nn.Module):
    """Attention over memory and segment, with relative positions (equations of section 3.3)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.width
        self.heads, self.size = config.heads, width // config.heads
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)  # W_k,E of the paper: by content
        self.value = nn.Linear(width, width, bias=False)
        self.position = nn.Linear(width, width, bias=False)  # W_k,R: by distance
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, states: Tensor, memory: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Return what attention adds to `states`: batch x segment x width.

        Args:
            states: batch x segment x width.
            memory: batch x remembered x width; no gradient goes into it.
            u: heads x size, the query's share that asks for content wherever it is.
            v: heads x size, its share that asks for a distance whatever is there.
        """
        context = torch.cat([memory.detach(), states], dim=1)
        length, total = states.shape[1], context.shape[1]
        before = total - length
        query = self._split(self.query(states))
        key, value = self._split(self.key(context)), self._split(self.value(context))
        # One vector for each distance there can be, not for each pair: the trick of the paper's appendix B.
        distances = torch.arange(total, device=states.device)
        encoded = self.position(sinusoids(distances, states.shape[2]).to(states))
        encoded = encoded.view(total, self.heads, self.size).transpose(0, 1)
        content = (query + u[:, None]) @ key.transpose(2, 3)
        by_distance = (query + v[:, None]) @ encoded.transpose(1, 2)
        apart = (
            before + torch.arange(length)[:, None] - torch.arange(total)[None]
        )  # i - j; below 0 is the future
        apart = apart.to(states.device)
        position = by_distance.gather(3, apart.clamp(min=0).expand_as(content))
        scores = (content + position) / math.sqrt(self.size)
        weights = scores.masked_fill(apart < 0, -math.inf).softmax(dim=3)
        mixed = (weights @ value).transpose(1, 2).flatten(2)
        added: Tensor = self.out(mixed)
        return added

    def _split(self, states: Tensor) -> Tensor:
        """Return batch x heads x positions x size."""
        return states.unflatten(2, (self.heads, self.size)).transpose(1, 2)


class Layer(nn.Module):
    """Attention and a feed-forward part, each added to its input and normalised after that, as in the paper."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention = RelativeAttention(config)
        self.feed = nn.Sequential(
            nn.Linear(config.width, config.inner), nn.ReLU(), nn.Linear(config.inner, config.width)
        )
        self.norms = nn.ModuleList([nn.LayerNorm(config.width), nn.LayerNorm(config.width)])

    def forward(self, states: Tensor, memory: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Return the next layer's input."""
        states = self.norms[0](states + self.attention(states, memory, u, v))
        result: Tensor = self.norms[1](states + self.feed(states))
        return result


class TransformerXL(nn.Module):
    """The model: bytes in, scores of the next byte out."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(BYTES, config.width)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        size = config.width // config.heads
        self.u = nn.Parameter(torch.zeros(config.heads, size))
        self.v = nn.Parameter(torch.zeros(config.heads, size))
        nn.init.normal_(self.embedding.weight, std=0.02)

    def no_memory(self, batch: int = 1) -> Memory:
        """Return the memory before the first segment."""
        empty = self.embedding.weight.new_zeros(batch, 0, self.config.width)
        return [empty for _ in self.layers]

    def forward(self, tokens: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """Read one segment.

        Args:
            tokens: batch x segment, of any length.
            memory: what the call for the segment before returned, or `no_memory`.

        Returns:
            Scores of the byte after each one (batch x segment x 256), and the memory for the next segment.
        """
        states = self.embedding(tokens) * math.sqrt(self.config.width)
        kept = []
        for layer, remembered in zip(self.layers, memory, strict=True):
            kept.append(self._keep(remembered, states))
            states = layer(states, remembered, self.u, self.v)
        return states @ self.embedding.weight.T, kept

    def _keep(self, remembered: Tensor, states: Tensor) -> Tensor:
        together = torch.cat([remembered, states.detach()], dim=1)
        return together[:, max(0, together.shape[1] - self.config.memory) :]

    @torch.inference_mode()
    def generate(
        self, prompt: Sequence[int], count: int, temperature: float = 1.0, seed: int | None = None
    ) -> Iterator[int]:
        """Yield `count` bytes that follow `prompt`; temperature 0 takes the likeliest each time.

        The prompt is read in segments, each with the memory of the one before: its length has no limit, and neither
        memory nor time per byte grow with it.
        """
        random = torch.Generator()
        random.manual_seed(seed) if seed is not None else random.seed()
        memory = self.no_memory()
        tokens = torch.tensor([list(prompt) or [0]])
        for part in tokens.split(self.config.segment, dim=1):
            scores, memory = self(part, memory)
        for _ in range(count):
            last = scores[0, -1]
            if temperature > 0:
                token = int(torch.multinomial((last / temperature).softmax(0), 1, generator=random))
            else:
                token = int(last.argmax())
            yield token
            scores, memory = self(torch.tensor([[token]]), memory)

    def loss(self, tokens: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """Return the mean cross-entropy in nats of each byte of a segment from those before it, and the memory."""
        scores, memory = self(tokens[:, :-1], memory)
        return functional.cross_entropy(scores.flatten(0, 1), tokens[:, 1:].flatten()), memory

    def save(self, directory: Path) -> None:
        """Write ``config.json`` and ``model.pt`` into `directory`."""
        directory.mkdir(parents=True, exist_ok=True)
        torch.save(self.state_dict(), directory / "model.pt")
        (directory / "config.json").write_text(json.dumps(asdict(self.config), indent=1))

    @classmethod
    def load(cls, directory: Path) -> TransformerXL:
        """Return the model of a directory that `save` wrote."""
        model = cls(Config(**json.loads((directory / "config.json").read_text())))
        model.load_state_dict(torch.load(directory / "model.pt", weights_only=True))
        return model.eval()
