/** Plain samples on the wire: signed 16-bit, little-endian, 24 kHz mono. */

export function encodePcm16(pcm: Float32Array): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(2 * pcm.length);
  const view = new DataView(bytes.buffer);
  for (let i = 0; i < pcm.length; i++) {
    view.setInt16(2 * i, Math.round(32767 * Math.max(-1, Math.min(1, pcm[i]!))), true);
  }
  return bytes;
}

/** An odd last byte is dropped. */
export function decodePcm16(bytes: Uint8Array): Float32Array {
  const pcm = new Float32Array(bytes.length >> 1);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let i = 0; i < pcm.length; i++) pcm[i] = view.getInt16(2 * i, true) / 32768;
  return pcm;
}
