"""Sizes and parameter counts of the GPT-2 family, computed without creating tensors.

Source: Radford et al. 2019, table 2. Parameters are counted as in the journal: the output head is separate from the
token embedding; q, k and v have biases, but the head does not.
"""

import fnmatch
from dataclasses import dataclass

from core.errors import UserError

VOCABULARY = 50257
RANKS = (2, 4, 8, 16, 32, 64)
ATTENTION = ("attn.q", "attn.k", "attn.v", "attn.proj")
MLP = ("mlp.fc", "mlp.proj")
HEAD = "lm_head"
TARGET_GROUPS = {"all": "*", "attention": "h.*.attn.*", "mlp": "h.*.mlp.*"}
"""Groups of linear layers, as name patterns."""


@dataclass(frozen=True)
class Architecture:
    """Sizes of a GPT-2 model. `context` is the maximum sequence length in tokens."""

    n_layer: int
    n_head: int
    n_embd: int
    context: int = 1024
    vocabulary: int = VOCABULARY

    @property
    def head_dim(self) -> int:
        return self.n_embd // self.n_head

    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """Return the number of inputs and outputs of each linear layer, by name."""
        d = self.n_embd
        block = dict.fromkeys(ATTENTION, (d, d))
        block |= {"mlp.fc": (d, 4 * d), "mlp.proj": (4 * d, d)}
        shapes = {f"h.{i}.{name}": s for i in range(self.n_layer) for name, s in block.items()}
        return {**shapes, HEAD: (d, self.vocabulary)}

    def parameters(self, tied: bool = False) -> int:
        """Return the number of parameters. With `tied`, the head shares the token embedding and adds none."""
        d, v = self.n_embd, self.vocabulary
        # The head has no bias.
        linear = sum(i * o + o for i, o in self.linear_shapes().values()) - v
        norms = (2 * self.n_layer + 1) * 2 * d
        embeddings = v * d + self.context * d
        return linear + norms + embeddings - (v * d if tied else 0)

    def trained_layers(self, trained_weights: str, last_layers: int) -> int:
        """Return the number of transformer blocks that full fine-tuning trains. See `RunConfig.trained_weights`."""
        part = {"last_layers": min(last_layers, self.n_layer), "head": 0}
        return part.get(trained_weights, self.n_layer)

    def block_parameters(self, matrices_only: bool = False) -> int:
        """Return the number of weights in a transformer block, or only in its matrices."""
        d = self.n_embd
        matrices = 12 * d * d  # four in attention, (d, 4d) and (4d, d)
        return matrices if matrices_only else matrices + 13 * d  # 9d in biases, 4d in norms

    def trained_parameters(self, trained_weights: str, last_layers: int, tied: bool = False) -> int:
        """Return the number of weights that full fine-tuning trains.

        Args:
            trained_weights: `all`, `last_layers`, `head` or `no_embeddings`; see `RunConfig`.
            last_layers: number of blocks to train with `last_layers`.
        """
        if trained_weights == "head":
            return self.vocabulary * self.n_embd
        if trained_weights == "last_layers":
            return self.trained_layers(trained_weights, last_layers) * self.block_parameters()
        embeddings = (self.vocabulary + self.context) * self.n_embd
        return self.parameters(tied) - (embeddings if trained_weights == "no_embeddings" else 0)

    def lora_targets(self, targets: str = "all", last_layers: int | None = None) -> list[str]:
        """Return the names of the linear layers that receive adapters, in model order.

        Args:
            targets: comma-separated list of `all` (including the head), `attention`, `mlp` and `fnmatch` patterns, such
                as `h.*.attn.q`.
            last_layers: number of blocks to adapt, counted from the last; None adapts all. The head counts as part of
                the last block.

        Raises:
            UserError: a pattern matches no layer.
        """
        first_layer = 0 if last_layers is None else max(0, self.n_layer - last_layers)
        excluded = tuple(f"h.{i}." for i in range(first_layer))
        names = [name for name in self.linear_shapes() if not name.startswith(excluded)]
        matches: set[str] = set()
        for word in (word.strip() for word in targets.split(",")):
            matched = fnmatch.filter(names, TARGET_GROUPS.get(word, word))
            if not matched:
                message = f"{word!r} matches no linear layer"
                if last_layers is not None:
                    message += f" in the last {last_layers} block{'s' if last_layers > 1 else ''} or the head"
                raise UserError(
                    f"lora_targets = {targets!r}: {message}; use all, attention, mlp, or names such as "
                    f"{names[0]}, h.*.mlp.fc and {HEAD}"
                )
            matches.update(matched)
        return [name for name in names if name in matches]

    def lora_parameters(
        self, rank: int, targets: str = "all", last_layers: int | None = None, dora: bool = False
    ) -> int:
        """Return the number of adapter weights: rank x (inputs + outputs), summed over the adapted layers.

        DoRA adds one weight per output. Raises UserError; see `lora_targets`.
        """
        shapes = self.linear_shapes()
        adapted = [shapes[name] for name in self.lora_targets(targets, last_layers)]
        return sum(rank * (i + o) + (o if dora else 0) for i, o in adapted)


FAMILY = {
    "gpt2-nano": Architecture(n_layer=4, n_head=4, n_embd=128, context=256),
    "gpt2": Architecture(n_layer=12, n_head=12, n_embd=768),
    "gpt2-medium": Architecture(n_layer=24, n_head=16, n_embd=1024),
    "gpt2-large": Architecture(n_layer=36, n_head=20, n_embd=1280),
    "gpt2-xl": Architecture(n_layer=48, n_head=25, n_embd=1600),
}
