/**
 * Streaming resampler for one channel: any ratio, changeable while it runs.
 *
 * A Kaiser-windowed sinc, tabulated at `PHASES` fractions of a sample and interpolated between
 * them. Chunking does not change the result. The delay is `half` input samples (under 1.5 ms for
 * 48 kHz to 24 kHz). `speed` moves the ratio by some per mille; drift correction uses it.
 */

const PHASES = 256;
const ZERO_CROSSINGS = 24;
const ROLL_OFF = 0.95;
const KAISER_BETA = 8;

/** Zeroth-order modified Bessel function, the shape of the Kaiser window. */
function besselI0(x: number): number {
  let sum = 1;
  let term = 1;
  for (let k = 1; term > 1e-12 * sum; k++) {
    term *= (x / (2 * k)) ** 2;
    sum += term;
  }
  return sum;
}

/** Rows of filter taps: row p is the kernel for an output p/PHASES after an input sample. */
function kernelTable(half: number, cutoff: number): Float32Array {
  const taps = 2 * half;
  const table = new Float32Array((PHASES + 1) * taps);
  const norm = besselI0(KAISER_BETA);
  for (let phase = 0; phase <= PHASES; phase++) {
    let sum = 0;
    for (let tap = 0; tap < taps; tap++) {
      const x = tap - half + 1 - phase / PHASES;
      const edge = x / half;
      const window =
        Math.abs(edge) < 1 ? besselI0(KAISER_BETA * Math.sqrt(1 - edge * edge)) / norm : 0;
      const arg = Math.PI * cutoff * x;
      const value = window * cutoff * (Math.abs(arg) < 1e-9 ? 1 : Math.sin(arg) / arg);
      table[phase * taps + tap] = value;
      sum += value;
    }
    for (let tap = 0; tap < taps; tap++) table[phase * taps + tap]! /= sum;
  }
  return table;
}

export class Resampler {
  /** Change of the playing speed: 1.002 consumes 0.2 % more input for the same output. */
  speed = 1;
  /** Delay in input samples. */
  readonly half: number;

  private readonly step: number;
  private readonly table: Float32Array;
  private history: Float32Array;
  private filled: number;
  /** Position of the next output, in samples of `history`. */
  private position: number;

  constructor(inputRate: number, outputRate: number) {
    if (!(inputRate > 0 && outputRate > 0)) throw new RangeError("rates must be positive");
    const narrow = Math.min(1, outputRate / inputRate);
    this.step = inputRate / outputRate;
    this.half = Math.ceil(ZERO_CROSSINGS / narrow);
    this.table = kernelTable(this.half, narrow * ROLL_OFF);
    this.history = new Float32Array(4 * this.half + 4096);
    this.filled = this.half;
    this.position = this.half;
  }

  /** Input samples that must still be pushed before `count` outputs can be pulled. */
  needed(count: number): number {
    if (count <= 0) return 0;
    const last = this.position + (count - 1) * this.step * this.speed;
    return Math.max(0, Math.floor(last) + this.half + 1 - this.filled);
  }

  push(input: Float32Array): void {
    this.compact();
    if (this.filled + input.length > this.history.length) {
      const grown = new Float32Array(2 * (this.filled + input.length));
      grown.set(this.history.subarray(0, this.filled));
      this.history = grown;
    }
    this.history.set(input, this.filled);
    this.filled += input.length;
  }

  /** Write up to `output.length` samples; returns how many there were. */
  pull(output: Float32Array): number {
    const { half, table, history } = this;
    const taps = 2 * half;
    const step = this.step * this.speed;
    let written = 0;
    while (written < output.length) {
      const whole = Math.floor(this.position);
      if (whole + half >= this.filled) break;
      const phase = (this.position - whole) * PHASES;
      const row = Math.floor(phase);
      const blend = phase - row;
      const start = whole - half + 1;
      const near = row * taps;
      let sum = 0;
      if (blend < 1e-9) {
        for (let tap = 0; tap < taps; tap++) sum += history[start + tap]! * table[near + tap]!;
      } else {
        const far = near + taps;
        for (let tap = 0; tap < taps; tap++) {
          const weight = table[near + tap]! + blend * (table[far + tap]! - table[near + tap]!);
          sum += history[start + tap]! * weight;
        }
      }
      output[written++] = sum;
      this.position += step;
    }
    return written;
  }

  /** Push and pull everything there is: the convenient form, which allocates. */
  process(input: Float32Array): Float32Array {
    this.push(input);
    const output = new Float32Array(Math.ceil(input.length / (this.step * this.speed)) + 2);
    return output.subarray(0, this.pull(output));
  }

  private compact(): void {
    const unused = Math.floor(this.position) - this.half;
    if (unused <= 0) return;
    this.history.copyWithin(0, unused, this.filled);
    this.filled -= unused;
    this.position -= unused;
  }
}
