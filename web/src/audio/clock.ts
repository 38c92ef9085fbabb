/** The one frame clock of a conversation: 1920 samples at 24 kHz, 80 ms. */

export const SAMPLE_RATE = 24_000;
export const FRAME_SIZE = 1_920;
export const FRAME_MS = 80;

export const samplesOf = (ms: number): number => Math.round((ms * SAMPLE_RATE) / 1000);
export const msOf = (samples: number): number => (samples * 1000) / SAMPLE_RATE;
