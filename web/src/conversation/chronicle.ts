/**
 * Everything that is known about one conversation while it lasts: words, lookups, and who was heard.
 *
 * Events of the server and frames of sound come in with the time at which they happened; the page
 * reads the signals. It knows no socket and no audio graph.
 */

import { batch, signal } from "@preact/signals";
import type { ServerEvent } from "../protocol/events";
import { Activity } from "./activity";
import { changeLookup, type Lookup, openLookup } from "./lookups";
import { addMark, addText, beginTurn, EMPTY, type Role, type Script } from "./transcript";

export interface Warning {
  code: string;
  atMs: number;
}

export class Chronicle {
  readonly script = signal<Script>(EMPTY);
  readonly lookups = signal<readonly Lookup[]>([]);
  /** What the server has warned of last. */
  readonly warning = signal<Warning | undefined>(undefined);
  activity = new Activity();

  /** A new conversation begins. */
  clear(): void {
    this.activity = new Activity();
    batch(() => {
      this.script.value = EMPTY;
      this.lookups.value = [];
      this.warning.value = undefined;
    });
  }

  told(event: ServerEvent, nowMs: number): void {
    const { script, lookups } = this;
    switch (event.type) {
      case "turn":
        this.turn(event.role, nowMs);
        return;
      case "text":
        script.value = addText(script.value, event.role, event.text, nowMs);
        return;
      case "lookup":
        batch(() => {
          lookups.value = openLookup(lookups.value, event.sequence, nowMs, this.asked());
          script.value = addMark(script.value, event.sequence, nowMs);
        });
        return;
      case "answer": {
        const { text, label, sources, sequence } = event;
        const change = { state: "answered", endMs: nowMs, answer: text, label, sources } as const;
        lookups.value = changeLookup(lookups.value, sequence, nowMs, change);
        return;
      }
      case "no-answer": {
        const change = { state: event.state, endMs: nowMs, reason: event.reason };
        lookups.value = changeLookup(lookups.value, event.sequence, nowMs, change);
        return;
      }
      case "told":
        lookups.value = changeLookup(lookups.value, event.sequence, nowMs, { state: "told" });
        return;
      case "warning":
        this.warning.value = { code: event.code, atMs: nowMs };
        return;
      case "reset":
        batch(() => {
          script.value = EMPTY;
          lookups.value = [];
        });
    }
  }

  /** The user's words come late: their turn is dated by their voice. */
  private turn(role: Role, nowMs: number): void {
    const { activity, script } = this;
    const other = role === "user" ? "model" : "user";
    const audible = activity.isAudible(other) || activity.wasTogether(nowMs);
    const startMs = role === "user" ? activity.beganMs(role, nowMs) : nowMs;
    script.value = beginTurn(script.value, role, startMs, audible);
  }

  /** The words that a lookup which begins now is about. */
  private asked(): string {
    return this.script.value.turns.findLast((turn) => turn.role === "user")?.text.trim() ?? "";
  }
}
