"""Names that only a user's documents hold reach the recogniser of `duologue talk`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from support.folders import write_model

from duologue.engine.model import load_model
from duologue.offline.equipment import Sources, open_equipment
from duologue.offline.settings import TalkSettings
from duologue.stt.opening import open_ears

FACTS = "The house was built by Tessa Starrat. It is rated by Sara Tessatea.\n"


@pytest.mark.parametrize("given", [True, False])
def test_names_of_the_documents_are_leant_towards(tmp_path: Path, given: bool) -> None:
    model = load_model(write_model(tmp_path / "model"), device="cpu")
    (tmp_path / "facts.md").write_text(FACTS)
    ears = open_ears("auto", model, {})
    assert ears.local is not None
    assert ears.local.leans
    sources = Sources(knowledge=(str(tmp_path / "facts.md"),) if given else ())

    async def entries() -> int:
        async with open_equipment(model, ears, 1, TalkSettings(), sources, {}) as equipment:
            assert equipment.bank.recogniser is ears.local
            trie = equipment.bank.recogniser.bias
            return 0 if trie is None else trie.entries

    assert asyncio.run(entries()) == (4 if given else 0)
