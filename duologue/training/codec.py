"""The codec task: Mimi from nothing.

One step: encode, quantise (with dropout of levels and of the quantiser), decode; spectral,
waveform and, later on, adversarial losses meet at the decoded signal, where they are balanced;
commitment and the phone targets of the first codebook are added; codebooks follow their running
averages. Source of the recipe: Moshi paper (arXiv 2410.00037) section 3.3.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from duologue.checkpoints.save import save_codec
from duologue.mimi.codec import Mimi
from duologue.mimi.config import MimiConfig
from duologue.mimi.seanet import ResidualUnit
from duologue.nn.conv import CausalConv1d, CausalConvTranspose1d
from duologue.training import metrics
from duologue.training.checkpoint import TrainingStateError, below, copy_into, plain, under
from duologue.training.codec_losses import (
    EnvelopeLoss,
    LossBalancer,
    MelLoss,
    SpectralConfig,
    STFTLoss,
    waveform_loss,
)
from duologue.training.compiling import compiled
from duologue.training.data import (
    Batch,
    DataConfig,
    Recording,
    SegmentSampler,
    batches,
    fingerprint,
    split_recordings,
    to_float,
)
from duologue.training.discriminator import (
    DiscriminatorConfig,
    Judgement,
    MultiScaleDiscriminator,
    deception_loss,
    feature_loss,
    hinge_loss,
)
from duologue.training.encoded import weights_fingerprint
from duologue.training.exactness import full_precision, keep_exact
from duologue.training.optim import OptimizerConfig, WeightAverage, build_optimizer, set_lr
from duologue.training.phones import PhoneSet
from duologue.training.quantization import (
    Quantized,
    QuantizerTrainer,
    QuantizerTrainingConfig,
)
from duologue.training.reports import save_comparison
from duologue.training.trainer import RunConfig

logger = logging.getLogger(__name__)

_LENGTH, _DIRECTION = ".parametrizations.weight.original0", ".parametrizations.weight.original1"
"""What weight norm makes of a module's `weight`."""
_ELU_GAIN = 1.25
"""An ELU takes a normal variable's root mean square from 1 to 0.8."""
_RESIDUAL_GAIN = 0.5
_BIAS = 0.1
_OUTPUT_GAIN = 0.1
"""Speech is quieter than what is inside the network."""


@dataclass(frozen=True)
class LossConfig:
    """Shares of the gradient at the decoded signal (see `LossBalancer`), and the added losses."""

    mel: float = 2.0
    stft: float = 1.0
    waveform: float = 0.3
    adversarial: float = 1.0
    feature: float = 1.0
    semantic: float = 0.1
    """Weight of the phone cross-entropy, beside balanced losses that amount to one together."""
    commitment: float = 0.1
    envelope: float = 0.0
    """Weight of `EnvelopeLoss` at the decoder's transformer."""
    spectral: SpectralConfig = field(default_factory=SpectralConfig)


@dataclass(frozen=True)
class AdversaryConfig:
    """The adversary and when it takes part."""

    start_step: int = 20_000
    warmup_steps: int = 1000
    """The adversary learns alone for so long before the codec listens to it."""
    every: int = 1
    """The adversary takes a step every so many steps."""
    crop_s: float = 0.0
    """The adversary sees a random piece this long of each segment; 0 is all of it."""
    shape: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(lr=3e-4, betas=(0.5, 0.9), weight_decay=0.0)
    )


@dataclass(frozen=True)
class SemanticConfig:
    """Phone targets of the first codebook."""

    parts_per_frame: int = 2
    """Each frame is described in so many parts, so that the order inside it counts."""
    delay_s: float = 0.0
    """How far the phones lag behind the sound: the encoder cannot know how one that has just begun
    goes on."""
    phones: tuple[str, ...] = ()
    """The phones that count; all of the data's when empty. Silence is always one."""


@dataclass(frozen=True)
class EvaluationConfig:
    """What a run is judged by while it goes on."""

    recordings: int = 24
    longest_s: float = 6.0
    samples: int = 3


@dataclass(frozen=True)
class CodecTrainingConfig:
    """Everything about a codec's training but the data's place."""

    codec: MimiConfig
    run: RunConfig = field(default_factory=RunConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    quantizer: QuantizerTrainingConfig = field(default_factory=QuantizerTrainingConfig)
    losses: LossConfig = field(default_factory=LossConfig)
    adversary: AdversaryConfig = field(default_factory=AdversaryConfig)
    semantic: SemanticConfig = field(default_factory=SemanticConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    ema: float = 0.998
    weight_norm: bool = True
    export_dtype: str = "float32"
    compile: bool = False
    """Compile the networks; without a C++ compiler they run as they are."""
    decoder_only: bool = False
    """Encoder and quantiser stand still, so that codes made with them stay valid."""
    decode_every: int = 1
    """Only every so many steps is the signal decoded. In the others phones alone are learnt, at a
    third of the cost: an encoder for many voices needs more speech than a decoder for one."""


class CodecTask:
    """Trains a `Mimi`."""

    def __init__(
        self,
        config: CodecTrainingConfig,
        recordings: list[Recording],
        device: torch.device,
        start: Mimi | None = None,
    ) -> None:
        """`start` is a codec of the same shape to go on from."""
        if config.decoder_only and (start is None or config.weight_norm):
            raise ValueError("decoder_only: needs a codec to start from, and weight_norm = false")
        if config.decode_every < 1 or (config.decoder_only and config.decode_every > 1):
            raise ValueError("decode_every: must be at least 1, and is 1 with decoder_only")
        if start is not None and start.config != config.codec:
            raise ValueError("the codec to start from has another shape than the recipe's")
        self.config, self.device = config, device
        train, self.held_out = split_recordings(recordings)
        self._data_fingerprint = fingerprint(train)
        self.phone_set = PhoneSet.listing(config.semantic.phones)
        if not config.semantic.phones:
            self.phone_set = PhoneSet.of(r.phones for r in recordings)
        codec_config = config.codec
        parts = config.semantic.parts_per_frame
        self.sampler = SegmentSampler(
            train, config.data, self.phone_set, seed=config.run.seed,
            sample_rate=codec_config.sample_rate, part_samples=codec_config.frame_size // parts,
            phone_delay_s=config.semantic.delay_s,
        )  # fmt: skip
        if self.sampler.samples % codec_config.frame_size:
            raise ValueError(
                f"data.segment_s: {config.data.segment_s} is no whole number of frames"
            )
        torch.manual_seed(config.run.seed)
        self.codec = Mimi(codec_config).to(device)
        _initialize(self.codec)
        if start is not None:
            self.codec.load_state_dict(start.state_dict())
        keep_exact(self.codec, config.run.dtype, device)
        if config.weight_norm:
            _add_weight_norm(self.codec)
        self._codes_fingerprint: str | None = None
        if config.decoder_only:
            still = nn.ModuleList(self._still_parts()).requires_grad_(False)
            self._codes_fingerprint = weights_fingerprint(still)
        # The phone probe is not part of the codec: it only serves to teach the first codebook.
        self.probe = nn.Linear(codec_config.dimension, parts * len(self.phone_set)).to(device)
        # Neither are the maps that spectra are read from.
        self.envelope = EnvelopeLoss(
            codec_config.dimension, codec_config.seanet.hop_length, codec_config.sample_rate
        ).to(device)
        self.adversary = MultiScaleDiscriminator(config.adversary.shape).to(device)
        self.average = WeightAverage(self.codec, config.ema)
        self.quantizer = QuantizerTrainer(self.codec.quantizer, config.quantizer)
        if start is not None:
            self.quantizer.started.fill_(1)
        self.balancer = LossBalancer(
            {
                name: getattr(config.losses, name)
                for name in ("mel", "stft", "waveform", "adversarial", "feature")
            }
        )
        self.mel_loss = MelLoss(config.losses.spectral, codec_config.sample_rate).to(device)
        self.stft_loss = STFTLoss(config.losses.spectral).to(device)
        self._encode = compiled(self.codec.encode_to_latent, config.compile)
        self._decode = compiled(self._decode_with_context, config.compile)
        self._judge: Callable[[Tensor], Judgement] = compiled(self.adversary, config.compile)
        self.optimizer = build_optimizer(self._taught(), config.optimizer)
        self.adversary_optimizer = build_optimizer([self.adversary], config.adversary.optimizer)

    def _taught(self) -> tuple[nn.Module, ...]:
        """What the codec's optimiser moves."""
        return (self.codec, self.probe, self.envelope)

    def _still_parts(self) -> tuple[nn.Module, ...]:
        """What makes the codes."""
        codec = self.codec
        return codec.encoder, codec.encoder_transformer, codec.downsample, codec.quantizer

    def batches(self, position: int) -> Iterator[Batch]:
        return batches(self.sampler, position, self.config.run.batch)

    def learn(
        self, micro_batches: Sequence[Batch], step: int, generator: torch.Generator
    ) -> dict[str, Tensor]:
        config = self.config
        self.optimizer.zero_grad(set_to_none=True)
        self.adversary_optimizer.zero_grad(set_to_none=True)
        share = 1 / len(micro_batches)
        report: dict[str, Tensor] = {}
        latents = []
        for batch in micro_batches:
            values, latent = self._accumulate(batch.to(self.device), step, share, generator)
            latents.append(latent)
            for name, value in values.items():
                report[name] = report.get(name, torch.zeros_like(value)) + value.detach() * share
        parameters = [p for module in self._taught() for p in module.parameters()]
        report["grad_norm"] = nn.utils.clip_grad_norm_(parameters, config.optimizer.clip_norm)
        scale = config.optimizer.scale_at(step, config.run.steps)
        set_lr(self.optimizer, config.optimizer.lr * scale)
        self.optimizer.step()
        if self._adversary_learns(step):
            of_adversary = config.adversary.optimizer
            nn.utils.clip_grad_norm_(self.adversary.parameters(), of_adversary.clip_norm)
            since = step - config.adversary.start_step
            left = config.run.steps - config.adversary.start_step
            set_lr(self.adversary_optimizer, of_adversary.lr * of_adversary.scale_at(since, left))
            self.adversary_optimizer.step()
        self.average.update(self.codec, step)
        if not config.decoder_only:
            moved = self.quantizer.after_step(torch.cat(latents), step, generator)
            report["revived"] = torch.as_tensor(moved, dtype=torch.float32, device=self.device)
        report["lr"] = torch.tensor(config.optimizer.lr * scale)
        samples = sum(batch.pcm.shape[0] * batch.pcm.shape[-1] for batch in micro_batches)
        report["audio_s"] = torch.tensor(samples / self.codec.sample_rate)
        return report

    def _accumulate(
        self, batch: Batch, step: int, share: float, generator: torch.Generator
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Add the gradients of one micro-batch; its losses, and its latents."""
        config, weights = self.config, self.config.losses
        if config.decoder_only:
            # In full precision, as the codes of a running conversation are made.
            with torch.no_grad(), full_precision():
                latent = self._encode(batch.pcm)
                quantized = self.quantizer.fixed(latent, generator)
        else:
            with config.run.autocast(self.device):
                latent = self._encode(batch.pcm)
            quantized = self.quantizer(latent.float(), step, generator)
        if step % config.decode_every:
            added, report = self._semantic_losses(quantized, batch)
            (added * share).backward()
            return report, latent.detach().float()
        with config.run.autocast(self.device):
            decoded, context = self._decode(quantized.latent)
        decoded = decoded.float()
        leaf = decoded.detach().requires_grad_()
        losses = {
            "mel": self.mel_loss(leaf[:, 0], batch.pcm[:, 0]),
            "stft": self.stft_loss(leaf[:, 0], batch.pcm[:, 0]),
            "waveform": waveform_loss(leaf, batch.pcm),
        }
        report = {}
        if step >= config.adversary.start_step:
            piece = self._draw_crop(leaf.shape[-1], generator)
            real, fake = batch.pcm[..., piece], leaf[..., piece]
            if self._adversary_learns(step):
                report["adversary"] = self._teach_adversary(real, fake.detach(), share)
            if step >= config.adversary.start_step + config.adversary.warmup_steps:
                losses |= self._adversarial_losses(real, fake)
        gradient = self.balancer.gradient(losses, leaf)
        report |= losses | {"loss": losses["mel"] + losses["stft"]}
        if config.decoder_only:
            decoded.backward(gradient * share)
            return report, latent
        added, of_codes = self._semantic_losses(quantized, batch)
        report |= of_codes
        if weights.envelope:
            envelope = self.envelope(context.float(), batch.pcm[:, 0])
            added = added + weights.envelope * envelope
            report["envelope"] = envelope
        torch.autograd.backward([decoded, added * share], [gradient * share, None])
        return report, latent.detach().float()

    def _decode_with_context(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """The decoded signal [B, 1, T], and what its last stage sees [B, positions, dim]."""
        codec = self.codec
        context = codec.decoder_transformer(codec.upsample(latent).transpose(1, 2))
        return codec.decoder(context.transpose(1, 2)), context

    def _adversary_learns(self, step: int) -> bool:
        config = self.config.adversary
        return step >= config.start_step and (step - config.start_step) % config.every == 0

    def _draw_crop(self, samples: int, generator: torch.Generator) -> slice:
        length = round(self.config.adversary.crop_s * self.codec.sample_rate)
        if not 0 < length < samples:
            return slice(None)
        start = int(torch.randint(0, samples - length + 1, (), generator=generator))
        return slice(start, start + length)

    def _teach_adversary(self, real: Tensor, fake: Tensor, share: float) -> Tensor:
        with self.config.run.autocast(self.device):
            both = self._judge(torch.cat([real, fake]))
        half = real.shape[0]
        loss = hinge_loss(
            [[f[:half] for f in judge] for judge in both],
            [[f[half:] for f in judge] for judge in both],
        )
        (loss * share).backward()
        return loss

    def _adversarial_losses(self, real: Tensor, decoded: Tensor) -> dict[str, Tensor]:
        with self.config.run.autocast(self.device):
            fake = self._judge(decoded)
            with torch.no_grad():
                truth = self._judge(real)
        return {"adversarial": deception_loss(fake), "feature": feature_loss(truth, fake)}

    def _semantic_losses(
        self, quantized: Quantized, batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What does not need the decoded signal: the weighted sum, and its parts."""
        weights = self.config.losses
        semantic, accuracy = self._semantic_loss(quantized.semantic, batch.phones)
        added = weights.commitment * quantized.commitment + weights.semantic * semantic
        return added, {
            "commitment": quantized.commitment,
            "semantic": semantic,
            "phone_accuracy": accuracy,
        }

    def _semantic_loss(self, semantic: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy to the phone shares, and how often the likeliest phone is right."""
        logits = self.probe(semantic).unflatten(-1, (-1, len(self.phone_set)))
        logits = logits.flatten(1, 2)
        known = targets.sum(dim=-1)
        count = known.sum().clamp(min=1)
        loss = -(targets * F.log_softmax(logits, dim=-1)).sum() / count
        right = (logits.argmax(dim=-1) == targets.argmax(dim=-1)) * (known > 0)
        return loss, right.sum() / count

    @torch.no_grad()
    def evaluate(self, step: int, samples: Path) -> dict[str, float]:
        config = self.config.evaluation
        codec = self.finished_codec().to(self.device)
        rate = codec.sample_rate
        chosen = self.held_out[:: max(1, len(self.held_out) // config.recordings)]
        scores: dict[str, list[float]] = {}
        all_codes = []
        phones, phones_known = 0.0, 0.0
        for index, recording in enumerate(chosen[: config.recordings]):
            count = min(self.sampler.store.length(recording.path), int(config.longest_s * rate))
            original = to_float(self.sampler.store.read(recording.path, 0, count))
            pcm = torch.from_numpy(original)[None, None].to(self.device)
            latent = codec.encode_to_latent(pcm)
            codes = codec.quantizer.encode(latent, codec.num_codebooks)
            decoded = _signal(codec.decode(codes), count)
            unquantized = _signal(codec.decode_from_latent(latent), count)
            all_codes.append(codes.cpu())
            named, known = self._named_phones(codec, codes, recording)
            phones, phones_known = phones + named, phones_known + known
            for name, value in {
                "stoi": metrics.stoi(original, decoded, rate),
                "stoi_unquantized": metrics.stoi(original, unquantized, rate),
                "mel_distance_db": metrics.mel_distance(original, decoded, rate),
                "si_sdr_db": metrics.si_sdr(original, decoded),
            }.items():
                scores.setdefault(name, []).append(value)
            if index < config.samples:
                save_comparison(samples, f"{index:02d}", original, decoded, rate)
        means = {name: float(np.nanmean(values)) for name, values in scores.items()}
        used = metrics.perplexity(torch.cat(all_codes, dim=2), codec.config.quantizer.bins)
        return {
            **means,
            "phone_accuracy": phones / max(1.0, phones_known),
            "stoi_p10": float(np.nanpercentile(scores["stoi"], 10)),
            "perplexity_first": used[0],
            "perplexity_rest": float(np.mean(used[1:])) if used[1:] else float("nan"),
        }

    def _named_phones(
        self, codec: Mimi, codes: Tensor, recording: Recording
    ) -> tuple[float, float]:
        """How many parts' phones the first codebook tells, and of how many they are known."""
        parts = codes.shape[-1] * self.config.semantic.parts_per_frame
        truth = torch.from_numpy(self.sampler.phone_targets(recording, 0, parts)).to(self.device)
        if not truth.any():
            return 0.0, 0.0
        semantic = codec.quantizer.first.decode(codes[:, :1])
        accuracy = self._semantic_loss(semantic, truth[None])[1]
        known = float((truth.sum(dim=-1) > 0).sum())
        return float(accuracy) * known, known

    @torch.no_grad()
    def finished_codec(self) -> Mimi:
        """The codec as it would be shipped: averaged weights, weight norm folded."""
        weights = dict(self.codec.named_buffers()) | self.average.tensors
        for name in [name for name in weights if name.endswith(_DIRECTION)]:
            stem = name.removesuffix(_DIRECTION)
            length = weights.pop(stem + _LENGTH)
            weights[f"{stem}.weight"] = torch._weight_norm(weights.pop(name), length, 0)
        with torch.device("meta"):
            finished = Mimi(self.config.codec)
        finished.load_state_dict(
            {name: weight.detach().clone() for name, weight in weights.items()}, assign=True
        )
        return finished.eval().requires_grad_(False)

    def export(self, folder: Path) -> None:
        dtype = getattr(torch, self.config.export_dtype)
        save_codec(folder / "codec", self.finished_codec(), dtype=dtype)

    def tensors(self) -> dict[str, Tensor]:
        return {
            **under("codec", dict(self.codec.named_parameters())),
            **under("probe", dict(self.probe.named_parameters())),
            **under("envelope", dict(self.envelope.named_parameters())),
            **under("adversary", dict(self.adversary.named_parameters())),
            **under("average", self.average.tensors),
            **under("quantizer", self.quantizer.tensors()),
            **under("balancer", self.balancer.norms),
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        present = self.tensors()
        for part in ("codec", "probe", "envelope", "adversary", "average", "quantizer"):
            copy_into(below(part, present), below(part, tensors), part)
        self.balancer.load(below("balancer", tensors), self.device)

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"codec": self.optimizer, "adversary": self.adversary_optimizer}

    def values(self) -> dict[str, Any]:
        return {
            "kind": "codec",
            "codec": self.config.codec.to_dict(),
            "training": plain(dataclasses.asdict(self.config)),
            "phones": list(self.phone_set.symbols),
            "data": self._data_fingerprint,
            "codes": self._codes_fingerprint,
        }

    def check_values(self, saved: Mapping[str, Any]) -> None:
        mine = self.values()
        for name in ("kind", "codec", "phones"):
            if plain(saved.get(name)) != plain(mine[name]):
                raise TrainingStateError(
                    f"the run in this folder was started with another {name}; "
                    "choose another folder, or the old configuration and data"
                )
        if self.config.decoder_only and saved.get("codes") not in (None, mine["codes"]):
            raise TrainingStateError(
                "the run in this folder began with another codec, whose codes it keeps; choose "
                "another folder, or begin anew (--restart)"
            )
        if saved.get("data") != mine["data"]:
            logger.warning("the training data differs from when this run was last saved; going on")


@torch.no_grad()
def _initialize(codec: Mimi) -> None:
    """Weights under which a signal keeps its size through all layers.

    With the usual small ones it fades to a hundredth in each half, and the first thousand steps go
    into finding it again.
    """
    for module in codec.modules():
        if isinstance(module, (CausalConv1d, CausalConvTranspose1d)):
            per_output = module.weight.shape[1] * module.weight.shape[2]
            if isinstance(module, CausalConvTranspose1d):
                per_output = module.weight.shape[0] // module.groups * module.weight.shape[2]
                per_output //= module.stride
            nn.init.normal_(module.weight, std=_ELU_GAIN * per_output**-0.5)
            if module.bias is not None:
                # Not zero: silence would reach the first norm as a null vector, whose gradient
                # there is hundreds of times too large.
                nn.init.uniform_(module.bias, -_BIAS, _BIAS)
    for part in (codec.encoder, codec.decoder):
        for unit in part.modules():
            if isinstance(unit, ResidualUnit):
                unit.block[3].weight.mul_(_RESIDUAL_GAIN)
    codec.decoder[-1].weight.mul_(_OUTPUT_GAIN)
    nn.init.zeros_(codec.decoder[-1].bias)


def _add_weight_norm(codec: Mimi) -> None:
    for module in codec.modules():
        if isinstance(module, (CausalConv1d, CausalConvTranspose1d)):
            weight_norm(module, "weight")


def _signal(decoded: Tensor, count: int) -> NDArray[np.float32]:
    return decoded[0, 0, :count].float().cpu().numpy()
