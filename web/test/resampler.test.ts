import { describe, expect, it } from "vitest";
import { Resampler } from "../src/audio/resampler";

function tone(hz: number, rate: number, seconds: number): Float32Array {
  return Float32Array.from({ length: rate * seconds }, (_, i) =>
    Math.sin((2 * Math.PI * hz * i) / rate),
  );
}

/** Root mean square of the middle half: away from the edges. */
function rms(pcm: Float32Array): number {
  const part = pcm.subarray(pcm.length >> 2, (3 * pcm.length) >> 2);
  return Math.sqrt(part.reduce((sum, x) => sum + x * x, 0) / part.length);
}

describe("Resampler", () => {
  it.each([
    [48_000, 24_000],
    [44_100, 24_000],
    [16_000, 24_000],
    [24_000, 48_000],
    [24_000, 44_100],
  ])("keeps a 1 kHz tone from %i to %i Hz", (from, to) => {
    const resampler = new Resampler(from, to);
    const out = resampler.process(tone(1000, from, 0.5));
    expect(Math.abs(out.length - to / 2)).toBeLessThan(4 * resampler.half);
    const delay = resampler.half / from; // the output starts at the first input sample
    expect(delay).toBeLessThan(0.002);
    let worst = 0;
    for (let i = 200; i < out.length - 200; i++) {
      worst = Math.max(worst, Math.abs(out[i]! - Math.sin((2 * Math.PI * 1000 * i) / to)));
    }
    expect(worst).toBeLessThan(2e-3);
  });

  it("removes what the lower rate cannot hold", () => {
    const out = new Resampler(48_000, 24_000).process(tone(14_000, 48_000, 0.5));
    expect(20 * Math.log10(rms(out) / Math.SQRT1_2)).toBeLessThan(-60);
  });

  it("gives the same samples however the input is cut", () => {
    const input = tone(700, 44_100, 0.4);
    const whole = new Resampler(44_100, 24_000).process(input);
    const parts = new Resampler(44_100, 24_000);
    const got: number[] = [];
    for (let at = 0, size = 1; at < input.length; at += size, size = (size * 7 + 3) % 601)
      got.push(...parts.process(input.subarray(at, at + size)));
    // Only rounding of the position, which starts over with each cut, may differ.
    expect(Math.abs(got.length - whole.length)).toBeLessThanOrEqual(1);
    for (let i = 0; i < Math.min(got.length, whole.length); i++)
      expect(Math.abs(got[i]! - whole[i]!)).toBeLessThan(1e-5);
  });

  it("says exactly how much input an output needs", () => {
    const resampler = new Resampler(24_000, 44_100);
    resampler.speed = 1.003;
    const out = new Float32Array(128);
    for (let n = 0; n < 400; n++) {
      resampler.push(new Float32Array(resampler.needed(128)));
      expect(resampler.pull(out)).toBe(128);
    }
    // Nothing was asked for in advance: the very next sample needs at most one more.
    expect(resampler.needed(1)).toBeLessThanOrEqual(1);
  });

  it("consumes more when it is to play faster", () => {
    const consumed = (speed: number) => {
      const resampler = new Resampler(24_000, 48_000);
      resampler.speed = speed;
      const out = new Float32Array(480);
      let total = 0;
      for (let n = 0; n < 1000; n++) {
        const need = resampler.needed(480);
        total += need;
        resampler.push(new Float32Array(need));
        resampler.pull(out);
      }
      return total;
    };
    expect(consumed(1.005) / consumed(1)).toBeCloseTo(1.005, 4);
  });
});
