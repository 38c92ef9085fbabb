"""From settings to a running lobby: documents, retriever, encoder, recogniser, engine.

`load` reads the models, which takes the time and needs no event loop; `open_lobby` starts
everything, and closes it in reverse.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from duologue.engine.model import LoadedModel, load_model
from duologue.retrieval import RetrievalSettings, build_retriever
from duologue.server.knowledge import KnowledgeStore
from duologue.server.lobby import Lobby, ModelCard
from duologue.server.metrics import ServerMetrics
from duologue.server.settings import ServerSettings
from duologue.session import Engine, EngineSettings
from duologue.session.vocabulary import Leaning, VocabularyFollower
from duologue.stt.opening import open_ears

if TYPE_CHECKING:
    from duologue.stt import LocalRecogniser, RemoteRecogniser

VOICE_KINDS = (".safetensors", ".pt", ".wav", ".flac", ".ogg", ".mp3")
"""Saved voices are preferred to recordings of the same name."""
NO_KNOWLEDGE = "none"
IDLE_GRACE_S = 10.0
"""The door ends an idle visit with a word to its client; the engine only if the door does not."""


@dataclass(frozen=True)
class Loaded:
    """Models in memory, and whoever recognises the user's speech."""

    model: LoadedModel
    stt: LocalRecogniser[Any] | RemoteRecogniser | None = None
    hearing: LocalRecogniser[Any] | None = None
    """What the model itself listens to, where words come from a service."""


def load(settings: ServerSettings, environment: Mapping[str, str]) -> Loaded:
    """Load the model that the settings name, and the recogniser that hears its user.

    Raises:
        CheckpointError: names the file and what is wrong with it.
    """
    model = load_model(
        settings.model,
        device=None if settings.device == "auto" else settings.device,
        quantization=settings.quantization,
    )
    ears = open_ears(settings.stt, model, environment)
    return Loaded(model, ears.local or ears.service, ears.hearing)


@asynccontextmanager
async def open_lobby(
    settings: ServerSettings,
    loaded: Loaded,
    environment: Mapping[str, str],
    *,
    adapt: Callable[[EngineSettings], EngineSettings] = lambda settings: settings,
) -> AsyncIterator[Lobby]:
    """Everything the doors need, running; `adapt` has the last word on how the engine runs."""
    async with AsyncExitStack() as stack:
        folder = settings.knowledge_dir
        if folder is None:
            temporary = tempfile.TemporaryDirectory(prefix="duologue-knowledge-")
            folder = Path(stack.enter_context(temporary))
        folder.mkdir(parents=True, exist_ok=True)
        store = KnowledgeStore(
            folder,
            upload_bytes=settings.upload_bytes,
            documents=settings.documents,
            persistent=settings.knowledge_dir is not None,
        )
        stack.callback(store.close)
        store.seed([name for name in settings.knowledge if name != NO_KNOWLEDGE])
        if (names_to := _leaning(loaded)) is not None:
            stack.callback(VocabularyFollower(store.base, names_to).close)
        wanted = replace(
            RetrievalSettings.from_environment(environment),
            tools=settings.tools,
            grounded_only=settings.grounded_only,
        )
        retriever = build_retriever(wanted, base=store.base)
        stack.push_async_callback(retriever.aclose)
        takes_role = bool(wanted.llm or wanted.plugins)
        encoder = _encoder(settings, loaded.model, environment)
        if encoder is not None:
            stack.push_async_callback(encoder.aclose)
        engine = Engine(
            loaded.model,
            adapt(engine_settings(settings, _backends(wanted), takes_role=takes_role)),
            retriever=retriever,
            encoder=encoder,
            stt=loaded.stt,
            hearing=loaded.hearing,
        )
        await stack.enter_async_context(engine)
        metrics = ServerMetrics(engine.backends)
        metrics.watch(engine.stats)
        card = ModelCard(
            name=Path(settings.model).name,
            takes_references=loaded.model.takes_references,
            takes_prompts=loaded.model.takes_prompts,
            defaults=loaded.model.lm.defaults,
        )
        yield Lobby(settings, engine, card, metrics, store, find_voices(settings, loaded.model))


def engine_settings(
    settings: ServerSettings, backends: tuple[str, ...], *, takes_role: bool
) -> EngineSettings:
    """The engine's part of the settings."""
    return EngineSettings(
        slots=settings.sessions,
        resume_s=settings.resume_s,
        idle_s=settings.idle_s + IDLE_GRACE_S,
        max_session_s=settings.session_s or None,
        drain_s=settings.drain_s,
        seed=settings.seed,
        backends=backends,
        retrieval_takes_role=takes_role,
        floor=settings.floor,
        log_dir=settings.conversation_logs,
    )


def find_voices(settings: ServerSettings, model: LoadedModel) -> dict[str, Path]:
    """Voices by id: the files of the voices folder, or of `voices/` in the model's folder."""
    folder = settings.voices
    if folder is None and model.folder is not None:
        folder = model.folder.path / "voices"
    if folder is None or not folder.is_dir():
        return {}
    files = [path for path in folder.iterdir() if path.suffix.lower() in VOICE_KINDS]
    files.sort(key=lambda path: (path.stem, VOICE_KINDS.index(path.suffix.lower())))
    voices: dict[str, Path] = {}
    for path in files:
        voices.setdefault(path.stem, path)
    return voices


def _backends(wanted: RetrievalSettings) -> tuple[str, ...]:
    """Back ends by name, the default first; there is a choice with several language models only."""
    if wanted.llm is None or len(wanted.llm.profiles) < 2:
        return ("default",)
    names = [profile.id for profile in wanted.llm.profiles]
    return (wanted.llm.default_id, *(name for name in names if name != wanted.llm.default_id))


def _leaning(loaded: Loaded) -> Leaning | None:
    """The recogniser, if it is one that leans towards names: a local one."""
    return cast("Leaning", loaded.stt) if hasattr(loaded.stt, "set_vocabulary") else None


def _encoder(settings: ServerSettings, model: LoadedModel, environment: Mapping[str, str]) -> Any:
    """A reference encoder service, if one is named; the engine finds the model's own by itself."""
    if not settings.encoder_url or model.folder is None or not model.takes_references:
        return None
    from duologue.encoder.opening import URL_VARIABLE, open_encoder

    return open_encoder(
        model.folder, environment={**environment, URL_VARIABLE: settings.encoder_url}
    )
