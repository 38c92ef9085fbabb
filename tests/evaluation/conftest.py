"""Cases that are spoken once, and a recogniser for all of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from duologue.evaluation.cases import Case, Group, write_cases
from duologue.evaluation.ears import Ears
from duologue.evaluation.knowledge import Library
from duologue.evaluation.scene import Scene, render
from duologue.evaluation.talker import Request
from duologue.evaluation.world import world_sentences
from duologue.synthesis.engines.program import PACKAGES
from duologue.synthesis.speaker import Speaker

SEED = 33
"""Its first cases need nobody babbling in the background, which takes long to make."""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def speaker() -> Speaker:
    """A speaker for all programs."""
    for program in PACKAGES:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed: apt-get install {PACKAGES[program]}")
    return Speaker()


@pytest.fixture(scope="session")
def cases() -> dict[Group, Case]:
    """The first case of each group; two groups are to a judge what `known` is."""
    spoken = [group for group in Group if group not in (Group.CHANGED, Group.UNSEEN)]
    return {group: write_cases(group, 1, SEED)[0] for group in spoken}


@pytest.fixture(scope="session")
def scenes(cases: dict[Group, Case], speaker: Speaker) -> dict[Group, Scene]:
    return {group: render(case, speaker) for group, case in cases.items()}


@pytest.fixture(scope="session")
def ears(cases: dict[Group, Case], speaker: Speaker) -> Ears:
    pytest.importorskip("pocketsphinx")
    return Ears(world_sentences(cases.values(), pool=60))


@pytest.fixture(scope="session")
def request_for(
    cases: dict[Group, Case], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Scene], Request]:
    """What a system is given for a scene."""
    folder: Path = tmp_path_factory.mktemp("knowledge")
    library = Library(folder, list(cases.values()))

    def make(scene: Scene) -> Request:
        begins = "model" if scene.case.group is Group.GREETING else "user"
        return Request(scene.heard, library.for_case(scene.case, 0.4), begins, SEED, scene)

    return make
