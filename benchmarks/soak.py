"""Hours of conversation in minutes: `python benchmarks/soak.py --hours 12 --sessions 12`.

Runs the engine's inside (slots, dialogue brains, queues, schedule) on simulated time, as fast as
the machine makes frames, while sessions talk and pause, are interrupted, come and go, are detached
and come back, are snapshotted and restored, flood their input and read late, and lookups answer,
fail and hang. `--hours` are hours of conversation, of all sessions together. Each of `--reports`
equal parts reports memory, processor time of a step and counters; at the end it says whether
anything grew or was lost. Writes JSON after every part, and a PNG plot where matplotlib is
installed.

Without `--model` it runs an untrained model of very small size that asks for knowledge often:
memory and bookkeeping are those of any model. Step times are processor times, so that a machine
that is busy with other work shows as well what grows.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import random
import resource
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from duologue.conditioning import ConditionProvider, FuserConfig
from duologue.dialogue import (
    AudioFrame,
    CancelLookup,
    Command,
    EncodeReference,
    EncodingFailed,
    EndReason,
    Interrupt,
    LookupAnswered,
    LookupFailed,
    ReferenceEncoded,
    Reset,
    SessionEnded,
    StartLookup,
)
from duologue.engine import LoadedModel, SlotBank, load_model
from duologue.engine.api import FRAME_S, EngineSettings, SessionOptions
from duologue.mimi import Mimi, MimiConfig
from duologue.mimi.config import MimiTransformerConfig, QuantizerConfig, SEANetConfig
from duologue.moshi import LMConfig, MoshiLM
from duologue.session.conductor import Conductor
from duologue.session.options import conversation, slot_setup
from duologue.session.seat import Seat
from duologue.session.seating import Seating
from duologue.session.snapshot import SessionSnapshot
from duologue.stt.ports import Heard

FRAMES_PER_HOUR = 45_000
WORDS = "what is the height of that tower and when was it built please tell me".split()  # noqa: SIM905


class Syllables:
    """A tokenizer without a file: each token is a syllable of its own."""

    def encode(self, text: str) -> list[int]:
        return [5 + len(word) % 20 for word in text.split()]

    def byte(self, token: int) -> int | None:
        return None

    def stream(self) -> Syllables:
        return self

    def push(self, token: int) -> str:
        return f" {'bdfgklmnprst'[token % 12]}{'aeiou'[token % 5]}"

    def flush(self) -> str:
        return ""


def small_model(seed: int) -> LoadedModel:
    """Untrained, but with everything a conversation can need: knowledge, references, a speaker."""
    torch.manual_seed(seed)
    codec = MimiConfig(
        seanet=SEANetConfig(dimension=8, n_filters=1, n_residual_layers=0, ratios=(48, 40)),
        quantizer=QuantizerConfig(
            dimension=8, n_q=2, bins=16, input_dimension=8, output_dimension=8
        ),
        transformer=MimiTransformerConfig(
            d_model=8, num_heads=1, num_layers=1, dim_feedforward=8, context=20,
            input_dimension=8, output_dimensions=(8,),
        ),
    )  # fmt: skip
    config = LMConfig(
        dim=32, num_heads=2, num_layers=1, n_q=4, dep_q=2, delays=(0, 0, 1, 0, 1), card=16,
        text_card=64, hidden_scale=3, context=200, depformer_dim=16, depformer_num_heads=2,
        depformer_num_layers=1, rag_token_id=4,
    )  # fmt: skip
    encoder = {"embedder_params": {"vocab_size": 8, "dim": 8}, "bridge_module": {"out_dim": 16}}
    speakers = {"n_bins": 2, "dim": 4, "possible_values": ["SPEAKER_MAIN", "SPEAKER_OTHER"]}
    provider = ConditionProvider(
        config.dim,
        {
            "reference": {"type": "arc_encoder", "arc_encoder": encoder},
            "first_speaker": {"type": "lut", "lut": speakers},
        },
        FuserConfig(prepend=("first_speaker",), streaming_sum=("reference",)),
    )
    lm = MoshiLM(config, provider)
    parts = (module.eval().requires_grad_(False) for module in (Mimi(codec), lm))
    return LoadedModel(*parts, Syllables(), name="untrained")  # type: ignore[arg-type]


@dataclass
class Caller:
    """Somebody who talks, and the state of their line."""

    seat: Seat
    began: int
    frames: int = 0
    """Answered so far."""
    away_until: int = -1
    answers: list[tuple[int, Command]] = field(default_factory=list)


class Soak:
    """See the module."""

    def __init__(self, model: LoadedModel, sessions: int, seed: int) -> None:
        self.now = 0.0
        self.random = random.Random(seed)
        self.loaded = model
        settings = EngineSettings(slots=sessions, idle_s=20.0, resume_s=10.0)
        self.bank = SlotBank(self.loaded, sessions)
        self.conductor = Conductor(self.bank, settings, lambda: self.now)
        self.seating = Seating(self.conductor, settings, lambda: self.now, lambda: None)
        self.settings = settings
        self.callers: list[Caller] = []
        self.tick = 0
        self.counts = dict.fromkeys(
            ("sessions", "answered", "pushed", "dropped", "failed", "restored", "lookups"), 0
        )
        noise = np.random.default_rng(seed).standard_normal(1920 * 50).astype(np.float32) * 0.05
        self.voice = noise.reshape(50, 1920)
        self.step_s: list[float] = []

    def run(self, frames: int) -> dict[str, Any]:
        """So many frames of everybody's life; returns the figures."""
        begin, before = time.perf_counter(), dict(self.counts)
        began = time.process_time()
        self.step_s = []
        for _ in range(frames):
            self._tick()
        gc.collect()
        steps = np.array(self.step_s) * 1000
        brains = [len(json.dumps(c.seat.core.brain.snapshot())) for c in self.callers]
        return {
            "hours": round(self.counts["answered"] / FRAMES_PER_HOUR, 3),
            "clock_hours": round(self.tick / FRAMES_PER_HOUR, 3),
            "wall_s": round(time.perf_counter() - begin, 1),
            "cpu_s": round(time.process_time() - began, 1),
            "rss_mb": round(_rss_mb(), 1),
            "step_ms_p50": round(float(np.percentile(steps, 50)), 2),
            "step_ms_p99": round(float(np.percentile(steps, 99)), 2),
            "largest_brain_kb": round(max(brains, default=0) / 1024, 1),
            "longest_frames": max((c.seat.core.brain.frame for c in self.callers), default=0),
            **{name: count - before[name] for name, count in self.counts.items()},
        }

    def _tick(self) -> None:
        """80 ms of everybody's life."""
        self.tick += 1
        self.now += FRAME_S
        chance = self.random.random
        while len(self.callers) < self.settings.slots and chance() < 0.3:
            self._join()
        for caller in self.callers:
            self._live(caller)
        begin = time.process_time()
        steps = self.conductor.figures.steps
        while self.conductor.turn() == 0.0:
            pass
        if self.conductor.figures.steps > steps:
            made = self.conductor.figures.steps - steps
            self.step_s.append((time.process_time() - begin) / made)
        self._carry_out()
        for caller in list(self.callers):
            self._read(caller)

    def _join(self) -> None:
        options = SessionOptions(seed=self.random.getrandbits(32))
        brain = conversation(options, ("default", "other"), stt_delay_frames=0)
        setup = slot_setup(self.loaded, options)
        self.counts["sessions"] += 1
        self._admit(self.seating.seat(f"s{self.counts['sessions']}", options, brain, setup))

    def _admit(self, seat: Seat) -> None:
        caller = Caller(seat, self.tick)
        self.callers.append(caller)
        heard = iter(range(10**9))
        seat.input.listener = lambda _: self._hear(next(heard))

    def _hear(self, frame: int) -> Heard:
        talking = frame % 75 < 40
        words = (f" {self.random.choice(WORDS)}",) if talking and frame % 4 == 0 else ()
        return Heard(words, 0.05 if talking else 0.95)

    def _live(self, caller: Caller) -> None:
        """What a caller does in this frame; most of the time they just send audio."""
        seat, dice = caller.seat, self.random.random()
        if self.tick < caller.away_until:
            return
        if not seat.attached:
            self.conductor.attach(seat)
        if dice < 0.00002:
            self.conductor.end(seat, EndReason.CLIENT_CLOSED)
        elif dice < 0.0002:
            self.conductor.detach(seat)
            caller.away_until = self.tick + self.random.choice((5, 50, 200))
            return
        elif dice < 0.0008:
            self.conductor.receive(seat, self.random.choice((Interrupt(), Reset())))
        elif dice < 0.001:
            self._move(caller)
            return
        frames = 40 if 0.001 <= dice < 0.0011 else 1
        for _ in range(frames):
            self.counts["pushed"] += 1
            frame = self.voice[self.random.randrange(len(self.voice))]
            self.counts["dropped"] += seat.input.push(frame, self.now) // 1920

    def _move(self, caller: Caller) -> None:
        """To bytes and back, as if the process had been replaced."""
        seat = caller.seat
        if seat.starting is not None or seat.ended:
            return
        saved = SessionSnapshot.from_bytes(self.seating.snapshot(seat, "token").to_bytes())
        self.conductor.end(seat, EndReason.CLIENT_CLOSED)
        self.callers.remove(caller)
        setup = slot_setup(self.loaded, saved.options, saved.seed)
        again = self.seating.seat_again(seat.id, saved, setup)
        self.conductor.attach(again)
        self._admit(again)
        self.callers[-1].answers = [(self.tick + 5, command) for command in saved.commands]
        self.counts["restored"] += 1

    def _carry_out(self) -> None:
        """Lookups answer, fail or hang; texts become rows."""
        _, commands = self.conductor.collect()
        by_seat = {caller.seat: caller for caller in self.callers}
        for seat, command in commands:
            caller = by_seat.get(seat)
            if caller is None or isinstance(command, CancelLookup):
                continue
            dice = self.random.random()
            if dice < 0.9:  # the others never answer
                caller.answers.append((self.tick + self.random.randrange(1, 30), command))
        for caller in self.callers:
            due = [answer for answer in caller.answers if answer[0] <= self.tick]
            caller.answers = [answer for answer in caller.answers if answer[0] > self.tick]
            for _, command in due:
                self._answer(caller.seat, command)

    def _answer(self, seat: Seat, command: Command) -> None:
        fails = self.random.random() < 0.1
        match command:
            case StartLookup(lookup=lookup):
                self.counts["lookups"] += 1
                text = " ".join(self.random.choices(WORDS, k=20))
                failed, found = LookupFailed(lookup, "soaked"), LookupAnswered(lookup, text)
                self.conductor.receive(seat, failed if fails else found)
            case EncodeReference(sequence=sequence, part=part):
                if fails:
                    self.conductor.receive(seat, EncodingFailed(sequence, part, "soaked"))
                else:
                    rows = torch.randn(12, self.bank.dim) * 0.02
                    self.conductor.receive(seat, ReferenceEncoded(sequence, part, 12), rows)

    def _read(self, caller: Caller) -> None:
        """Take events; now and then a client forgets to for a while."""
        if self.tick % 500 < 40 and not caller.seat.ended:
            return
        while (event := caller.seat.output.take()) is not None:
            if isinstance(event, AudioFrame):
                self.counts["answered"] += 1
                caller.frames += 1
            elif isinstance(event, SessionEnded):
                self.counts["failed"] += event.reason is EndReason.FAILED
                if caller in self.callers:
                    self.callers.remove(caller)


def judge(hours: list[dict[str, Any]]) -> list[str]:
    """What is wrong with a run; nothing, if all is well."""
    faults = []
    if len(hours) >= 3:
        first, last = hours[1], hours[-1]
        if last["rss_mb"] > first["rss_mb"] * 1.02 + 8:
            faults.append(f"memory grew from {first['rss_mb']} to {last['rss_mb']} MB")
        if last["largest_brain_kb"] > 4 * first["largest_brain_kb"] + 64:
            faults.append("a conversation's own memory grew")
        if last["step_ms_p50"] > first["step_ms_p50"] * 1.25:
            faults.append(f"a step grew from {first['step_ms_p50']} to {last['step_ms_p50']} ms")
    if failed := sum(hour["failed"] for hour in hours):
        faults.append(f"{failed} sessions failed")
    if lost := sum(hour["pushed"] - hour["dropped"] - hour["answered"] for hour in hours):
        share = lost / max(1, sum(hour["pushed"] for hour in hours))
        if abs(share) > 0.002:  # what waits at the end, first frames, and audio of those who left
            faults.append(f"{share:.2%} of the frames were neither answered nor counted as dropped")
    return faults


def plot(hours: list[dict[str, Any]], path: Path) -> None:
    """Memory and step times over the simulated hours."""
    try:
        import matplotlib
    except ImportError:
        print("no plot: pip install 'duologue[bench]' for matplotlib")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.8))
    at = [hour["hours"] for hour in hours]
    left.plot(at, [hour["rss_mb"] for hour in hours], "o-")
    left.set(xlabel="hours of conversation", ylabel="resident memory, MB", ylim=(0, None))
    for name in ("step_ms_p50", "step_ms_p99"):
        right.plot(at, [hour[name] for hour in hours], "o-", label=name)
    right.set(xlabel="hours of conversation", ylabel="processor time, ms", ylim=(0, None))
    right.legend()
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    print(f"plot: {path}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--hours", type=float, default=12.0, help="of conversation, in all")
    parser.add_argument("--sessions", type=int, default=12, help="at a time")
    parser.add_argument("--reports", type=int, default=12, help="figures so often, evenly spaced")
    parser.add_argument("--model", help="a model folder; a small untrained one if not given")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("out"), help="folder for JSON and PNG")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = small_model(arguments.seed)
    if arguments.model is not None:
        model = load_model(arguments.model, device=arguments.device)
    soak = Soak(model, arguments.sessions, arguments.seed)
    hours: list[dict[str, Any]] = []
    frames = round(arguments.hours * FRAMES_PER_HOUR / arguments.sessions)
    arguments.output.mkdir(parents=True, exist_ok=True)
    target = arguments.output / "soak.json"
    faults: list[str] = []
    for part in range(arguments.reports):
        hours.append(soak.run(frames * (part + 1) // arguments.reports - soak.tick))
        print(json.dumps(hours[-1]), flush=True)
        faults = judge(hours)
        report = {
            "date": time.strftime("%Y-%m-%d"),
            "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, {platform.system()}",
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "model": arguments.model or "untrained",
            "sessions": arguments.sessions,
            "seed": arguments.seed,
            "faults": faults,
            "hours": hours,
        }
        target.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"report: {target}")
    plot(hours, arguments.output / "soak.png")
    print("; ".join(faults) or "nothing grew, nothing was lost")
    sys.exit(1 if faults else 0)


def _rss_mb() -> float:
    """Resident memory now, or at its highest where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 2**20
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
