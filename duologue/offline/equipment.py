"""What conversations over recordings need, opened once: model, slots, retriever, encoder, ears.

Whatever a model has not (a recogniser, a tokenizer, a retrieval token) is left out and noted, so an
untrained model can talk too; what was asked for and is not there is an error.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from duologue.checkpoints.errors import CheckpointError
from duologue.encoder.ports import EncoderError
from duologue.engine.model import LoadedModel
from duologue.engine.slots import SlotBank, SlotPrompt
from duologue.engine.voice import load_prompt
from duologue.offline.files import Recording
from duologue.offline.outside import GroundTruth
from duologue.offline.settings import TalkError, TalkSettings
from duologue.retrieval import (
    LLMOptions,
    RetrievalSettings,
    Retriever,
    build_retriever,
    open_knowledge,
)
from duologue.session.lookups import DEFAULT_BACKEND, Backends
from duologue.session.questions import Rehearing
from duologue.session.vocabulary import tell_names
from duologue.stt.opening import Ears
from duologue.stt.second_hearing import SecondHearing

if TYPE_CHECKING:
    from duologue.encoder.ports import RowEncoder

FIRST_TEXT, FIRST_TEXT_S = "The first text takes longer than all others.", 60.0
"""Encoded before anything counts."""


@dataclass(frozen=True)
class Sources:
    """Who may be asked, beside the side-cars; all from the command line and the environment."""

    knowledge: tuple[str, ...] = ()
    tools: bool = True
    grounded_only: bool = False

    @property
    def named(self) -> bool:
        """Whether knowledge was asked for in so many words."""
        return bool(self.knowledge)


@dataclass(frozen=True)
class Equipment:
    """See the module."""

    model: LoadedModel
    bank: SlotBank
    ears: Ears
    encoder: RowEncoder | None
    retriever: Retriever | None
    backends: tuple[str, ...]
    prompt: SlotPrompt | None
    notes: tuple[str, ...]
    rehearing: Rehearing

    def backends_for(self, recording: Recording, settings: TalkSettings) -> Backends:
        """Whom this recording's conversation asks."""
        if settings.use_gt_reference:
            text = recording.sidecar.gt_reference_text or ""
            truth = GroundTruth(text, recording.path.with_suffix(".json").name)
            return Backends.of(truth, (DEFAULT_BACKEND,))
        return Backends.of(self.retriever, self.backends)


@asynccontextmanager
async def open_equipment(
    model: LoadedModel,
    ears: Ears,
    slots: int,
    settings: TalkSettings,
    sources: Sources,
    environment: Mapping[str, str],
) -> AsyncIterator[Equipment]:
    """Everything, closed at the end.

    Raises:
        DuologueError: something that was asked for is not there.
    """
    wanted = retrieval_settings(settings, sources, environment)
    needs_answers = settings.use_gt_reference or sources.named or bool(wanted.llm or wanted.web)
    async with AsyncExitStack() as stack:
        retriever = None
        if model.takes_references and not settings.use_gt_reference:
            base = open_knowledge(wanted.knowledge) if wanted.knowledge else None
            retriever = build_retriever(wanted, base=base)
            stack.push_async_callback(retriever.aclose)
            if base is not None and ears.local is not None:
                tell_names(base, ears.local)
        encoder, why = _encoder(model, environment)
        if encoder is not None:
            stack.push_async_callback(encoder.aclose)
            with contextlib.suppress(EncoderError):  # it will be told where it matters
                await encoder.encode(FIRST_TEXT, FIRST_TEXT_S)
        elif needs_answers and model.takes_references:
            raise TalkError(f"what is found cannot be told to the model: {why}")
        rehearing = Rehearing(SecondHearing.of(ears.local))
        stack.callback(rehearing.close)
        bank = SlotBank(model, slots, gate_db=settings.power_threshold_db, recogniser=ears.hearing)
        yield Equipment(
            model,
            bank,
            ears,
            encoder,
            retriever,
            _names(wanted),
            load_prompt(model, settings.voice, settings.role or None),
            tuple(_notes(model, ears, why, needs_answers)),
            rehearing,
        )


def retrieval_settings(
    settings: TalkSettings, sources: Sources, environment: Mapping[str, str]
) -> RetrievalSettings:
    """Which retrievers there are, and how long language models may answer."""
    wanted = RetrievalSettings.from_environment(environment, knowledge=sources.knowledge)
    for path in wanted.knowledge:
        if not path.exists() and str(path) != "factbook":
            raise TalkError(f"{path}: no such document, folder or index (--knowledge)")
    tokens = settings.reference_tokens
    options = LLMOptions() if tokens is None else LLMOptions(max_tokens=tokens)
    return replace(
        wanted, tools=sources.tools, grounded_only=sources.grounded_only, llm_options=options
    )


def _names(wanted: RetrievalSettings) -> tuple[str, ...]:
    """Back ends by name, the default first; there is a choice with several language models only."""
    if wanted.llm is None or len(wanted.llm.profiles) < 2:
        return (DEFAULT_BACKEND,)
    names = [profile.id for profile in wanted.llm.profiles]
    return (wanted.llm.default_id, *(name for name in names if name != wanted.llm.default_id))


def _encoder(model: LoadedModel, environment: Mapping[str, str]) -> tuple[RowEncoder | None, str]:
    """The reference encoder, or why there is none."""
    from duologue.encoder.opening import open_encoder

    if not model.takes_references:
        return None, "it takes no references"
    if model.folder is None:
        return None, "its folder is not known, so neither is its reference encoder"
    conditioner = model.lm.condition_provider.reference
    try:
        encoder = open_encoder(
            model.folder, conditioner=conditioner, device=model.device, environment=environment
        )
    except CheckpointError as error:
        return None, str(error)
    return encoder, ""


def _notes(model: LoadedModel, ears: Ears, no_encoder: str, needs_answers: bool) -> list[str]:
    """What this model cannot do, in sentences for whoever reads its results."""
    notes = []
    asks = model.lm.config.rag_token_id is not None
    if not asks:
        notes.append("the model has no retrieval token: it never asks for knowledge")
    if not model.takes_references:
        notes.append("the model takes no references: nothing can be told to it")
    elif no_encoder:
        notes.append(f"references cannot be encoded: {no_encoder}")
    if needs_answers and not (asks and model.takes_references):
        notes.append("knowledge was given and is of no use to this model")
    if ears.described == "none":
        notes.append("no speech recognition: the user's words and turns are not known")
    if model.tokenizer is None:
        notes.append("the model has no tokenizer: its text is given as token numbers")
    return notes
