/**
 * Keeps the model quiet after it was interrupted: what it still says of the old sentence is dropped.
 *
 * The hold ends when the model has paused, or after `MAX_FRAMES` in any case: an interruption must
 * not silence a whole answer.
 */

const PAUSE_FRAMES = 4;
const MAX_FRAMES = 50;
const QUIET_PEAK = 0.02;

export class Hold {
  private left = 0;
  private quiet = 0;

  begin(): void {
    this.left = MAX_FRAMES;
    this.quiet = 0;
  }

  end(): void {
    this.left = 0;
  }

  get active(): boolean {
    return this.left > 0;
  }

  /** Whether these samples may be played. */
  passes(pcm: Float32Array, frames: number): boolean {
    if (this.left <= 0) return true;
    const silent = pcm.every((sample) => Math.abs(sample) < QUIET_PEAK);
    this.quiet = silent ? this.quiet + frames : 0;
    this.left = this.quiet >= PAUSE_FRAMES ? 0 : this.left - frames;
    return false;
  }
}
