/**
 * Ogg pages around Opus packets (RFC 3533, RFC 7845), as Kyutai's `/api/chat` carries them.
 *
 * The writer puts the packets it is given into one page. The reader takes a byte stream cut
 * anywhere and gives back whole packets; damaged bytes are skipped up to the next page with a
 * right checksum. Bounded: one page is at most 65,307 bytes, a packet at most `MAX_PACKET`.
 */

const HEADER_SIZE = 27;
const MAX_SEGMENTS = 255;
const MAX_PACKET = 64 * 1024;
const CONTINUED = 1;
const FIRST = 2;
const CAPTURE = [0x4f, 0x67, 0x67, 0x53] as const; // OggS

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte << 24;
  for (let bit = 0; bit < 8; bit++) value = (value << 1) ^ (value & 0x80000000 ? 0x04c11db7 : 0);
  return value >>> 0;
});

function checksum(page: Uint8Array): number {
  let crc = 0;
  for (let i = 0; i < page.length; i++) {
    const byte = i >= 22 && i < 26 ? 0 : page[i]!;
    crc = ((crc << 8) ^ CRC_TABLE[((crc >>> 24) ^ byte) & 0xff]!) >>> 0;
  }
  return crc;
}

export class OggWriter {
  private sequence = 0;

  constructor(private readonly serial: number) {}

  /** One page holding `packets`; `granule` is the position after them in 48 kHz samples. */
  page(packets: readonly Uint8Array[], granule: number): Uint8Array<ArrayBuffer> {
    const lacing: number[] = [];
    for (const packet of packets) {
      for (let left = packet.length; left >= 255; left -= 255) lacing.push(255);
      lacing.push(packet.length % 255);
    }
    if (lacing.length > MAX_SEGMENTS) throw new RangeError("packets too large for one Ogg page");
    const body = packets.reduce((sum, packet) => sum + packet.length, 0);
    const page = new Uint8Array(HEADER_SIZE + lacing.length + body);
    const view = new DataView(page.buffer);
    page.set(CAPTURE, 0);
    page[5] = this.sequence === 0 ? FIRST : 0;
    view.setUint32(6, granule % 2 ** 32, true);
    view.setUint32(10, Math.floor(granule / 2 ** 32), true);
    view.setUint32(14, this.serial, true);
    view.setUint32(18, this.sequence++, true);
    page[26] = lacing.length;
    page.set(lacing, HEADER_SIZE);
    let at = HEADER_SIZE + lacing.length;
    for (const packet of packets) {
      page.set(packet, at);
      at += packet.length;
    }
    view.setUint32(22, checksum(page), true);
    return page;
  }

  /** The two pages every Ogg-Opus stream begins with. */
  headers(preSkip: number, inputRate: number): Uint8Array<ArrayBuffer> {
    const head = this.page([opusHead(preSkip, inputRate)], 0);
    const tags = this.page([opusTags("duologue")], 0);
    const both = new Uint8Array(head.length + tags.length);
    both.set(head);
    both.set(tags, head.length);
    return both;
  }
}

export function opusHead(preSkip: number, inputRate: number): Uint8Array {
  const head = new Uint8Array(19);
  head.set(new TextEncoder().encode("OpusHead"));
  const view = new DataView(head.buffer);
  head[8] = 1; // version
  head[9] = 1; // channels
  view.setUint16(10, preSkip, true);
  view.setUint32(12, inputRate, true);
  return head;
}

function opusTags(vendor: string): Uint8Array {
  const name = new TextEncoder().encode(vendor);
  const tags = new Uint8Array(8 + 4 + name.length + 4);
  tags.set(new TextEncoder().encode("OpusTags"));
  new DataView(tags.buffer).setUint32(8, name.length, true);
  tags.set(name, 12);
  return tags;
}

export function isOpusHeader(packet: Uint8Array): boolean {
  if (packet.length < 8) return false;
  const magic = String.fromCharCode(...packet.subarray(0, 8));
  return magic === "OpusHead" || magic === "OpusTags";
}

export class OggReader {
  /** Bytes that belonged to no readable page. */
  skippedBytes = 0;

  private pending = new Uint8Array(0);
  private partial: Uint8Array[] = [];
  private partialSize = 0;
  /** The stream is inside a packet whose beginning was lost. */
  private skipping = false;

  /** Add bytes of the stream; returns the packets they complete. */
  push(bytes: Uint8Array): Uint8Array[] {
    const joined = new Uint8Array(this.pending.length + bytes.length);
    joined.set(this.pending);
    joined.set(bytes, this.pending.length);
    const packets: Uint8Array[] = [];
    let at = 0;
    for (;;) {
      const start = findCapture(joined, at);
      this.skippedBytes += start - at;
      at = start;
      const size = pageSize(joined, at);
      if (size === undefined) break;
      const page = joined.subarray(at, at + size);
      if (new DataView(page.buffer, page.byteOffset).getUint32(22, true) !== checksum(page)) {
        this.abandonPartial();
        this.skippedBytes += 1;
        at += 1;
        continue;
      }
      this.readPage(page, packets);
      at += size;
    }
    this.pending = joined.slice(at);
    return packets;
  }

  private readPage(page: Uint8Array, packets: Uint8Array[]): void {
    const segments = page[26]!;
    const continued = (page[5]! & CONTINUED) !== 0;
    if (!continued) {
      this.abandonPartial();
      this.skipping = false;
    } else if (this.partial.length === 0) {
      this.skipping = true;
    }
    let at = HEADER_SIZE + segments;
    for (let i = 0; i < segments; i++) {
      const size = page[HEADER_SIZE + i]!;
      if (!this.skipping) this.keep(page.slice(at, at + size));
      at += size;
      if (size === 255) continue;
      if (!this.skipping && this.partialSize > 0) packets.push(this.takePartial());
      this.abandonPartial();
      this.skipping = false;
    }
  }

  private keep(part: Uint8Array): void {
    this.partial.push(part);
    this.partialSize += part.length;
    if (this.partialSize > MAX_PACKET) {
      this.abandonPartial();
      this.skipping = true;
    }
  }

  private takePartial(): Uint8Array {
    const packet = new Uint8Array(this.partialSize);
    let at = 0;
    for (const part of this.partial) {
      packet.set(part, at);
      at += part.length;
    }
    return packet;
  }

  private abandonPartial(): void {
    this.partial = [];
    this.partialSize = 0;
  }
}

/** Where the next page may begin; near the end, where one could begin with what follows. */
function findCapture(bytes: Uint8Array, from: number): number {
  for (let at = from; at < bytes.length; at++) {
    let matched = 0;
    while (matched < 4 && at + matched < bytes.length && bytes[at + matched] === CAPTURE[matched])
      matched++;
    if (matched === 4 || (matched > 0 && at + matched === bytes.length)) return at;
  }
  return bytes.length;
}

/** The whole size of the page at `at`, or undefined while it is not all there. */
function pageSize(bytes: Uint8Array, at: number): number | undefined {
  if (bytes.length < at + HEADER_SIZE) return undefined;
  const segments = bytes[at + 26]!;
  if (bytes.length < at + HEADER_SIZE + segments) return undefined;
  let size = HEADER_SIZE + segments;
  for (let i = 0; i < segments; i++) size += bytes[at + HEADER_SIZE + i]!;
  return bytes.length < at + size ? undefined : size;
}
