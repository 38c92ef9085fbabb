/**
 * Keeps the playout margin near its goal by playing a touch faster or slower.
 *
 * The *margin* is what was left to play at the moment the next frame arrived: too small and a late
 * frame is heard as a gap, too large and the answer comes late. `headroom` is the margin aimed
 * for. It grows with every gap and shrinks slowly while all goes well, so that each connection
 * finds its own. The speed stays within half a per cent, which no ear hears.
 */

export interface DriftOptions {
  initialMs: number;
  minMs: number;
  maxMs: number;
  growMs: number;
  shrinkMsPerSecond: number;
}

export const DRIFT: DriftOptions = {
  initialMs: 40,
  minMs: 20,
  maxMs: 240,
  growMs: 20,
  shrinkMsPerSecond: 1,
};

const MAX_CHANGE = 0.005;
const CHANGE_PER_MS = 0.0003;
const DEAD_BAND_MS = 3;
const SMOOTHING = 0.1;

export class DriftControl {
  headroomMs: number;
  /** Smoothed margin; NaN before the first frame. */
  marginMs = Number.NaN;

  constructor(private readonly options: DriftOptions = DRIFT) {
    this.headroomMs = options.initialMs;
  }

  /** A frame arrived with `marginMs` still to play; `elapsedMs` since the one before. */
  arrived(marginMs: number, elapsedMs: number): void {
    this.marginMs = Number.isNaN(this.marginMs)
      ? marginMs
      : this.marginMs + SMOOTHING * (marginMs - this.marginMs);
    const shrink = (this.options.shrinkMsPerSecond * Math.min(elapsedMs, 1000)) / 1000;
    this.headroomMs = Math.max(this.options.minMs, this.headroomMs - shrink);
  }

  /** Playing ran dry: aim for more. */
  ranDry(): void {
    this.headroomMs = Math.min(this.options.maxMs, this.headroomMs + this.options.growMs);
    this.marginMs = Number.NaN;
  }

  /** Samples were dropped on purpose: the average must not remember them. */
  dropped(ms: number): void {
    this.marginMs -= ms;
  }

  /** How many milliseconds the margin is above (or below) its goal. */
  get excessMs(): number {
    return Number.isNaN(this.marginMs) ? 0 : this.marginMs - this.headroomMs;
  }

  /** The speed to play at now: above 1 when too much is waiting. */
  get speed(): number {
    const excess = this.excessMs;
    if (Math.abs(excess) <= DEAD_BAND_MS) return 1;
    const wanted = CHANGE_PER_MS * (excess - Math.sign(excess) * DEAD_BAND_MS);
    return 1 + Math.max(-MAX_CHANGE, Math.min(MAX_CHANGE, wanted));
  }
}
