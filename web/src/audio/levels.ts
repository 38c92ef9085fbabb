/**
 * Envelopes and voice activity of one lane, from its 24 kHz frames.
 *
 * `LaneLevels` keeps one peak per 20 ms for the waveform, for the last `KEPT_MS`. `VoiceActivity`
 * says when somebody is audibly speaking; short gaps between words do not end a stretch.
 */

import { SAMPLE_RATE } from "./clock";

export const LEVEL_MS = 20;
const KEPT_MS = 120_000;
const SPAN = (SAMPLE_RATE * LEVEL_MS) / 1000;

/** Peaks of consecutive 20 ms spans; a frame has four. */
export function peaksOf(pcm: Float32Array): number[] {
  const peaks: number[] = [];
  for (let start = 0; start < pcm.length; start += SPAN) {
    let peak = 0;
    const end = Math.min(start + SPAN, pcm.length);
    for (let i = start; i < end; i++) peak = Math.max(peak, Math.abs(pcm[i]!));
    peaks.push(peak);
  }
  return peaks;
}

export class LaneLevels {
  private readonly ring = new Float32Array(KEPT_MS / LEVEL_MS);
  /** Number of spans written since the start. */
  count = 0;

  /** Write peaks so that they end at `endMs` of the conversation. */
  write(peaks: readonly number[], endMs: number): void {
    const first = Math.max(0, Math.round(endMs / LEVEL_MS) - peaks.length);
    for (let at = this.count; at < first; at++) this.ring[at % this.ring.length] = 0;
    peaks.forEach((peak, i) => {
      const at = first + i;
      const slot = at % this.ring.length;
      this.ring[slot] = at < this.count ? Math.max(this.ring[slot]!, peak) : peak;
    });
    this.count = Math.max(this.count, first + peaks.length);
  }

  /** The peak of span `index`, zero outside of what is kept. */
  at(index: number): number {
    if (index < 0 || index >= this.count || index < this.count - this.ring.length) return 0;
    return this.ring[index % this.ring.length]!;
  }
}

const ON_PEAK = 0.02;
const ON_SPANS = 3;
const HANG_MS = 400;

export interface Stretch {
  startMs: number;
  endMs: number;
}

export class VoiceActivity {
  private run = 0;
  private current: Stretch | undefined;

  /** Feed one 20 ms peak ending at `endMs`; returns a stretch when one has just ended. */
  feed(peak: number, endMs: number): Stretch | undefined {
    if (peak >= ON_PEAK) {
      this.run += 1;
      if (this.current) this.current.endMs = endMs;
      else if (this.run >= ON_SPANS) this.current = { startMs: endMs - this.run * LEVEL_MS, endMs };
      return undefined;
    }
    this.run = 0;
    const ended = this.current;
    if (!ended || endMs - ended.endMs < HANG_MS) return undefined;
    this.current = undefined;
    return ended;
  }

  /** The stretch that goes on now, if any. */
  get speaking(): Readonly<Stretch> | undefined {
    return this.current;
  }
}
