/**
 * The playout buffer: frames in as the network brings them, samples out as the speaker asks.
 *
 * It waits for one frame plus the headroom before it starts, so that the next frame may be late by
 * that much. Run dry, it fades out, counts a gap, and waits again. Too much waiting is first
 * played a little faster (`drift.ts`), then silent stretches are skipped, and above a hard bound
 * the oldest samples go at once, joined by a short cross-fade. Bounded: `MAX_MS` of audio.
 */

import { FRAME_MS, msOf, samplesOf } from "./clock";
import { DriftControl } from "./drift";

const MAX_MS = 1_000;
const HARD_EXCESS_MS = 400;
const SKIP_EXCESS_MS = 60;
const SKIP_MS = 10;
const FADE_MS = 5;
const SILENCE_PEAK = 0.004;

export interface PlayoutStats {
  levelMs: number;
  headroomMs: number;
  speed: number;
  gaps: number;
  droppedMs: number;
}

export class JitterBuffer {
  readonly drift: DriftControl;
  gaps = 0;
  dropped = 0;

  private readonly ring = new Float32Array(samplesOf(MAX_MS));
  private readAt = 0;
  private level = 0;
  private playing = false;
  /** Samples asked for since the last arrival: the clock of this class. */
  private sinceArrival = 0;
  private waited = 0;
  private fadeIn = 0;
  private lastSample = 0;

  constructor(drift = new DriftControl()) {
    this.drift = drift;
  }

  get stats(): PlayoutStats {
    return {
      levelMs: msOf(this.level),
      headroomMs: this.drift.headroomMs,
      speed: this.drift.speed,
      gaps: this.gaps,
      droppedMs: msOf(this.dropped),
    };
  }

  get isPlaying(): boolean {
    return this.playing;
  }

  push(pcm: Float32Array): void {
    if (this.playing) this.drift.arrived(msOf(this.level), msOf(this.sinceArrival));
    this.sinceArrival = 0;
    const room = this.ring.length - this.level;
    if (pcm.length > this.ring.length) pcm = pcm.subarray(pcm.length - this.ring.length);
    if (pcm.length > room) this.drop(pcm.length - room);
    const writeAt = (this.readAt + this.level) % this.ring.length;
    const head = Math.min(pcm.length, this.ring.length - writeAt);
    this.ring.set(pcm.subarray(0, head), writeAt);
    this.ring.set(pcm.subarray(head), 0);
    this.level += pcm.length;
    const limit = samplesOf(FRAME_MS + this.drift.headroomMs + HARD_EXCESS_MS);
    if (this.level > limit) this.drop(this.level - samplesOf(FRAME_MS + this.drift.headroomMs));
  }

  /** Fill `out`, with silence where there is nothing to play. */
  read(out: Float32Array): void {
    this.sinceArrival += out.length;
    if (!this.playing && this.level >= samplesOf(FRAME_MS)) {
      this.waited += out.length;
      if (this.waited >= samplesOf(this.drift.headroomMs)) this.start();
    }
    if (!this.playing) {
      this.fill(out, 0);
      return;
    }
    if (this.drift.excessMs > SKIP_EXCESS_MS) this.skipSilence();
    const count = Math.min(out.length, this.level);
    for (let i = 0; i < count; i++) {
      let sample = this.ring[(this.readAt + i) % this.ring.length]!;
      if (this.fadeIn > 0) sample *= 1 - this.fadeIn-- / samplesOf(FADE_MS);
      out[i] = sample;
    }
    this.readAt = (this.readAt + count) % this.ring.length;
    this.level -= count;
    if (count > 0) this.lastSample = out[count - 1]!;
    if (count < out.length) {
      this.gaps += 1;
      this.drift.ranDry();
      this.stop();
      this.fill(out, count);
    }
  }

  /** Forget all that waits; what follows fades in. */
  flush(): void {
    this.level = 0;
    this.stop();
  }

  private start(): void {
    this.playing = true;
    this.waited = 0;
    this.fadeIn = samplesOf(FADE_MS);
  }

  private stop(): void {
    this.playing = false;
    this.waited = 0;
  }

  /** Let the last sample die away instead of cutting it: no click. */
  private fill(out: Float32Array, from: number): void {
    const decay = 1 - 4 / samplesOf(FADE_MS);
    for (let i = from; i < out.length; i++) {
      this.lastSample *= decay;
      if (Math.abs(this.lastSample) < 1e-5) this.lastSample = 0;
      out[i] = this.lastSample;
    }
  }

  private drop(count: number): void {
    const fade = Math.min(samplesOf(FADE_MS), Math.max(0, this.level - count));
    const size = this.ring.length;
    for (let i = 0; i < fade; i++) {
      const at = (this.readAt + count + i) % size;
      const mix = i / fade;
      this.ring[at] = this.ring[at]! * mix + this.ring[(this.readAt + i) % size]! * (1 - mix);
    }
    this.readAt = (this.readAt + count) % size;
    this.level -= count;
    this.dropped += count;
    this.drift.dropped(msOf(count));
  }

  private skipSilence(): void {
    const span = samplesOf(SKIP_MS);
    if (this.level < samplesOf(FRAME_MS) + span) return;
    for (let i = 0; i < span; i++) {
      if (Math.abs(this.ring[(this.readAt + i) % this.ring.length]!) > SILENCE_PEAK) return;
    }
    this.drop(span);
  }
}
