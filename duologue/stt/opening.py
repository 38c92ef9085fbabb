"""Who hears the user: what a person asked for, the environment and the model's folder decide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from duologue.stt.load import FOLDER, load_recogniser
from duologue.stt.remote.settings import ServiceSettings, connect_service

if TYPE_CHECKING:
    from duologue.engine.model import LoadedModel
    from duologue.stt.ports import LocalRecogniser
    from duologue.stt.remote.stream import Service

NO_STT, AUTO, GRADIUM = "none", "auto", "gradium"


@dataclass(frozen=True)
class Ears:
    """Who hears the user's words: a model, a service, or nobody."""

    local: LocalRecogniser[Any] | None = None
    service: Service | None = None
    hearing: LocalRecogniser[Any] | None = None
    """What runs beside the dialogue model, which may listen to it (`heard_dim`): the local model,
    or its own where a service hears the words."""

    @property
    def described(self) -> str:
        if self.local is not None:
            return "model"
        return "none" if self.service is None else "service"


def open_ears(stt: str, model: LoadedModel, environment: Mapping[str, str]) -> Ears:
    """The recogniser named; with `auto` the service of STT_URL, else the model's own, else none.

    Raises:
        CheckpointError: names the file and what is wrong with it.
    """
    if stt in (AUTO, GRADIUM):
        service = ServiceSettings.from_environment(environment, gradium_stt=stt == GRADIUM)
        if service is not None:
            hearing = own_recogniser(model) if model.lm.config.heard_dim else None
            return Ears(service=connect_service(service), hearing=hearing)
        local = own_recogniser(model)
    elif stt == NO_STT:
        return Ears()
    else:
        local = load_recogniser(stt, device=model.device, codec=model.codec, vocabulary=())
    return Ears(local, hearing=local)


def own_recogniser(model: LoadedModel) -> LocalRecogniser[Any] | None:
    """The recogniser in a model's folder (`stt/`), if there is one."""
    if model.folder is None or not (model.folder.path / FOLDER / "config.json").is_file():
        return None
    return load_recogniser(model.folder.path, device=model.device, codec=model.codec, vocabulary=())
