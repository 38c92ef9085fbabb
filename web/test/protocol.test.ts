import { describe, expect, it } from "vitest";
import { decodePcm16, encodePcm16 } from "../src/codec/pcm";
import { modelInfo } from "../src/protocol/api";
import { fromJson, MarkedTextReader, type ServerEvent } from "../src/protocol/events";
import { chatUrl } from "../src/protocol/link";
import { decode, encodeAudio, encodeControl, encodeEvent } from "../src/protocol/wire";

const bytes = (...parts: (number | string)[]): Uint8Array =>
  Uint8Array.from(
    parts.flatMap((part) =>
      typeof part === "number" ? [part] : [...new TextEncoder().encode(part)],
    ),
  );

describe("wire", () => {
  it("reads every published kind", () => {
    expect(decode(bytes(0))).toEqual({ kind: "handshake" });
    expect(decode(bytes(0, 0, 0, 0, 0, 0, 0, 0, 0))).toEqual({ kind: "handshake" });
    expect(decode(bytes(1, 5, 6))).toEqual({ kind: "audio", data: bytes(5, 6) });
    expect(decode(bytes(2, " h\u00e9"))).toEqual({ kind: "text", text: " h\u00e9" });
    expect(decode(bytes(7, 10, "hi"))).toEqual({ kind: "text", colour: 10, text: "hi" });
    expect(decode(bytes(8, "x"))).toEqual({ kind: "reference", text: "x" });
    expect(decode(bytes(9, 4, "a\tb"))).toEqual({ kind: "reference", text: "a\tb" });
    expect(decode(bytes(4, '{"a":1}'))).toEqual({ kind: "metadata", values: { a: 1 } });
    expect(decode(bytes(5, "batch_full"))).toEqual({ kind: "error", message: "batch_full" });
    expect(decode(bytes(6))).toEqual({ kind: "ping" });
    expect(decode(bytes(10, '{"type":"stats"}'))).toEqual({
      kind: "event",
      values: { type: "stats" },
    });
  });

  it("ignores what it does not know or cannot read", () => {
    for (const message of [
      bytes(),
      bytes(3, 1),
      bytes(7),
      bytes(9),
      bytes(11),
      bytes(255, "x"),
      bytes(10, "{"),
      bytes(10, "[1]"),
      bytes(4, "null"),
      bytes(10, 255, 254),
    ])
      expect(decode(message)).toEqual({ kind: "ignored" });
  });

  it("writes what the server reads", () => {
    expect([...encodeAudio(bytes(9, 8))]).toEqual([1, 9, 8]);
    expect([...encodeControl(1)]).toEqual([3, 1]);
    expect(encodeEvent({ type: "end" })).toEqual(bytes(10, '{"type":"end"}'));
  });

  it("carries plain samples, clipped, in either direction", () => {
    const pcm = Float32Array.of(0, 0.5, -0.5, 1, -1, 2);
    const back = decodePcm16(encodePcm16(pcm));
    for (const [i, x] of [0, 0.5, -0.5, 1, -1, 1].entries())
      expect(Math.abs(back[i]! - x)).toBeLessThan(1e-4);
    expect(decodePcm16(bytes(1, 0, 7)).length).toBe(1);
  });
});

describe("events", () => {
  it("reads the server's own events", () => {
    expect(fromJson({ type: "turn_started", frame: 3, role: "user", index: 1 })).toEqual({
      type: "turn",
      role: "user",
    });
    expect(
      fromJson({
        type: "retrieval_succeeded",
        sequence: 2,
        label: "Fact book",
        text: "Lima.",
        sources: [{ type: "source", title: "Peru", location: "facts.md" }, 7],
      }),
    ).toEqual({
      type: "answer",
      sequence: 2,
      label: "Fact book",
      text: "Lima.",
      sources: [{ title: "Peru", location: "facts.md" }],
    });
    expect(fromJson({ type: "retrieval_cancelled", sequence: 1, reason: "barge_in" })).toEqual({
      type: "no-answer",
      sequence: 1,
      state: "cancelled",
      reason: "barge in",
    });
    expect(fromJson({ type: "retrieval_failed", sequence: 1, outcome: "timed_out" })).toMatchObject(
      { state: "failed", reason: "took too long" },
    );
    expect(fromJson({ type: "speculation_started" })).toBeUndefined();
    expect(fromJson({})).toBeUndefined();
  });

  it("survives values of any type", () => {
    const odd = { sequence: "x", role: 5, text: {}, label: [], sources: "no", outcome: null };
    for (const type of ["turn_started", "text_token", "retrieval_succeeded", "retrieval_failed"])
      expect(fromJson({ type, ...odd })).toBeDefined();
  });

  it("understands the marks of published servers", () => {
    const reader = new MarkedTextReader();
    const read = (message: Uint8Array): ServerEvent[] => reader.read(decode(message));
    expect(read(bytes(7, 4, "moshi: "))).toEqual([{ type: "turn", role: "model" }]);
    expect(read(bytes(7, 4, "Hello"))).toEqual([{ type: "text", role: "model", text: "Hello" }]);
    expect(read(bytes(7, 10, "\nuser: "))).toEqual([{ type: "turn", role: "user" }]);
    expect(read(bytes(7, 10, " a moshi: b"))).toEqual([
      { type: "text", role: "user", text: " a moshi: b" },
    ]);
    expect(read(bytes(7, 4, "[RET]"))).toEqual([{ type: "lookup", sequence: 0 }]);
    expect(read(bytes(9, 4, 0))).toEqual([]);
    expect(read(bytes(9, 4, "web\tLima\tand more"))).toEqual([
      { type: "answer", sequence: 0, label: "web", text: "Lima\tand more", sources: [] },
    ]);
    read(bytes(7, 4, "[RET]"));
    expect(read(bytes(7, 4, "[RET_FAILED]"))).toMatchObject([{ sequence: 1, state: "empty" }]);
    expect(read(bytes(2, " plain"))).toEqual([{ type: "text", role: "model", text: " plain" }]);
  });
});

describe("addresses", () => {
  it("stands beside the page, says what was chosen and no more", () => {
    const nothing = { audio: "opus", token: "", resume: "", voice: "", speaker: "", prompt: "" };
    const options = { ...nothing, audio: "opus", backend: "" } as const;
    expect(chatUrl("http://localhost:8998/#x", options)).toBe(
      "ws://localhost:8998/api/chat?dialect=events&audio=opus",
    );
    const url = new URL(
      chatUrl("https://example.org/talk/", { ...options, token: "a&b", resume: "r" }),
    );
    expect(url.protocol).toBe("wss:");
    expect(url.pathname).toBe("/talk/api/chat");
    expect(url.searchParams.get("token")).toBe("a&b");
    expect(url.searchParams.has("voice")).toBe(false);
  });

  it("reads what the server says about its model", () => {
    const info = modelInfo({
      models: [
        { id: "old" },
        { id: "wren", current: true, takes_prompts: true },
        { id: "lark", current: false, url: "https://lark.example" },
        { id: "trap", url: "javascript:alert(1)" },
      ],
      voices: [{ id: "slt" }, {}],
      retrieval_backends: [{ id: "facts" }],
      retrieval_backend_default: "facts",
      audio: ["opus", "pcm16"],
    });
    expect(info).toEqual({
      name: "wren",
      otherModels: [{ name: "lark", url: "https://lark.example" }],
      takesPrompts: true,
      voices: ["slt"],
      backends: ["facts"],
      defaultBackend: "facts",
      audio: ["opus", "pcm16"],
    });
    expect(modelInfo({}).name).toBe("");
  });
});
