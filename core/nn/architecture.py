"""Sizes and parameter counts of the GPT-2 family, computed without creating tensors.

Source: Radford et al. 2019, table 2. Parameters are counted as in the journal: the output head is separate from the
token embedding; q, k and v have biases, but the head does not.
"""

from dataclasses import dataclass

VOCABULARY = 50257
RANKS = (2, 4, 8, 16, 32, 64)
ATTENTION = ("attn.q", "attn.k", "attn.v", "attn.proj")
MLP = ("mlp.fc", "mlp.proj")
HEAD = "lm_head"


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
        """Return the number of inputs and outputs of each linear layer, by its name in the model."""
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

    def lora_targets(self, targets: str = "all", last_layers: int | None = None) -> list[str]:
        """Return the names of the linear layers that receive adapters.

        Args:
            targets: `all` (including the head), `attention` or `mlp`.
            last_layers: number of blocks to adapt, counted from the last; None adapts all.
        """
        kinds = {"all": ATTENTION + MLP, "attention": ATTENTION, "mlp": MLP}[targets]
        first_layer = 0 if last_layers is None else max(0, self.n_layer - last_layers)
        names = [f"h.{i}.{kind}" for i in range(first_layer, self.n_layer) for kind in kinds]
        return [*names, HEAD] if targets == "all" else names

    def lora_parameters(
        self, rank: int, targets: str = "all", last_layers: int | None = None
    ) -> int:
        """Return the number of adapter weights: rank x (inputs + outputs), summed over the adapted layers."""
        shapes = self.linear_shapes()
        return rank * sum(sum(shapes[name]) for name in self.lora_targets(targets, last_layers))


FAMILY = {
    "gpt2-nano": Architecture(n_layer=4, n_head=4, n_embd=128, context=256),
    "gpt2": Architecture(n_layer=12, n_head=12, n_embd=768),
    "gpt2-medium": Architecture(n_layer=24, n_head=16, n_embd=1024),
    "gpt2-large": Architecture(n_layer=36, n_head=20, n_embd=1280),
    "gpt2-xl": Architecture(n_layer=48, n_head=25, n_embd=1600),
}
