/** WAV files: 16-bit PCM, written from parts so that a long conversation needs no second copy. */

const HEADER_SIZE = 44;

export function wavHeader(channels: number, sampleRate: number, frames: number): ArrayBuffer {
  const header = new ArrayBuffer(HEADER_SIZE);
  const view = new DataView(header);
  const block = 2 * channels;
  const text = (at: number, value: string) => {
    for (let i = 0; i < value.length; i++) view.setUint8(at + i, value.charCodeAt(i));
  };
  text(0, "RIFF");
  view.setUint32(4, HEADER_SIZE - 8 + frames * block, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);
  view.setUint16(22, channels, true);
  view.setUint32(24, sampleRate, true);
  view.setUint32(28, sampleRate * block, true);
  view.setUint16(32, block, true);
  view.setUint16(34, 16, true);
  text(36, "data");
  view.setUint32(40, frames * block, true);
  return header;
}

export function toInt16(pcm: Float32Array): Int16Array<ArrayBuffer> {
  const out = new Int16Array(pcm.length);
  for (let i = 0; i < pcm.length; i++) {
    out[i] = Math.round(32767 * Math.max(-1, Math.min(1, pcm[i]!)));
  }
  return out;
}
