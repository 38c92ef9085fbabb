/**
 * Who is audible when, and when both are: the part of a conversation that words do not show.
 *
 * Both lanes are fed with frames and the time at which they end. Stretches in which both speak for
 * at least `MIN_TOGETHER_MS` are kept, the newest `MAX_STRETCHES` of them.
 */

import { LaneLevels, LEVEL_MS, peaksOf, type Stretch, VoiceActivity } from "../audio/levels";
import type { Role } from "./transcript";

const MIN_TOGETHER_MS = 200;
const MAX_STRETCHES = 500;
const RECENT_MS = 2_000;
const MAX_LOOK_BACK_MS = 8_000;

export class Activity {
  readonly levels = { user: new LaneLevels(), model: new LaneLevels() };
  readonly together: Stretch[] = [];

  private readonly voices = { user: new VoiceActivity(), model: new VoiceActivity() };
  private readonly last: Record<Role, Stretch | undefined> = { user: undefined, model: undefined };
  private open: Stretch | undefined;

  feed(role: Role, pcm: Float32Array, endMs: number): void {
    const peaks = peaksOf(pcm);
    this.levels[role].write(peaks, endMs);
    peaks.forEach((peak, i) => {
      const ended = this.voices[role].feed(peak, endMs - (peaks.length - 1 - i) * LEVEL_MS);
      if (ended) this.last[role] = { ...ended };
    });
    this.updateTogether();
  }

  isAudible(role: Role): boolean {
    return this.voices[role].speaking !== undefined;
  }

  /** Whether both were audible together not long before `nowMs`. */
  wasTogether(nowMs: number): boolean {
    const newest = this.together.at(-1);
    return newest !== undefined && nowMs - newest.endMs < RECENT_MS;
  }

  /** When the words that `role` is being credited with at `nowMs` began to sound. */
  beganMs(role: Role, nowMs: number): number {
    const stretch = this.voices[role].speaking ?? this.last[role];
    if (!stretch || nowMs - stretch.startMs > MAX_LOOK_BACK_MS) return nowMs;
    return stretch.startMs;
  }

  private updateTogether(): void {
    const user = this.voices.user.speaking;
    const model = this.voices.model.speaking;
    if (!user || !model) {
      this.open = undefined;
      return;
    }
    const startMs = Math.max(user.startMs, model.startMs);
    const endMs = Math.min(user.endMs, model.endMs);
    if (endMs - startMs < MIN_TOGETHER_MS) return;
    if (this.open && this.open.startMs === startMs) {
      this.open.endMs = endMs;
      return;
    }
    this.open = { startMs, endMs };
    this.together.push(this.open);
    if (this.together.length > MAX_STRETCHES) this.together.shift();
  }
}
