from __future__ import annotations

import hashlib

import pytest
import torch

from duologue.conditioning import ConditionError, ConditionProvider, FuserConfig

MOOD = {"type": "lut", "lut": {"n_bins": 5, "dim": 4, "possible_values": ["calm", "loud"]}}
HASHED = {"type": "lut", "lut": {"n_bins": 7, "dim": 4, "tokenizer": "noop"}}
VOICE = {"type": "tensor", "tensor": {"dim": 3}}


def provider(**fuser: object) -> ConditionProvider:
    torch.manual_seed(0)
    conditioners = {"mood": MOOD, "topic": HASHED, "voice": VOICE}
    return ConditionProvider(8, conditioners, FuserConfig(**fuser))  # type: ignore[arg-type]


def test_sums_add_up_and_absent_ones_become_the_learnt_padding() -> None:
    conditions = provider(sum=("mood", "topic"))
    fused = conditions([{"mood": "loud"}, {}])
    assert fused.sum is not None
    assert fused.sum.shape == (2, 1, 8)
    mood, topic = conditions.conditioners["mood"], conditions.conditioners["topic"]
    loud = mood.output_proj(mood.embed.weight[1])
    torch.testing.assert_close(fused.sum[0, 0], loud + topic.learnt_padding[0, 0])
    absent = mood.learnt_padding[0, 0] + topic.learnt_padding[0, 0]
    torch.testing.assert_close(fused.sum[1, 0], absent)
    assert fused.cross is None
    assert fused.prepend is None


def test_words_without_a_list_are_hashed() -> None:
    topic = provider(sum=("topic",)).conditioners["topic"]
    row = int(hashlib.sha256(b"birds").hexdigest(), 16) % 7
    torch.testing.assert_close(topic(["birds"])[0, 0], topic.output_proj(topic.embed.weight[row]))


def test_tensors_are_padded_with_the_learnt_padding_and_get_positions() -> None:
    plain = provider(cross=("voice",))
    short, long = torch.randn(2, 3), torch.randn(4, 3)
    fused = plain([{"voice": short}, {"voice": long}, {}])
    assert fused.cross is not None
    assert fused.cross.shape == (3, 4, 8)
    voice = plain.conditioners["voice"]
    torch.testing.assert_close(fused.cross[0, 2:], voice.learnt_padding[0].expand(2, -1))
    torch.testing.assert_close(fused.cross[1], voice.output_proj(long))
    placed = provider(
        cross=("voice",), cross_attention_pos_emb=True, cross_attention_pos_emb_scale=2.0
    )
    difference = placed([{"voice": long}]).cross - plain([{"voice": long}]).cross
    torch.testing.assert_close(difference[0, 0], torch.tensor([2.0] * 4 + [0.0] * 4))
    torch.testing.assert_close(difference[0, 3, 0], 2 * torch.tensor(3.0).cos())


@pytest.mark.parametrize(
    ("attributes", "complaint"),
    [
        ({"mood": "angry"}, "'angry' is none of calm, loud"),
        ({"colour": "red"}, "unknown condition 'colour'"),
        ({"voice": torch.zeros(2, 4)}, r"\[S, 3\]"),
        ({"mood": torch.zeros(1)}, "expected a word"),
    ],
)
def test_bad_attributes_are_named(attributes: dict[str, object], complaint: str) -> None:
    conditions = provider(sum=("mood",), cross=("voice",))
    with pytest.raises(ConditionError, match=complaint):
        conditions([attributes])  # type: ignore[list-item]


def test_bad_configurations_are_named() -> None:
    with pytest.raises(ConditionError, match="no conditioner 'tone'"):
        provider(sum=("tone",))
    with pytest.raises(ConditionError, match=r"conditioners\.x\.type"):
        ConditionProvider(8, {"x": {"type": "t5"}}, FuserConfig())
    with pytest.raises(ConditionError, match=r"fuser\.multiply"):
        FuserConfig.from_dict({"multiply": []})
    assert FuserConfig.from_dict(None) == FuserConfig()
