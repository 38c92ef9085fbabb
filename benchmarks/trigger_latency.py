"""From trigger to the first row of the answer: `python benchmarks/trigger_latency.py`.

Somebody asks, a recogniser hears it a second later, the model asks for knowledge some time
after the end of the question, somebody answers, the answer is encoded, and its first row is added
to the model's input. What is reported is the time from the frame of the trigger to the frame of
that row, for each back end:

- the knowledge base (the shipped fact book),
- a tool (the calculator),
- a language model behind an OpenAI-compatible server on loopback that answers after a given time.

The published system has 1.4 s as the mode of its distribution, with a local language model
(MoshiRAG paper); its wait for recognition alone is fixed to 0.5 s.

In model time (the default) the model stands still while it is looked up, and the time that really
took is counted in frames, so the figures hold on a busy machine too. `--live` runs the live engine
in real time instead, all hand-overs between its threads included, and adds wall times; `overruns`
counts frames that were late, and with many of them the figures are the machine's.

In model time each figure is taken twice: with recognition that catches up at once in the frame of
the trigger, as local recognition does in `duologue talk` and services do everywhere, and with
recognition that has to be waited for, as local recognition has in a live conversation.

Without `--model` the model is untrained and very small: it is the way of a retrieval that is
measured, not what it is good for. Triggers are forced. Writes JSON, a PNG plot where matplotlib is
installed, and the table in docs/talk.md.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import uvicorn
from harness import RESULTS, ROOT, describe_machine, machine_line, publish, table
from soak import small_model
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route
from torch import Tensor, nn

from duologue.conditioning import ReferenceEncoder
from duologue.dialogue import (
    AudioFrame,
    Event,
    ReferenceInjected,
    RetrievalFailed,
    RetrievalStarted,
    RetrievalSucceeded,
)
from duologue.encoder.local import LocalEncoder
from duologue.encoder.model import RowModel
from duologue.encoder.opening import open_encoder
from duologue.encoder.ports import RowEncoder
from duologue.engine import LoadedModel, SlotBank, load_model
from duologue.engine.api import FRAME_S, EngineSettings, SessionOptions
from duologue.offline.log import TalkLog
from duologue.offline.lookups import retrievals
from duologue.offline.outside import ModelClock, Outside
from duologue.retrieval import (
    KnowledgeRetriever,
    RetrievalContext,
    RetrievalSettings,
    Retriever,
    attempt,
    build_retriever,
    open_knowledge,
)
from duologue.retrieval.profiles import profiles_from_environment
from duologue.session import Engine, Session
from duologue.session.core import ConversationCore, FrameGiven, advance
from duologue.session.lookups import Backends
from duologue.session.options import conversation, slot_setup
from duologue.stt.ports import Heard

Rows = AsyncIterator[dict[str, Any]]
PUBLISHED_S = 1.4
AIM_S = 0.25
STT_DELAY_FRAMES = 12
"""As that of wren's model, whose hypotheses stay open for four more."""
WORD_FRAMES = 4
"""A word each 0.32 s."""
PATIENCE_S = 20.0
MAX_LATENCY_FRAMES = 60
ANSWER = "The old harbour bridge was opened in nineteen hundred and two, and it is painted green."


class ForcedTrigger(nn.Module):
    """The model's text head, which says the retrieval token in one step of choice and no other."""

    def __init__(self, head: nn.Module, token: int) -> None:
        super().__init__()
        self.head, self.token, self.left = head, token, -1

    @classmethod
    def of(cls, model: LoadedModel) -> ForcedTrigger:
        """Put one into a model."""
        token = model.lm.config.rag_token_id
        if token is None or not model.takes_references:
            raise SystemExit("this model never asks for knowledge")
        head = cls(model.lm.text_linear, token)
        model.lm.text_linear = head  # type: ignore[assignment]
        return head

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(x)
        logits[..., self.token] = 1e4 if self.left == 0 else -1e4
        self.left -= 1
        return logits


class Question:
    """Recognition of one question: every word `STT_DELAY_FRAMES` after it was said.

    When it is flushed, the words of all audio so far come at once, with the frame.
    """

    def __init__(self, text: str) -> None:
        self.words = text.split()
        self.frame = -1
        self.given = 0
        self._flushed = False

    @property
    def frames(self) -> int:
        return len(self.words) * WORD_FRAMES

    async def open(self) -> Question:
        return Question(" ".join(self.words))

    def push(self, frame: np.ndarray) -> None:
        self.frame += 1

    def take(self) -> Heard:
        at = self.frame if self._flushed else self.frame - STT_DELAY_FRAMES
        self._flushed = False
        begun = max(0, min(len(self.words), at // WORD_FRAMES + 1))
        words = tuple(f" {word}" for word in self.words[self.given : begun])
        self.given = max(self.given, begun)
        inactivity = 0.05 if self.frame < self.frames else 0.95
        return Heard(words, inactivity, max(-1, at))

    def flush(self) -> None:
        self._flushed = True

    async def finish(self, timeout_s: float = 5.0) -> Heard:
        return Heard()

    async def aclose(self) -> None: ...


class Words:
    """A tokenizer for an untrained encoder: a number for each word."""

    def __init__(self, size: int) -> None:
        self._size = size

    def encode(self, text: str) -> list[int]:
        return [sum(map(ord, word)) % self._size for word in text.split()]


@dataclass(frozen=True)
class Measured:
    """One retrieval; `frames` from the trigger to the first row, None if there was none."""

    frames: int | None
    wall_s: float | None
    lookup_s: float | None
    """From the question to the back end to the end of its answer."""
    outcome: str


async def measure_in_model_time(
    bank: SlotBank,
    outside: Outside,
    head: ForcedTrigger,
    question: Question,
    late_frames: int,
    seed: int,
    *,
    flush: bool,
) -> Measured:
    """One conversation; the trigger comes `late_frames` after the end of the question.

    With `flush`, recognition catches up in the frame of the trigger, as `duologue talk` has it.
    """
    options = SessionOptions(seed=seed, init_speaker="user")
    brain = conversation(options, ("default",), simulated=True, stt_delay_frames=STT_DELAY_FRAMES)
    core = ConversationCore(bank, 0, brain, slot_setup(bank.model, options))
    for _ in core.prepare():
        pass
    head.left = question.frames + late_frames
    ears, clock, log = await question.open(), ModelClock(), TalkLog()
    injected = None
    silence = np.zeros(1920, np.float32)
    for frame in range(question.frames + late_frames + MAX_LATENCY_FRAMES):
        ears.push(silence)
        if flush and frame == question.frames + late_frames:
            ears.flush()
        made = advance(bank, {core: FrameGiven(silence, ears.take())})[core]
        if isinstance(made, Exception):
            raise made
        requests = log.outputs(made.outputs)
        while requests:
            answers = await outside.carry_out(requests)
            requests = []
            for answered in answers:
                log.measured(answered.request, answered.measured_s)
                for reply, rows in answered.replies:
                    counted = clock.count(answered.request, reply)
                    requests += log.outputs(core.receive(counted, rows))
        injected = next((one for one in log.events if isinstance(one, ReferenceInjected)), None)
        if injected is not None:
            break
    bank.reset(0)
    (found,) = retrievals(log)[:1] or [None]
    if found is None or injected is None:
        return Measured(None, None, None, found.outcome if found else "none")
    frames = injected.frame + 1 - found.trigger_step
    return Measured(frames, None, found.lookup_s, found.outcome)


async def measure_live(
    engine: Engine, head: ForcedTrigger, question: Question, late_frames: int, seed: int
) -> Measured:
    """One conversation; the trigger comes `late_frames` after the end of the question."""
    trigger_frame = question.frames + late_frames
    session = await engine.open(SessionOptions(seed=seed, init_speaker="user"))
    try:
        head.left = trigger_frame
        async with asyncio.timeout(PATIENCE_S):
            talking = asyncio.create_task(talk(session, seed))
            try:
                return await watch(session.events())
            finally:
                talking.cancel()
    finally:
        await session.close()
        while engine.stats().in_use:
            await asyncio.sleep(0.01)


async def talk(session: Session, seed: int) -> None:
    """The user's voice, a frame each 80 ms."""
    noise = np.random.default_rng(seed).standard_normal((50, 1920)).astype(np.float32) * 0.05
    begin = time.monotonic()
    for frame in range(10_000):
        await asyncio.sleep(max(0.0, begin + frame * FRAME_S - time.monotonic()))
        session.push(noise[frame % 50])


async def watch(events: AsyncIterator[Event]) -> Measured:
    """Read until the first row has been added, or it is clear that there is none."""
    made: dict[int, float] = {}
    started = answered = injected = None
    async for event in events:
        match event:
            case AudioFrame():
                made[event.frame] = time.monotonic()
            case RetrievalStarted():
                started = event
            case RetrievalFailed():
                return Measured(None, None, None, event.outcome.value)
            case RetrievalSucceeded():
                answered = event
            case ReferenceInjected():
                injected = injected or event
        if started and injected and injected.frame + 1 in made:
            first = injected.frame + 1
            lookup = answered.lookup_latency * FRAME_S if answered else None
            wall_s = made[first] - made[started.frame]
            return Measured(first - started.frame, wall_s, lookup, "answered")
    return Measured(None, None, None, "ended")


def serve_model(delay_s: float) -> Callable[[Request], Any]:
    """A chat endpoint that streams `ANSWER`, a word each 20 ms, after a while."""

    async def chat(request: Request) -> StreamingResponse:
        await request.json()

        async def body() -> AsyncIterator[str]:
            await asyncio.sleep(delay_s)
            for number, word in enumerate(ANSWER.split()):
                content = word if number == 0 else f" {word}"
                yield f"data: {json.dumps({'choices': [{'delta': {'content': content}}]})}\n\n"
                await asyncio.sleep(0.02)
            yield "data: [DONE]\n\n"

        return StreamingResponse(body(), media_type="text/event-stream")

    return chat


@contextlib.contextmanager
def chat_server(delay_s: float) -> Iterator[str]:
    """The base URL of a language model that takes its time."""
    app = Starlette(routes=[Route("/v1/chat/completions", serve_model(delay_s), methods=["POST"])])
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    finally:
        server.should_exit = True
        thread.join(timeout=5)


@contextlib.contextmanager
def back_ends(llm_delays_s: Sequence[float]) -> Iterator[dict[str, tuple[str, Retriever]]]:
    """By name: a question, and who answers it."""
    with contextlib.ExitStack() as stack:
        knowledge = KnowledgeRetriever(open_knowledge([Path("factbook")]))
        found: dict[str, tuple[str, Retriever]] = {
            "knowledge base": ("what is the capital of Peru", knowledge),
            "tool": ("what is twelve times seven", build_retriever(RetrievalSettings())),
        }
        for delay_s in llm_delays_s:
            url = stack.enter_context(chat_server(delay_s))
            llm = profiles_from_environment({"LLM_BASE_URL": url, "LLM_MODEL_NAME": "test"})
            settings = RetrievalSettings(tools=False, llm=llm)
            question = "when was the old harbour bridge opened"
            found[f"language model, {delay_s:g} s"] = (question, build_retriever(settings))
        yield found


@dataclass(frozen=True)
class Benchmark:
    """What all rows share."""

    model: LoadedModel
    encoder: RowEncoder
    head: ForcedTrigger
    late_s: Sequence[float]
    sessions: int
    seed: int

    async def in_model_time(self, name: str, text: str, retriever: Retriever) -> Rows:
        """A row for each time of the trigger."""
        question = Question(text)
        bank = SlotBank(self.model, 1)
        outside = Outside(Backends.of(retriever, ("default",)), self.encoder, bank.dim)
        for late_frames in self._late_frames():
            for flush in (True, False):
                found = [
                    await measure_in_model_time(
                        bank, outside, self.head, question, late_frames, self.seed + number,
                        flush=flush,
                    )
                    for number in range(self.sessions)
                ]  # fmt: skip
                yield summary(name, late_frames, found) | {"flushed": flush}

    async def live(self, name: str, text: str, retriever: Retriever) -> Rows:
        """The same on the engine."""
        question = Question(text)
        settings = EngineSettings(slots=1, budget_share=1.0)
        async with Engine(
            self.model, settings, retriever=retriever, encoder=self.encoder, stt=question
        ) as engine:
            for late_frames in self._late_frames():
                before = engine.stats().overruns
                found = [
                    await measure_live(engine, self.head, question, late_frames, self.seed + number)
                    for number in range(self.sessions)
                ]
                walls = [one.wall_s for one in found if one.wall_s is not None]
                yield summary(name, late_frames, found) | {
                    "flushed": True,
                    "wall_p50_s": _quantile(walls, 50),
                    "wall_p95_s": _quantile(walls, 95),
                    "overruns": engine.stats().overruns - before,
                }

    def _late_frames(self) -> list[int]:
        return [round(after_s / FRAME_S) for after_s in self.late_s]


async def run(
    benchmark: Benchmark, retrievers: dict[str, tuple[str, Retriever]], live: bool
) -> list[dict[str, Any]]:
    """A row for each back end and time of the trigger; the first lookup of each is for practice."""
    await benchmark.encoder.encode("The first text takes longer than all others.", PATIENCE_S)
    rows = []
    for name, (text, retriever) in retrievers.items():
        await attempt(retriever, RetrievalContext.from_question(text), PATIENCE_S)
        measure = benchmark.live if live else benchmark.in_model_time
        async for row in measure(name, text, retriever):
            rows.append(row)
            print(json.dumps(row), flush=True)
        await retriever.aclose()
    return rows


def summary(name: str, late_frames: int, found: Sequence[Measured]) -> dict[str, Any]:
    """Figures of conversations of one kind."""
    latencies = [FRAME_S * one.frames for one in found if one.frames is not None]
    lookups = [one.lookup_s for one in found if one.lookup_s is not None]
    return {
        "back_end": name,
        "trigger_after_question_s": round(late_frames * FRAME_S, 2),
        "conversations": len(found),
        "answered": len(latencies),
        "latency_p50_s": _quantile(latencies, 50),
        "latency_p95_s": _quantile(latencies, 95),
        "lookup_p50_s": _quantile(lookups, 50),
    }


def _quantile(values: Sequence[float], percent: float) -> float | None:
    return round(float(np.percentile(values, percent)), 3) if values else None


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Latency against the time of the trigger."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        print("no plot: pip install 'duologue[bench]' for matplotlib")
        return
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for number, name in enumerate(dict.fromkeys(row["back_end"] for row in rows)):
        for flushed, style in ((True, "o-"), (False, "o:")):
            mine = [
                row
                for row in rows
                if row["back_end"] == name and row["answered"] and row["flushed"] == flushed
            ]
            at = [row["trigger_after_question_s"] for row in mine]
            label = name if flushed else None
            height = [row["latency_p50_s"] for row in mine]
            axes.plot(at, height, style, color=f"C{number}", label=label)
    for height, label in ((PUBLISHED_S, "published, mode"), (AIM_S, "aim, knowledge base")):
        axes.axhline(height, color="black", lw=0.8, ls=(0, (4, 3)))
        axes.annotate(label, (1, height), xycoords=("axes fraction", "data"), ha="right",
                      xytext=(-4, 3), textcoords="offset points", fontsize=8)  # fmt: skip
    axes.set(
        xlabel="trigger after the end of the question, s",
        ylabel="trigger to first row, s (p50)",
        title="dotted: recognition is waited for; solid: it catches up at the trigger",
        ylim=(0, None),
    )
    axes.title.set_fontsize(9)
    axes.legend(fontsize=8, frameon=False, loc="upper right", bbox_to_anchor=(1, 0.8))
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    print(f"plot: {path}")


def page(report: dict[str, Any]) -> str:
    """The table of docs/talk.md."""
    rows = report["results"]
    late = list(dict.fromkeys(row["trigger_after_question_s"] for row in rows))
    lines = []
    for name in dict.fromkeys(row["back_end"] for row in rows):
        for flushed in (True, False):
            mine = {
                row["trigger_after_question_s"]: f"{row['latency_p50_s']:.2f}"
                if row["answered"]
                else "none"
                for row in rows
                if row["back_end"] == name and row["flushed"] == flushed
            }
            if mine:
                how = "catches up" if flushed else "is waited for"
                lines.append((name, how, *(mine[after] for after in late)))
    published = f"{report['published_s']:.1f}"
    lines.append(("published system (mode)", "fixed wait", *[published] * len(late)))
    header = ("back end", "recognition", *(f"{after:.2f} s" for after in late))
    found = [row["conversations"] for row in rows]
    told = f"Seconds, p50 of {min(found)} conversations each, {report['clock']}."
    return f"{table(header, lines)}\n\n{told} {machine_line(report['machine'])}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sessions", type=int, default=10, help="of each kind")
    parser.add_argument(
        "--after", type=float, nargs="+", default=[0.0, 0.24, 0.48, 0.96],
        help="seconds from the end of the question to the trigger",
    )  # fmt: skip
    parser.add_argument(
        "--llm-delays", type=float, nargs="*", default=[0.2, 0.8],
        help="seconds until a language model's first word",
    )  # fmt: skip
    parser.add_argument("--live", action="store_true", help="on the live engine, in real time")
    parser.add_argument("--model", help="a model folder; a small untrained one if not given")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--output", type=Path, help="folder for JSON and PNG; docs/benchmarks and the table of "
        "docs/talk.md if not given (model time only)",
    )  # fmt: skip
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.model is None:
        model = small_model(arguments.seed)
        encoder = untrained_encoder(model)
    else:
        model = load_model(arguments.model, device=arguments.device)
        assert model.folder is not None
        encoder = open_encoder(model.folder, device=model.device)
    benchmark = Benchmark(
        model,
        encoder,
        ForcedTrigger.of(model),
        arguments.after,
        arguments.sessions,
        arguments.seed,
    )
    with back_ends(arguments.llm_delays) as retrievers:
        rows = asyncio.run(run(benchmark, retrievers, arguments.live))
    report = {
        "machine": describe_machine(),
        "model": arguments.model or "untrained",
        "clock": "live" if arguments.live else "model time",
        "recogniser": f"scripted, {STT_DELAY_FRAMES * FRAME_S:.2f} s behind",
        "published_s": PUBLISHED_S,
        "aim_s": AIM_S,
        "seed": arguments.seed,
        "results": rows,
    }
    folder = arguments.output or (Path("out") if arguments.live else RESULTS)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "trigger_latency.json"
    target.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"report: {target}")
    plot(rows, target.with_suffix(".png"))
    if folder == RESULTS:
        publish("trigger_latency", page(report), ROOT / "docs" / "talk.md")


def untrained_encoder(model: LoadedModel) -> RowEncoder:
    """An encoder of the shape that the model's conditions say."""
    conditioner = model.lm.condition_provider.reference
    assert conditioner is not None
    config = conditioner.config
    encoder = ReferenceEncoder(config).eval().requires_grad_(False)
    return LocalEncoder(RowModel(Words(config.vocab_size), encoder, conditioner))


if __name__ == "__main__":
    main()
