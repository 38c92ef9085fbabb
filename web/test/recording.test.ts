import { describe, expect, it } from "vitest";
import { FRAME_MS, FRAME_SIZE, SAMPLE_RATE, samplesOf } from "../src/audio/clock";
import { Recording } from "../src/audio/recording";

const level = (value: number): Float32Array => new Float32Array(FRAME_SIZE).fill(value);

async function read(recording: Recording) {
  const bytes = await new Blob(recording.wav()).arrayBuffer();
  const view = new DataView(bytes);
  const samples = new Int16Array(bytes.slice(44));
  const lane = (side: 0 | 1) => samples.filter((_, i) => i % 2 === side);
  return { view, left: lane(0), right: lane(1) };
}

describe("Recording", () => {
  it("is a stereo WAV with the model on the left, all at its time", async () => {
    const recording = new Recording();
    for (let n = 0; n < 30; n++) recording.add("model", level(0.5), n * FRAME_MS);
    recording.add("user", level(-0.5), 1000);
    const { view, left, right } = await read(recording);
    expect(view.getUint16(22, true)).toBe(2);
    expect(view.getUint32(24, true)).toBe(SAMPLE_RATE);
    expect(view.getUint32(40, true)).toBe(left.length * 4);
    expect(view.getUint32(4, true)).toBe(view.byteLength - 8);
    expect(left.length).toBe(30 * FRAME_SIZE);
    expect(left.every((x) => x === 16384)).toBe(true);
    expect(right.indexOf(-16383)).toBe(samplesOf(1000));
    expect(right.filter((x) => x === -16383).length).toBe(FRAME_SIZE);
  });

  it("ignores a clock's jitter and follows a real shift", async () => {
    const recording = new Recording();
    for (const [n, shift] of [0, 9, -9, 20, -20].entries())
      recording.add("model", level(0.5), n * FRAME_MS + shift);
    recording.add("model", level(0.5), 1000);
    recording.add("model", level(0.5), 1000); // said twice: the second is cut away
    const { left } = await read(recording);
    expect(left.length).toBe(samplesOf(1000) + FRAME_SIZE);
    expect(left.filter((x) => x === 0).length).toBe(samplesOf(1000) - 5 * FRAME_SIZE);
  });

  it("is bounded", async () => {
    const recording = new Recording(SAMPLE_RATE);
    for (let n = 0; n < 50; n++) recording.add("model", level(0.1), n * FRAME_MS);
    recording.add("user", level(0.1), 60_000);
    expect(recording.full).toBe(true);
    expect(recording.durationMs).toBe(1000);
    expect((await read(recording)).left.length).toBe(SAMPLE_RATE);
  });
});
