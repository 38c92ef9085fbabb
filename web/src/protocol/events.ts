/**
 * What a server tells, in one vocabulary: read from Duologue's JSON events, or from the marks that
 * Kyutai's and MoshiRAG's servers put into their text.
 *
 * Anything unknown is no event at all; servers may add kinds of their own.
 */

import type { Source } from "../conversation/lookups";
import type { Role } from "../conversation/transcript";
import { COLOUR, type Json, type WireMessage } from "./wire";

export type ServerEvent =
  | { type: "turn"; role: Role }
  | { type: "text"; role: Role; text: string }
  | { type: "lookup"; sequence: number; question?: string }
  | { type: "answer"; sequence: number; text: string; label: string; sources: Source[] }
  | { type: "no-answer"; sequence: number; state: "empty" | "failed" | "cancelled"; reason: string }
  | { type: "told"; sequence: number }
  | { type: "warning"; code: string; detail: string }
  | { type: "reset" }
  | { type: "ended"; reason: string; detail: string };

const MAX_TEXT = 20_000;
const MAX_SOURCES = 12;

/** One of Duologue's JSON events; the names are those of the server's event log. */
export function fromJson(values: Json): ServerEvent | undefined {
  const sequence = number(values.sequence);
  switch (values.type) {
    case "turn_started":
      return { type: "turn", role: roleOf(values.role) };
    case "text_token":
      return { type: "text", role: roleOf(values.role), text: string(values.text) };
    case "retrieval_started":
      return { type: "lookup", sequence };
    case "retrieval_succeeded":
      return {
        type: "answer",
        sequence,
        text: string(values.text),
        label: string(values.label),
        sources: sourcesOf(values.sources),
      };
    case "retrieval_failed":
      return {
        type: "no-answer",
        sequence,
        state: values.outcome === "empty" ? "empty" : "failed",
        reason: values.outcome === "timed_out" ? "took too long" : string(values.reason),
      };
    case "retrieval_cancelled":
      return {
        type: "no-answer",
        sequence,
        state: "cancelled",
        reason: string(values.reason).replaceAll("_", " "),
      };
    case "reference_injected":
      return { type: "told", sequence };
    case "warning":
      return { type: "warning", code: string(values.code), detail: string(values.detail) };
    case "conversation_reset":
      return { type: "reset" };
    case "session_ended":
      return { type: "ended", reason: string(values.reason), detail: string(values.detail) };
    default:
      return undefined;
  }
}

/** Reads the text messages of published servers; it numbers their lookups itself. */
export class MarkedTextReader {
  private role: Role = "model";
  private sequence = -1;

  read(message: WireMessage): ServerEvent[] {
    if (message.kind === "reference") return this.reference(message.text);
    if (message.kind !== "text") return [];
    if (message.colour === undefined) return [{ type: "text", role: "model", text: message.text }];
    if (message.text === "[RET]") {
      this.sequence += 1;
      return [{ type: "lookup", sequence: this.sequence }];
    }
    if (message.text === "[RET_FAILED]") {
      return [{ type: "no-answer", sequence: this.sequence, state: "empty", reason: "" }];
    }
    const prefix = /^\n?(user|moshi): /.exec(message.text);
    if (prefix) {
      this.role = prefix[1] === "user" ? "user" : "model";
      const rest = message.text.slice(prefix[0].length);
      const turn: ServerEvent = { type: "turn", role: this.role };
      return rest ? [turn, { type: "text", role: this.role, text: rest }] : [turn];
    }
    const role = message.colour === COLOUR.user ? "user" : "model";
    return [{ type: "text", role, text: message.text }];
  }

  private reference(text: string): ServerEvent[] {
    if (text === "\0" || text === "") return [];
    const tab = text.indexOf("\t");
    const label = tab < 0 ? "" : text.slice(0, tab);
    const answer = (tab < 0 ? text : text.slice(tab + 1)).slice(0, MAX_TEXT);
    return [
      { type: "answer", sequence: Math.max(0, this.sequence), text: answer, label, sources: [] },
    ];
  }
}

function roleOf(value: unknown): Role {
  return value === "user" ? "user" : "model";
}

function sourcesOf(value: unknown): Source[] {
  if (!Array.isArray(value)) return [];
  return value.slice(0, MAX_SOURCES).flatMap((item: unknown) => {
    if (typeof item !== "object" || item === null) return [];
    const { title, location } = item as Json;
    return [{ title: string(title), location: string(location) }];
  });
}

export function string(value: unknown): string {
  return typeof value === "string" ? value.slice(0, MAX_TEXT) : "";
}

export function number(value: unknown): number {
  return typeof value === "number" && Number.isFinite(value) ? value : 0;
}
