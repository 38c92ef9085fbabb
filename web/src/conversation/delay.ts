/**
 * How long what you say takes to come back as an answer could: measured, not guessed.
 *
 * The server makes one frame of sound for each frame it gets, so the n-th frame that comes back
 * dates the n-th that went out. Added to it are the frame itself (a frame leaves when it is full),
 * what waits to be played, and the device's own delay.
 */

import { FRAME_MS, FRAME_SIZE } from "../audio/clock";

const WINDOW = 25;
const MAX_OUTSTANDING = 250;

export interface Delay {
  captureMs: number;
  roundTripMs: number;
  playoutMs: number;
  deviceMs: number;
  totalMs: number;
}

export class DelayMeter {
  private sentAt: number[] = [];
  private receivedSamples = 0;
  private answered = 0;
  private lost = 0;
  private recent: number[] = [];
  /** All round trips so far, for the summary; bounded by sampling one a second. */
  readonly history: number[] = [];

  /** A frame went out. */
  sent(nowMs: number): void {
    this.sentAt.push(nowMs);
    if (this.sentAt.length > MAX_OUTSTANDING) {
      this.sentAt.shift();
      this.answered += 1;
    }
  }

  /** `samples` of the model's sound came back. */
  received(samples: number, nowMs: number): void {
    this.receivedSamples += samples;
    while (this.answered < Math.floor(this.receivedSamples / FRAME_SIZE)) {
      this.answered += 1;
      const sent = this.sentAt.shift();
      if (sent !== undefined) this.note(nowMs - sent);
    }
  }

  /** The server has dropped `frames` frames so far: as many fewer come back. */
  dropped(frames: number): void {
    for (; this.lost < Math.floor(frames); this.lost++) this.sentAt.shift();
  }

  /** A new connection: what was under way will not come back. */
  restart(): void {
    this.sentAt = [];
    this.receivedSamples = 0;
    this.answered = 0;
    this.lost = 0;
    this.recent = [];
  }

  /** Median round trip of the last two seconds; undefined until something came back. */
  get roundTripMs(): number | undefined {
    return median(this.recent);
  }

  total(playoutMs: number, deviceMs: number): Delay | undefined {
    const roundTripMs = this.roundTripMs;
    if (roundTripMs === undefined) return undefined;
    const totalMs = FRAME_MS + roundTripMs + playoutMs + deviceMs;
    return { captureMs: FRAME_MS, roundTripMs, playoutMs, deviceMs, totalMs };
  }

  private note(ms: number): void {
    this.recent.push(ms);
    if (this.recent.length > WINDOW) this.recent.shift();
    if (this.answered % 12 === 0 && this.history.length < 4000) this.history.push(Math.round(ms));
  }
}

export function median(values: readonly number[]): number | undefined {
  if (values.length === 0) return undefined;
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)];
}
