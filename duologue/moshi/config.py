"""Shape of a Moshi-family language model, in the published JSON layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from duologue.configuration import ConfigError, parse_config
from duologue.nn.norm import NORMS
from duologue.nn.transformer import TransformerConfig

ZERO_TOKEN = -1
"""Embeds to exactly zero; as a target it is left out of the loss."""
UNGENERATED = -2
"""Marks a token that is not there yet; never reaches an embedding."""
END_OF_PADDING = 0
"""Text token of the frame before a word starts (EPAD)."""


@dataclass(frozen=True)
class LMConfig:
    """A language model over 1 text stream and `n_q` audio streams.

    Row 0 of a token column is text, rows 1..dep_q are audio the model generates, the others audio
    it is given. Field names are the published ones.
    """

    dim: int
    num_heads: int
    num_layers: int
    n_q: int
    dep_q: int
    delays: tuple[int, ...]
    card: int = 2048
    text_card: int = 32_000
    text_card_out: int | None = None
    existing_text_padding_id: int = 3
    hidden_scale: float = 4.125
    context: int = 3000
    max_period: float = 10_000.0
    gating: str = "silu"
    norm: str = "rms_norm_f32"
    positional_embedding: str = "rope"
    layer_scale: float | None = None
    kv_repeat: int = 1
    cross_attention: bool = False
    demux_second_stream: bool = False
    depformer_dim: int = 1024
    depformer_num_heads: int = 16
    depformer_num_layers: int = 6
    depformer_dim_feedforward: int | None = None
    depformer_gating: str | None = None
    depformer_multi_linear: bool = True
    depformer_weights_per_step: bool = True
    depformer_weights_per_step_schedule: tuple[int, ...] | None = None
    depformer_low_rank_embeddings: int | None = None
    depformer_norm: str | None = None
    depformer_kv_repeat: int = 1
    extra_heads_num_heads: int = 0
    extra_heads_dim: int = 6
    rag_token_id: int | None = None
    heard_dim: int | None = None
    """Numbers a frame in which a recogniser tells of the user, beside the codes (ours)."""

    _fixed: ClassVar[dict[str, Any]] = {
        "causal": True,
        "depformer_pos_emb": "none",
        "depformer_layer_scale": None,
        "norm_emb": False,
        "bias_proj": False,
    }
    # Accepted everywhere, without effect on the published models.
    _inert: ClassVar[tuple[str, ...]] = (
        "depformer_causal",
        "depformer_context",
        "depformer_max_period",
    )

    def __post_init__(self) -> None:
        if not 0 <= self.dep_q <= self.n_q:
            raise ConfigError(f"dep_q: {self.dep_q} is not between 0 and n_q {self.n_q}")
        if len(self.delays) != 1 + self.n_q:
            raise ConfigError(
                f"delays: {len(self.delays)} entries, expected {1 + self.n_q} (text and n_q)"
            )
        if min(self.delays) < 0:
            raise ConfigError("delays: must not be negative")
        if self.heard_dim is not None and self.heard_dim < 1:
            raise ConfigError(f"heard_dim: {self.heard_dim} is not positive")
        if not 0 <= self.existing_text_padding_id < self.text_card:
            raise ConfigError("existing_text_padding_id: not a text token")
        schedule = self.depformer_weights_per_step_schedule
        if schedule is not None and len(schedule) != self.dep_q:
            raise ConfigError(
                f"depformer_weights_per_step_schedule: {len(schedule)} entries for dep_q "
                f"{self.dep_q}"
            )
        if self.depformer_kv_repeat != 1:
            raise ConfigError("depformer_kv_repeat: only 1 is supported")
        if self.depformer_norm is not None and self.depformer_norm not in NORMS:
            raise ConfigError(
                f"depformer_norm: {self.depformer_norm!r} is none of {', '.join(NORMS)}"
            )
        try:
            self.temporal  # noqa: B018 - building it checks it
            if self.dep_q:
                self.depth  # noqa: B018
        except ValueError as error:
            raise ConfigError(str(error)) from error

    @property
    def max_delay(self) -> int:
        return max(self.delays)

    @property
    def given_q(self) -> int:
        """Audio streams that come from outside."""
        return self.n_q - self.dep_q

    @property
    def text_initial(self) -> int:
        """Text token of the first column."""
        return self.text_card

    @property
    def audio_initial(self) -> int:
        """Audio token fed before a stream has content."""
        return self.card

    @property
    def text_classes(self) -> int:
        """Classes of the text head."""
        return self.text_card if self.text_card_out is None else self.text_card_out

    @property
    def depth_schedule(self) -> tuple[int, ...]:
        """Weight set of each depth step."""
        if self.depformer_weights_per_step_schedule is not None:
            return self.depformer_weights_per_step_schedule
        per_step = self.depformer_weights_per_step
        return tuple(range(self.dep_q)) if per_step else (0,) * self.dep_q

    @property
    def depth_input_schedule(self) -> tuple[int, ...]:
        """Index of the map from the temporal to the depth stack for each depth step."""
        return self.depth_schedule if self.depformer_multi_linear else (0,) * self.dep_q

    @property
    def temporal(self) -> TransformerConfig:
        """Shape of the temporal stack."""
        return TransformerConfig(
            dim=self.dim,
            num_heads=self.num_heads,
            num_layers=self.num_layers,
            feedforward=int(self.hidden_scale * self.dim),
            context=self.context,
            gating=self.gating,
            norm=self.norm,
            max_period=self.max_period,
            positional_embedding=self.positional_embedding,
            layer_scale=self.layer_scale,
            kv_repeat=self.kv_repeat,
            cross_attention=self.cross_attention,
        )

    @property
    def depth(self) -> TransformerConfig:
        """Shape of the depth stack."""
        feedforward = self.depformer_dim_feedforward
        return TransformerConfig(
            dim=self.depformer_dim,
            num_heads=self.depformer_num_heads,
            num_layers=self.depformer_num_layers,
            feedforward=feedforward or int(self.hidden_scale * self.depformer_dim),
            context=max(self.dep_q, 1),
            gating=self.depformer_gating or self.gating,
            norm=self.norm,
            positional_embedding="none",
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LMConfig:
        """Read the published keys; an unknown or unsupported entry is an error naming it."""
        renamed = {"demux_second_text_stream": "demux_second_stream"}
        ours = {renamed.get(name, name): value for name, value in values.items()}
        return parse_config(cls, ours, fixed=cls._fixed, inert=cls._inert)

    def to_dict(self) -> dict[str, Any]:
        """The published keys; those that older loaders do not know only where they matter."""
        values = asdict(self)
        for optional in (
            "rag_token_id", "heard_dim", "depformer_low_rank_embeddings", "depformer_norm",
        ):  # fmt: skip
            if values[optional] is None:
                del values[optional]
        if not self.extra_heads_num_heads:
            del values["extra_heads_num_heads"], values["extra_heads_dim"]
        if values["depformer_gating"] is None:
            values["depformer_gating"] = self.gating
        values["causal"] = True
        values["depformer_pos_emb"] = "none"
        values["delays"] = list(self.delays)
        return values


MOSHI_7B = LMConfig(
    dim=4096,
    num_heads=32,
    num_layers=32,
    n_q=16,
    dep_q=8,
    delays=(0, 0, 1, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1),
    depformer_dim_feedforward=4224,
)
"""moshiko and moshika; what a repository without a config.json holds."""
