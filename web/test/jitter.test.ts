import { describe, expect, it } from "vitest";
import { FRAME_MS, FRAME_SIZE, msOf, samplesOf } from "../src/audio/clock";
import { DRIFT, DriftControl } from "../src/audio/drift";
import { JitterBuffer } from "../src/audio/jitter";

const STEP_MS = 4;

/** A frame whose samples count up, so that order and loss can be seen. */
function ramp(n: number): Float32Array {
  return Float32Array.from({ length: FRAME_SIZE }, (_, i) => (n * FRAME_SIZE + i + 1) / 1e7);
}

/** Frame `n` of an endless tone. */
const loud = (n = 0): Float32Array =>
  Float32Array.from({ length: FRAME_SIZE }, (_, i) => 0.3 * Math.sin((n * FRAME_SIZE + i) / 9));

/** Play for `ms`, frames arriving at `arrivals` (ms); returns all that was heard. */
function play(
  buffer: JitterBuffer,
  arrivals: readonly number[],
  ms: number,
  frame: (n: number) => Float32Array = ramp,
): Float32Array {
  const heard = new Float32Array(samplesOf(ms));
  let next = 0;
  for (let now = 0; now < ms; now += STEP_MS) {
    while (next < arrivals.length && arrivals[next]! <= now) buffer.push(frame(next++));
    buffer.read(heard.subarray(samplesOf(now), samplesOf(now + STEP_MS)));
  }
  return heard;
}

const steady = (count: number, every = FRAME_MS, start = 0): number[] =>
  Array.from({ length: count }, (_, n) => start + n * every);

describe("JitterBuffer", () => {
  it("waits for one frame and the headroom, then plays everything in order", () => {
    const heard = play(new JitterBuffer(), steady(20), 1500);
    const first = heard.findIndex((x) => x !== 0);
    expect(msOf(first)).toBeGreaterThanOrEqual(DRIFT.initialMs - STEP_MS);
    expect(msOf(first)).toBeLessThan(DRIFT.initialMs + 3 * STEP_MS);
    const faded = first + samplesOf(10);
    for (let i = faded + 1; i < faded + samplesOf(1000); i += 37)
      expect(heard[i]! - heard[i - 1]!).toBeCloseTo(1e-7, 8);
  });

  it("hears no gap when frames are late by less than the headroom", () => {
    const buffer = new JitterBuffer();
    const late = steady(60).map((at, n) => at + (n % 3 === 1 ? DRIFT.initialMs - 2 * STEP_MS : 0));
    play(buffer, late, 60 * FRAME_MS, loud);
    expect(buffer.gaps).toBe(0);
  });

  it("counts a gap, fades instead of clicking, and asks for more headroom", () => {
    const buffer = new JitterBuffer();
    const arrivals = [...steady(10), ...steady(10, FRAME_MS, 1200)];
    const heard = play(buffer, arrivals, 1900, loud);
    expect(buffer.gaps).toBe(1);
    expect(buffer.drift.headroomMs).toBeGreaterThan(DRIFT.initialMs + 15);
    let steepest = 0;
    for (let i = 1; i < heard.length; i++)
      steepest = Math.max(steepest, Math.abs(heard[i]! - heard[i - 1]!));
    expect(steepest).toBeLessThan(0.06); // the tone itself moves 0.033 a sample
  });

  it("drops the oldest of a burst at once and bounds what waits", () => {
    const buffer = new JitterBuffer();
    play(buffer, steady(5), 300);
    for (let n = 0; n < 40; n++) buffer.push(ramp(100 + n));
    expect(buffer.stats.levelMs).toBeLessThan(600);
    expect(buffer.stats.droppedMs).toBeGreaterThan(2000);
    const out = new Float32Array(samplesOf(20));
    buffer.read(out);
    expect(out.at(-1)!).toBeGreaterThan(100 * FRAME_SIZE * 1e-7);
  });

  it("skips silence when too much waits", () => {
    const buffer = new JitterBuffer();
    const silence = () => new Float32Array(FRAME_SIZE);
    play(buffer, steady(4), 320, silence);
    for (let n = 0; n < 3; n++) buffer.push(silence());
    play(buffer, steady(100), 8000, silence);
    expect(buffer.stats.droppedMs).toBeGreaterThan(60);
    expect(buffer.drift.excessMs).toBeLessThan(80);
    expect(buffer.gaps).toBe(0);
  });

  it("forgets what waits when it is flushed", () => {
    const buffer = new JitterBuffer();
    play(buffer, steady(3), 200);
    buffer.flush();
    const out = new Float32Array(samplesOf(80));
    buffer.read(out);
    expect(buffer.stats.levelMs).toBe(0);
    expect(Math.abs(out.at(-1)!)).toBe(0);
  });
});

describe("DriftControl", () => {
  it("stays at speed 1 near the goal and never leaves half a per cent", () => {
    const drift = new DriftControl();
    drift.arrived(drift.headroomMs + 2, FRAME_MS);
    expect(drift.speed).toBe(1);
    for (let n = 0; n < 200; n++) drift.arrived(500, FRAME_MS);
    expect(drift.speed).toBeCloseTo(1.005, 6);
    for (let n = 0; n < 200; n++) drift.arrived(0, FRAME_MS);
    expect(drift.speed).toBeGreaterThanOrEqual(0.995);
    expect(drift.speed).toBeLessThan(1);
  });

  it.each([0.9985, 1.0015])("holds the margin against a sender whose clock runs at %f", (rate) => {
    const buffer = new JitterBuffer();
    const heard = new Float32Array(samplesOf(STEP_MS));
    const margins: number[] = [];
    let due = 0;
    let owed = 0;
    for (let now = 0; now < 120_000; now += STEP_MS) {
      if (now >= due) {
        buffer.push(loud());
        due += FRAME_MS / rate;
      }
      owed += heard.length * buffer.drift.speed; // what the resampler would ask for
      const count = Math.floor(owed);
      owed -= count;
      buffer.read(new Float32Array(count));
      if (now > 60_000) margins.push(buffer.drift.excessMs);
    }
    expect(buffer.gaps).toBeLessThanOrEqual(1);
    expect(Math.max(...margins.map(Math.abs))).toBeLessThan(40);
  });

  it("grows with gaps up to its bound and shrinks slowly afterwards", () => {
    const drift = new DriftControl();
    for (let n = 0; n < 50; n++) drift.ranDry();
    expect(drift.headroomMs).toBe(DRIFT.maxMs);
    for (let n = 0; n < 125; n++) drift.arrived(DRIFT.maxMs, FRAME_MS);
    expect(drift.headroomMs).toBeCloseTo(DRIFT.maxMs - 10, 5);
  });
});
