/**
 * What runs on the audio thread: `duologue-capture` cuts the microphone into 80 ms frames at
 * 24 kHz, `duologue-playout` plays frames through the jitter buffer at the device's rate.
 *
 * Both report the context's frame counter, so that what was said and what was heard can be laid
 * side by side. Capture runs without an input too: the model's clock is the incoming audio, and
 * silence is audio.
 */

import { FRAME_SIZE, SAMPLE_RATE } from "./clock";
import { JitterBuffer, type PlayoutStats } from "./jitter";
import { Resampler } from "./resampler";

declare const sampleRate: number;
declare const currentFrame: number;
declare class AudioWorkletProcessor {
  readonly port: MessagePort;
}
declare function registerProcessor(name: string, processor: new () => AudioWorkletProcessor): void;

const QUANTUM = 128;

export interface CaptureMessage {
  pcm: Float32Array<ArrayBuffer>;
  /** Context frame at which this frame was complete. */
  endFrame: number;
}

export interface PlayedMessage {
  pcm: Float32Array<ArrayBuffer>;
  endFrame: number;
  stats: PlayoutStats;
}

export type PlayoutCommand =
  { kind: "push"; pcm: Float32Array } | { kind: "flush" } | { kind: "stop" };

class CaptureProcessor extends AudioWorkletProcessor {
  private readonly resampler = new Resampler(sampleRate, SAMPLE_RATE);
  private readonly silence = new Float32Array(QUANTUM);
  private readonly mixed = new Float32Array(QUANTUM);
  private frame = new Float32Array(FRAME_SIZE);
  private filled = 0;
  private running = true;

  constructor() {
    super();
    this.port.onmessage = () => {
      this.running = false;
    };
  }

  process(inputs: Float32Array[][]): boolean {
    this.resampler.push(this.mono(inputs[0] ?? []));
    for (;;) {
      const got = this.resampler.pull(this.frame.subarray(this.filled));
      this.filled += got;
      if (this.filled < FRAME_SIZE) return this.running;
      const message: CaptureMessage = { pcm: this.frame, endFrame: currentFrame + QUANTUM };
      this.port.postMessage(message, [this.frame.buffer]);
      this.frame = new Float32Array(FRAME_SIZE);
      this.filled = 0;
    }
  }

  private mono(channels: Float32Array[]): Float32Array {
    if (channels.length === 0) return this.silence;
    if (channels.length === 1) return channels[0]!;
    this.mixed.fill(0);
    for (const channel of channels) {
      for (let i = 0; i < QUANTUM; i++) this.mixed[i]! += channel[i]! / channels.length;
    }
    return this.mixed;
  }
}

class PlayoutProcessor extends AudioWorkletProcessor {
  private readonly buffer = new JitterBuffer();
  private readonly resampler = new Resampler(SAMPLE_RATE, sampleRate);
  private readonly scratch = new Float32Array(4 * QUANTUM);
  private played = new Float32Array(FRAME_SIZE);
  private filled = 0;
  private running = true;

  constructor() {
    super();
    this.port.onmessage = ({ data }: MessageEvent<PlayoutCommand>) => {
      if (data.kind === "push") this.buffer.push(data.pcm);
      else if (data.kind === "flush") this.buffer.flush();
      else this.running = false;
    };
  }

  process(_inputs: Float32Array[][], outputs: Float32Array[][]): boolean {
    const channel = outputs[0]?.[0];
    if (!channel) return this.running;
    this.resampler.speed = this.buffer.drift.speed;
    const wanted = this.resampler.needed(channel.length);
    for (let done = 0; done < wanted;) {
      const part = this.scratch.subarray(0, Math.min(wanted - done, this.scratch.length));
      this.buffer.read(part);
      this.resampler.push(part);
      this.keep(part);
      done += part.length;
    }
    this.resampler.pull(channel);
    for (const other of outputs[0]!.slice(1)) other.set(channel);
    return this.running;
  }

  /** Collect what is played, in frames, for the waveform and the recording. */
  private keep(part: Float32Array): void {
    for (let from = 0; from < part.length;) {
      const count = Math.min(part.length - from, FRAME_SIZE - this.filled);
      this.played.set(part.subarray(from, from + count), this.filled);
      this.filled += count;
      from += count;
      if (this.filled < FRAME_SIZE) continue;
      const message: PlayedMessage = {
        pcm: this.played,
        endFrame: currentFrame + QUANTUM,
        stats: this.buffer.stats,
      };
      this.port.postMessage(message, [this.played.buffer]);
      this.played = new Float32Array(FRAME_SIZE);
      this.filled = 0;
    }
  }
}

registerProcessor("duologue-capture", CaptureProcessor);
registerProcessor("duologue-playout", PlayoutProcessor);
