import { describe, expect, it, vi } from "vitest";
import { FRAME_MS, FRAME_SIZE } from "../src/audio/clock";
import { Activity } from "../src/conversation/activity";
import { askAdmission, chooseFormat } from "../src/conversation/admission";
import { Chronicle } from "../src/conversation/chronicle";
import { DelayMeter, median } from "../src/conversation/delay";
import { timeline } from "../src/conversation/download";
import { Hold } from "../src/conversation/hold";
import { changeLookup, isLooking, MAX_LOOKUPS, openLookup } from "../src/conversation/lookups";
import { IDLE, type Move, next, type Phase, retryWaitMs } from "../src/conversation/machine";
import { Reconnection } from "../src/conversation/reconnection";
import {
  addMark,
  addText,
  beginTurn,
  EMPTY,
  MAX_TURNS,
  type Script,
  toText,
} from "../src/conversation/transcript";
import { type Api, ApiError } from "../src/protocol/api";

const loud = Float32Array.from({ length: FRAME_SIZE }, (_, i) => 0.3 * Math.sin(i / 5));
const quiet = new Float32Array(FRAME_SIZE);

describe("machine", () => {
  const run = (...moves: Move[]): Phase => moves.reduce(next, IDLE);
  const live: Move[] = [
    { type: "start" },
    { type: "admitted" },
    { type: "microphone" },
    { type: "ready" },
  ];
  const drop: Move = { type: "dropped", nowMs: 1000, graceMs: 60_000 };

  it("goes from the click to the conversation in order", () => {
    expect(run({ type: "start" })).toEqual({ name: "starting", step: "server" });
    expect(run(...live.slice(0, 2))).toEqual({ name: "starting", step: "microphone" });
    expect(run(...live)).toEqual({ name: "live" });
    expect(run({ type: "start" }, { type: "ready" }).name).toBe("starting");
  });

  it("comes back after a lost connection, or gives up", () => {
    const lost = run(...live, drop);
    expect(lost).toEqual({ name: "reconnecting", attempt: 1, untilMs: 61_000 });
    expect(next(lost, { type: "attempt" })).toMatchObject({ attempt: 2 });
    expect(next(lost, { type: "ready" })).toEqual({ name: "live" });
    expect(next(lost, { type: "gave-up" })).toMatchObject({ name: "ended", reason: "lost" });
    expect(next(lost, { type: "stop" })).toMatchObject({ name: "ended", reason: "you" });
  });

  it("shows what stands in the way, and can try again from there", () => {
    const blocked = run(
      { type: "start" },
      { type: "problem", problem: { kind: "full", retryAtMs: 9 } },
    );
    expect(blocked).toEqual({ name: "blocked", problem: { kind: "full", retryAtMs: 9 } });
    expect(next(blocked, { type: "start" })).toMatchObject({ name: "starting" });
    expect(next(blocked, { type: "home" })).toEqual(IDLE);
  });

  it("lets nothing late change where it is", () => {
    const ended = run(...live, { type: "ended", reason: "server" });
    const late: Move[] = [
      { type: "ready" },
      drop,
      { type: "attempt" },
      { type: "gave-up" },
      { type: "admitted" },
      { type: "problem", problem: { kind: "insecure" } },
      { type: "ended", reason: "lost" },
      { type: "stop" },
    ];
    for (const move of late) expect(next(ended, move)).toBe(ended);
    for (const move of late) expect(next(IDLE, move)).toBe(IDLE);
    expect(run(...live, { type: "start" })).toEqual({ name: "live" });
    expect(run(...live, { type: "home" })).toEqual({ name: "live" });
    expect(run({ type: "start" }, { type: "stop" })).toBe(IDLE);
  });

  it("waits longer each time, up to a bound", () => {
    expect([1, 2, 3, 4].map(retryWaitMs)).toEqual([250, 500, 1000, 2000]);
    expect(retryWaitMs(30)).toBe(5000);
  });
});

describe("Reconnection", () => {
  function trial(deadlineMs: number) {
    const log: string[] = [];
    const reconnection = new Reconnection(
      deadlineMs,
      { attempt: (n) => log.push(`try ${n}`), giveUp: () => log.push("gave up") },
      () => Date.now(),
    );
    return { log, reconnection };
  }

  it("tries until the session is forgotten", () => {
    vi.useFakeTimers({ now: 0 });
    const { log, reconnection } = trial(3000);
    reconnection.begin();
    for (let n = 0; n < 6; n++) {
      vi.advanceTimersByTime(2500);
      reconnection.failed(false);
    }
    expect(log).toEqual(["try 1", "try 2", "gave up"]);
    vi.useRealTimers();
  });

  it("believes a server that refuses three times", () => {
    vi.useFakeTimers({ now: 0 });
    const { log, reconnection } = trial(60_000);
    reconnection.begin();
    for (let n = 0; n < 5; n++) {
      vi.advanceTimersByTime(5000);
      reconnection.failed(true);
    }
    expect(log).toEqual(["try 1", "try 2", "try 3", "gave up"]);
    vi.useRealTimers();
  });

  it("does nothing more once cancelled", () => {
    vi.useFakeTimers({ now: 0 });
    const { log, reconnection } = trial(60_000);
    reconnection.begin();
    reconnection.cancel();
    vi.advanceTimersByTime(60_000);
    reconnection.failed(false);
    expect(log).toEqual([]);
    vi.useRealTimers();
  });
});

describe("script", () => {
  it("sets turns, interruptions and marks", () => {
    let script: Script = beginTurn(EMPTY, "model", 0, false);
    script = addText(script, "model", " It is", 100);
    script = addMark(script, 4, 120);
    script = addText(script, "model", " Lima ", 200);
    script = beginTurn(script, "user", 300, true);
    script = addText(script, "user", "Wait", 400);
    const [model, user] = script.turns;
    expect(model).toMatchObject({ text: "It is Lima ", cutOff: true, over: false });
    expect(model!.marks).toEqual([{ sequence: 4, at: 5 }]);
    expect(user).toMatchObject({ text: "Wait", over: true, cutOff: false, startMs: 300 });
    expect(toText(script, "Duologue")).toBe(
      "0:00  DUOLOGUE  It is Lima\u2014\n0:00  YOU       (over Duologue) Wait\n",
    );
  });

  it("keeps a question whole whose last words come after its lookup has begun", () => {
    let script = addText(EMPTY, "user", "What is the capital", 100);
    script = addMark(script, 1, 200);
    script = addText(script, "user", " of France?", 300);
    script = beginTurn(script, "model", 400, false);
    script = addText(script, "model", " Let me see.", 500);
    script = addText(script, "user", "Thanks", 600);
    expect(script.turns.map(({ role, text, marks }) => [role, text, marks.length])).toEqual([
      ["user", "What is the capital of France?", 0],
      ["model", "Let me see.", 1],
      ["user", "Thanks", 0],
    ]);
  });

  it("opens a turn for text that comes without one", () => {
    const script = addText(addText(EMPTY, "user", "a", 1), "model", "b", 2);
    expect(script.turns.map(({ role, text }) => [role, text])).toEqual([
      ["user", "a"],
      ["model", "b"],
    ]);
    expect(beginTurn(script, "model", 3, true)).toBe(script);
  });

  it("forgets the oldest turns", () => {
    let script = EMPTY;
    for (let n = 0; n < MAX_TURNS + 10; n++)
      script = addText(script, n % 2 === 0 ? "user" : "model", `${n}`, n);
    expect(script.turns.length).toBe(MAX_TURNS);
    expect(script.forgotten).toBe(10);
  });
});

describe("lookups", () => {
  it("follows one from question to answer", () => {
    let all = openLookup([], 1, 100, "Peru?");
    expect(isLooking(all)).toBe(true);
    all = changeLookup(all, 1, 900, { state: "answered", endMs: 900, answer: "Lima" });
    expect(isLooking(all)).toBe(false);
    expect(all).toMatchObject([{ question: "Peru?", state: "answered", answer: "Lima" }]);
    expect(changeLookup(all, 9, 50, { state: "empty" })).toHaveLength(2);
  });

  it("keeps the newest", () => {
    let all = openLookup([], 0, 0);
    for (let n = 1; n <= MAX_LOOKUPS + 5; n++) all = openLookup(all, n, n);
    expect(all).toHaveLength(MAX_LOOKUPS);
    expect(all[0]!.sequence).toBe(6);
  });
});

describe("Activity", () => {
  it("finds where both speak, and when words began to sound", () => {
    const activity = new Activity();
    for (let n = 1; n <= 60; n++) {
      activity.feed("model", n <= 30 ? loud : quiet, n * FRAME_MS);
      activity.feed("user", n > 20 && n <= 40 ? loud : quiet, n * FRAME_MS);
    }
    expect(activity.together).toHaveLength(1);
    const [both] = activity.together;
    expect(both!.startMs).toBe(20 * FRAME_MS);
    expect(both!.endMs).toBe(30 * FRAME_MS);
    expect(activity.beganMs("user", 60 * FRAME_MS)).toBe(20 * FRAME_MS);
    expect(activity.wasTogether(32 * FRAME_MS)).toBe(true);
    expect(activity.wasTogether(90 * FRAME_MS)).toBe(false);
    expect(activity.isAudible("user")).toBe(false);
  });

  it("does not call a click a voice", () => {
    const activity = new Activity();
    const click = new Float32Array(FRAME_SIZE);
    click[700] = 0.9;
    for (let n = 1; n < 20; n++) {
      activity.feed("user", click, n * FRAME_MS);
      activity.feed("model", loud, n * FRAME_MS);
    }
    expect(activity.together).toEqual([]);
  });
});

describe("Chronicle", () => {
  it("tells a barge-in from a polite turn, and dates words by the voice", () => {
    const chronicle = new Chronicle();
    let nowMs = 0;
    const sound = (model: boolean, user: boolean, frames: number) => {
      for (let n = 0; n < frames; n++) {
        nowMs += FRAME_MS;
        chronicle.activity.feed("model", model ? loud : quiet, nowMs);
        chronicle.activity.feed("user", user ? loud : quiet, nowMs);
      }
    };
    chronicle.told({ type: "turn", role: "model" }, nowMs);
    sound(true, false, 20);
    chronicle.told({ type: "text", role: "model", text: "It lies by" }, nowMs);
    const cutInMs = nowMs;
    sound(true, true, 10);
    sound(false, true, 5);
    chronicle.told({ type: "turn", role: "user" }, nowMs);
    chronicle.told({ type: "text", role: "user", text: "Wait" }, nowMs);
    sound(false, false, 40);
    chronicle.told({ type: "turn", role: "model" }, nowMs);
    chronicle.told({ type: "lookup", sequence: 7 }, nowMs);
    chronicle.told({ type: "text", role: "model", text: "Yes?" }, nowMs);
    const sources = [{ title: "facts.md", location: "" }];
    const answer = { type: "answer", sequence: 7, text: "Lima", label: "x", sources } as const;
    chronicle.told(answer, nowMs + 500);
    chronicle.told({ type: "told", sequence: 7 }, nowMs + 600);

    const [first, second, third] = chronicle.script.value.turns;
    expect(first).toMatchObject({ role: "model", cutOff: true });
    expect(second).toMatchObject({ role: "user", over: true, startMs: cutInMs });
    expect(third).toMatchObject({ role: "model", over: false, text: "Yes?" });
    expect(third!.marks).toEqual([{ sequence: 7, at: 0 }]);
    expect(chronicle.lookups.value).toMatchObject([
      { state: "told", question: "Wait", answer: "Lima", endMs: nowMs + 500 },
    ]);
    chronicle.told({ type: "reset" }, nowMs);
    expect(chronicle.script.value.turns).toEqual([]);
  });
});

describe("admission", () => {
  const api = (status: number) =>
    ({
      availability: () => Promise.resolve({ available: true }),
      model: () => Promise.reject(new ApiError(status, "", "No voice of that name.")),
    }) as unknown as Api;

  it("names what stands in the way", async () => {
    expect(await askAdmission(api(401), false)).toEqual({
      problem: { kind: "token", rejected: false },
    });
    expect(await askAdmission(api(401), true)).toMatchObject({ problem: { rejected: true } });
    expect(await askAdmission(api(0), true)).toEqual({ problem: { kind: "unreachable" } });
    expect(await askAdmission(api(403), true)).toEqual({
      problem: { kind: "refused", message: "No voice of that name." },
    });
  });

  it("chooses what both sides can", () => {
    expect(chooseFormat("auto", true, ["opus", "pcm16"])).toBe("opus");
    expect(chooseFormat("auto", true, [])).toBe("opus");
    expect(chooseFormat("auto", false, ["opus"])).toBe("pcm16");
    expect(chooseFormat("opus", true, ["pcm16"])).toBe("pcm16");
    expect(chooseFormat("pcm16", true, ["opus", "pcm16"])).toBe("pcm16");
  });
});

describe("Hold", () => {
  it("drops the rest of a sentence and ends at a pause", () => {
    const hold = new Hold();
    expect(hold.passes(loud, 1)).toBe(true);
    hold.begin();
    for (let n = 0; n < 10; n++) expect(hold.passes(loud, 1)).toBe(false);
    for (let n = 0; n < 4; n++) expect(hold.passes(quiet, 1)).toBe(false);
    expect(hold.passes(loud, 1)).toBe(true);
  });

  it("ends in any case", () => {
    const hold = new Hold();
    hold.begin();
    let dropped = 0;
    while (!hold.passes(loud, 1)) dropped += 1;
    expect(dropped).toBe(50);
  });
});

describe("DelayMeter", () => {
  it("matches the n-th frame back with the n-th frame out", () => {
    const meter = new DelayMeter();
    for (let n = 0; n < 30; n++) {
      meter.sent(n * FRAME_MS);
      if (n >= 2) meter.received(FRAME_SIZE, n * FRAME_MS);
    }
    expect(meter.roundTripMs).toBe(2 * FRAME_MS);
    expect(meter.total(60, 10)).toEqual({
      captureMs: 80,
      roundTripMs: 160,
      playoutMs: 60,
      deviceMs: 10,
      totalMs: 310,
    });
    meter.restart();
    expect(meter.total(0, 0)).toBeUndefined();
  });

  it("is not misled by frames that the server has dropped", () => {
    const meter = new DelayMeter();
    for (let n = 0; n < 60; n++) {
      meter.sent(n * FRAME_MS);
      if (n === 10) meter.dropped(4.9);
      if (n < 6 || n >= 10) meter.received(FRAME_SIZE, n * FRAME_MS + 20);
    }
    expect(meter.roundTripMs).toBe(20);
  });

  it("finds medians", () => {
    expect(median([])).toBeUndefined();
    expect(median([3, 1, 2])).toBe(2);
  });
});

describe("timeline", () => {
  it("is JSON with everything and whole milliseconds", () => {
    const script = addText(beginTurn(EMPTY, "user", 10.4, false), "user", "Hi", 20.6);
    const text = timeline({
      startedAt: new Date(0),
      durationMs: 1234.5,
      model: "wren",
      voice: "",
      script,
      lookups: openLookup([], 1, 5.5),
      together: [{ startMs: 1.2, endMs: 2.8 }],
      roundTripsMs: [90],
    });
    expect(JSON.parse(text)).toMatchObject({
      format: "duologue-timeline",
      version: 1,
      startedAt: "1970-01-01T00:00:00.000Z",
      turns: [{ role: "user", startMs: 10, endMs: 21, text: "Hi" }],
      lookups: [{ startMs: 6 }],
      together: [{ startMs: 1, endMs: 3 }],
    });
  });
});
