/**
 * The conversation as two tracks on one time line: the model on the left, you on the right, as in
 * all two-channel dialogues of this project.
 *
 * Frames are placed by the moment they were spoken or heard. A shift below `SNAP_MS` is a clock's
 * jitter and is ignored, a larger one is filled with silence or cut. Bounded: after `MAX_MINUTES`
 * nothing more is added and `full` says so.
 */

import { msOf, SAMPLE_RATE, samplesOf } from "./clock";
import { toInt16, wavHeader } from "./wav";

const SNAP_MS = 40;
const MAX_MINUTES = 60;
const BLOCK = SAMPLE_RATE;

class Track {
  private readonly blocks: Int16Array[] = [];
  length = 0;

  place(pcm: Float32Array, startMs: number, limit: number): void {
    const wanted = Math.max(0, samplesOf(startMs));
    let samples = toInt16(pcm);
    if (Math.abs(wanted - this.length) > samplesOf(SNAP_MS)) {
      if (wanted > this.length) this.length = Math.min(wanted, limit);
      else samples = samples.subarray(this.length - wanted) as Int16Array<ArrayBuffer>;
    }
    samples = samples.subarray(0, Math.max(0, limit - this.length)) as Int16Array<ArrayBuffer>;
    for (let from = 0; from < samples.length;) {
      const index = Math.floor(this.length / BLOCK);
      const offset = this.length % BLOCK;
      const count = Math.min(samples.length - from, BLOCK - offset);
      this.block(index).set(samples.subarray(from, from + count), offset);
      this.length += count;
      from += count;
    }
  }

  /** Samples `start` to `end`, silence beyond what was recorded. */
  read(start: number, end: number): Int16Array {
    const out = new Int16Array(end - start);
    for (let at = start; at < end;) {
      const offset = at % BLOCK;
      const count = Math.min(end - at, BLOCK - offset);
      const block = this.blocks[Math.floor(at / BLOCK)];
      if (block) out.set(block.subarray(offset, offset + count), at - start);
      at += count;
    }
    return out;
  }

  private block(index: number): Int16Array {
    let block = this.blocks[index];
    if (!block) {
      block = new Int16Array(BLOCK);
      this.blocks[index] = block;
    }
    return block;
  }
}

export class Recording {
  private readonly tracks = { user: new Track(), model: new Track() };

  constructor(private readonly limit = MAX_MINUTES * 60 * SAMPLE_RATE) {}

  get full(): boolean {
    return Math.max(this.tracks.user.length, this.tracks.model.length) >= this.limit;
  }

  get durationMs(): number {
    return msOf(Math.max(this.tracks.user.length, this.tracks.model.length));
  }

  add(role: "user" | "model", pcm: Float32Array, startMs: number): void {
    this.tracks[role].place(pcm, startMs, this.limit);
  }

  /** A stereo WAV file in parts. */
  wav(): BlobPart[] {
    const frames = Math.max(this.tracks.user.length, this.tracks.model.length);
    const parts: BlobPart[] = [wavHeader(2, SAMPLE_RATE, frames)];
    for (let at = 0; at < frames; at += BLOCK) {
      const end = Math.min(frames, at + BLOCK);
      const left = this.tracks.model.read(at, end);
      const right = this.tracks.user.read(at, end);
      const both = new Int16Array(2 * left.length);
      for (let i = 0; i < left.length; i++) {
        both[2 * i] = left[i]!;
        both[2 * i + 1] = right[i]!;
      }
      parts.push(both);
    }
    return parts;
  }
}
