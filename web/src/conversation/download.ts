/** What a visitor takes home: sound, words, and everything with its time. */

import type { Stretch } from "../audio/levels";
import type { Recording } from "../audio/recording";
import type { Lookup } from "./lookups";
import type { Script } from "./transcript";

export interface Facts {
  startedAt: Date;
  durationMs: number;
  model: string;
  voice: string;
  script: Script;
  lookups: readonly Lookup[];
  together: readonly Stretch[];
  roundTripsMs: readonly number[];
}

export function timeline(facts: Facts): string {
  const { script, lookups, together, roundTripsMs, startedAt, ...rest } = facts;
  const document = {
    format: "duologue-timeline",
    version: 1,
    startedAt: startedAt.toISOString(),
    ...rest,
    durationMs: Math.round(facts.durationMs),
    channels: { left: "model", right: "user" },
    turns: script.turns.map(({ id: _, ...turn }) => ({
      ...turn,
      startMs: Math.round(turn.startMs),
      endMs: Math.round(turn.endMs),
    })),
    lookups: lookups.map((lookup) => ({
      ...lookup,
      startMs: Math.round(lookup.startMs),
      ...(lookup.endMs === undefined ? {} : { endMs: Math.round(lookup.endMs) }),
    })),
    together: together.map(({ startMs, endMs }) => ({
      startMs: Math.round(startMs),
      endMs: Math.round(endMs),
    })),
    roundTripsMs,
  };
  return `${JSON.stringify(document, null, 2)}\n`;
}

export function soundFile(recording: Recording): Blob {
  return new Blob(recording.wav(), { type: "audio/wav" });
}

/** `duologue-2026-11-21-0930.wav`, in local time. */
export function fileName(startedAt: Date, suffix: string): string {
  const two = (value: number) => String(value).padStart(2, "0");
  const day = [startedAt.getFullYear(), two(startedAt.getMonth() + 1), two(startedAt.getDate())];
  const time = two(startedAt.getHours()) + two(startedAt.getMinutes());
  return `duologue-${day.join("-")}-${time}.${suffix}`;
}

export function save(blob: Blob, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
