import { describe, expect, it } from "vitest";
import { isOpusHeader, OggReader, OggWriter, opusHead } from "../src/codec/ogg";

function packet(size: number, seed: number): Uint8Array {
  return Uint8Array.from({ length: size }, (_, i) => (i * 31 + seed * 17) & 255);
}

function join(parts: readonly Uint8Array[]): Uint8Array {
  return Uint8Array.from(parts.flatMap((part) => [...part]));
}

const PACKETS = [1, 254, 255, 256, 509, 510, 511, 1275].map(packet);

function stream(): Uint8Array {
  const writer = new OggWriter(42);
  const pages = PACKETS.map((one, n) => writer.page([one], 960 * (n + 1)));
  return join([writer.headers(312, 24_000), ...pages]);
}

describe("Ogg", () => {
  it("writes the checksum that RFC 3533 asks for", () => {
    // Made here a second time, bit by bit and without a table.
    const page = new OggWriter(1).page([opusHead(312, 24_000)], 0);
    expect([...page.subarray(0, 4)]).toEqual([0x4f, 0x67, 0x67, 0x53]);
    expect(page[5]).toBe(2);
    let crc = 0;
    for (const [i, byte] of page.entries()) {
      crc ^= (i >= 22 && i < 26 ? 0 : byte) << 24;
      for (let bit = 0; bit < 8; bit++) crc = crc < 0 ? (crc << 1) ^ 0x04c11db7 : crc << 1;
    }
    expect(new DataView(page.buffer).getUint32(22, true)).toBe(crc >>> 0);
  });

  it("reads back what it wrote", () => {
    const [head, tags, ...rest] = new OggReader().push(stream());
    expect(isOpusHeader(head!)).toBe(true);
    expect(isOpusHeader(tags!)).toBe(true);
    expect(rest).toEqual(PACKETS);
    expect(isOpusHeader(rest[1]!)).toBe(false);
  });

  it.each([1, 2, 3, 27, 100, 333])("does not mind being fed %i bytes at a time", (size) => {
    const reader = new OggReader();
    const bytes = stream();
    const got: Uint8Array[] = [];
    for (let at = 0; at < bytes.length; at += size)
      got.push(...reader.push(bytes.subarray(at, at + size)));
    expect(got.slice(2)).toEqual(PACKETS);
    expect(reader.skippedBytes).toBe(0);
  });

  it("joins a packet that continues on the next page", () => {
    const long = packet(600, 9);
    const writer = new OggWriter(7);
    const first = repage(writer, long.subarray(0, 510), [255, 255], 0);
    const second = repage(writer, long.subarray(510), [90], 1);
    expect(new OggReader().push(join([first, second]))).toEqual([long]);
    // The second page alone holds only an end, which is nothing.
    expect(new OggReader().push(second)).toEqual([]);
  });

  it("skips damage and goes on with the next whole page", () => {
    const bytes = stream();
    const reader = new OggReader();
    const broken = join([packet(50, 3), bytes]);
    broken[50 + bytes.length - 20]! ^= 0xff; // inside the last page
    const tail = new OggWriter(42).page([packet(33, 5)], 0);
    const got = reader.push(join([broken, tail]));
    expect(got.slice(2)).toEqual([...PACKETS.slice(0, -1), packet(33, 5)]);
    expect(reader.skippedBytes).toBeGreaterThan(50);
  });

  it("survives noise", () => {
    const reader = new OggReader();
    let seed = 1;
    for (let n = 0; n < 200; n++) {
      const noise = Uint8Array.from({ length: 300 }, () => {
        seed = (seed * 1103515245 + 12345) & 0x7fffffff;
        return seed >> 16;
      });
      expect(reader.push(noise)).toEqual([]);
    }
    expect(reader.push(new OggWriter(1).page([packet(5, 5)], 0))).toContainEqual(packet(5, 5));
  });
});

/** A page with the given lacing, its checksum made by the writer's own rules. */
function repage(writer: OggWriter, body: Uint8Array, lacing: number[], flags: number): Uint8Array {
  const page = new Uint8Array(27 + lacing.length + body.length);
  const model = writer.page([new Uint8Array(1)], 0);
  page.set(model.subarray(0, 27));
  page[5] = flags;
  page[26] = lacing.length;
  page.set(lacing, 27);
  page.set(body, 27 + lacing.length);
  let crc = 0;
  for (const [i, byte] of page.entries()) {
    crc ^= (i >= 22 && i < 26 ? 0 : byte) << 24;
    for (let bit = 0; bit < 8; bit++) crc = crc < 0 ? (crc << 1) ^ 0x04c11db7 : crc << 1;
  }
  new DataView(page.buffer).setUint32(22, crc >>> 0, true);
  return page;
}
